"""Action masks: the same from observations and from infos, checked, and as sb3-contrib's distributions take them."""

from contextlib import closing
from functools import partial

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from pettingzoo.classic import connect_four_v3, tictactoe_v3
from sb3_contrib.common.maskable.distributions import make_masked_proba_distribution

from sb3_matrl.vec_env import EnvDataError, make_joint_vec_env
from sb3_matrl.vec_env.errors import DataFault
from sb3_matrl.vec_env.masks import ActionMasks, options_of
from tests.vec_env.kinds import EVERY_KIND
from tests.vec_env.reference import ReferenceCopy, random_actions
from tests.vec_env.toys import ToyEnv, plain
from tests.vec_env.turn_toys import TurnGame, Waiting, random_mask

SPACES = [
    spaces.Discrete(5),
    spaces.Discrete(4, start=3),
    spaces.MultiDiscrete([2, 3, 2]),
    spaces.MultiBinary(3),
]


def now(copy):
    return "now"


def flat(mask):
    return np.concatenate([np.ravel(part) for part in mask]) if isinstance(mask, tuple) else np.asarray(mask)


def read(space, mask, acting=True, other=None):
    """The masks of one agent in two copies, told by an info in copy 1 (and, with ``other``, in copy 0)."""
    masks = ActionMasks({"a": spaces.Discrete(2)}, {"a": space}, 2)
    infos = {1: {"a": {"action_mask": mask}}} | ({} if other is None else {0: {"a": {"action_mask": other}}})
    return masks.read({"a": np.zeros(2)}, np.array([[True], [acting]]), infos, now)["a"]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_masks_have_the_form_that_sb3_contrib_takes(space):
    """Forbidden choices have probability 0 in sb3-contrib's distribution over the same space."""
    rng = np.random.default_rng(0)
    drawn = [random_mask(space, rng) for _ in range(2)]
    masks = read(space, drawn[1], other=drawn[0])
    assert masks.dtype == bool and masks.shape == (2, options_of(space).sum())
    np.testing.assert_array_equal(masks, np.stack([flat(mask) for mask in drawn]) == 1)
    distribution = make_masked_proba_distribution(space)
    distribution.proba_distribution(th.zeros(2, masks.shape[1]))
    distribution.apply_masking(masks)
    parts = getattr(distribution, "distributions", None) or [distribution.distribution]
    probabilities = np.concatenate([part.probs.numpy() for part in parts], axis=1)
    np.testing.assert_array_equal(probabilities > 1e-6, masks)


@pytest.mark.parametrize("given", [[0, 1, 1], (0, 1, 1), np.array([0.0, 1.0, 1.0]), np.array([[False, True, True]])])
def test_arrays_lists_and_tuples_of_zeros_and_ones_are_masks(given):
    np.testing.assert_array_equal(read(spaces.Discrete(3), given), [[True] * 3, [False, True, True]])


MULTI = spaces.MultiDiscrete([2, 2])


@pytest.mark.parametrize(
    ("space", "mask", "message"),
    [
        (SPACES[0], [1, 1], r"now has 2 values; expected 5 values, 1 for legal and 0 for illegal: one per choice in Disc"),
        (SPACES[0], None, r"now has 1 values; expected 5 values"),
        (SPACES[0], (), r"now is \(\), no array; expected 5 values"),
        (MULTI, [[1], [1, 1, 1]], r"now is \[\[1\], \[1, 1, 1\]\], no array; expected 4 values"),
        (MULTI, (np.ones(2), np.ones(3)), r"now has 5 values; expected 4 values"),
        (SPACES[0], [0, -np.inf, 0, 0, 0], r"now holds \[0.0, -inf, 0.0, 0.0, 0.0\]; expected 5 values"),
        (SPACES[0], [0, np.nan, 0, 0, 1], r"now holds \[0.0, nan, 0.0, 0.0, 1.0\]; expected 5 values"),
        (
            SPACES[0],
            [0] * 5,
            r"now leaves no legal choice; .* at least one in Discrete\(5\). Allow one \(for example a pass\)",
        ),
        (MULTI, [1, 1, 0, 0], r"now leaves no legal choice for part 1 of the action"),
        (SPACES[3], [1, 0, 0, 0, 1, 1], r"now leaves no legal choice for part 1 of the action"),
        (spaces.Box(-1, 1, (2,)), [1, 1], r"now has 2 values; expected no mask, because actions of Box.* cannot be masked"),
    ],
)
def test_wrong_masks_are_named(space, mask, message):
    with pytest.raises(DataFault, match=rf"^env copy 1, agent 'a': the action mask {message}"):
        read(space, mask)
    if isinstance(space, spaces.Box):
        return
    assert read(space, mask, acting=False).all(), "nobody looks at it while the agent waits"


def observing(space, size, n_agents=1):
    """ActionMasks of agents whose observations have a mask of that size."""
    entry = spaces.Dict({"x": spaces.Discrete(2), "action_mask": spaces.Box(-9, 9, (size,), np.float32)})
    return ActionMasks({"a": entry}, {"a": space}, 2)


def test_masks_in_observations_are_checked_too():
    masks = observing(MULTI, 4)

    def read_rows(*rows, acting=True):
        return masks.read({"a": {"action_mask": np.array(rows, np.float32)}}, np.array([[True], [acting]]), {}, now)

    np.testing.assert_array_equal(read_rows([1, 0, 1, 1], [0, 1, 0, 1])["a"], [[1, 0, 1, 1], [0, 1, 0, 1]])
    with pytest.raises(DataFault, match=r"env copy 1, agent 'a': the action mask now leaves no legal choice for part 0"):
        read_rows([1, 1, 1, 1], [0, 0, 1, 1])
    with pytest.raises(DataFault, match=r"env copy 1, agent 'a': the action mask now holds \[2.0, 1.0, 1.0, 1.0\]"):
        read_rows([1, 1, 1, 1], [2, 1, 1, 1])
    assert read_rows([1, 1, 1, 1], [5, 0, 0, 0], acting=False)["a"].all()


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (spaces.Discrete(3), r"agent 'a': its observation's entry 'action_mask' has 4 values, expected 3 values"),
        (spaces.Box(-1, 1, (4,)), r"has 4 values, expected no mask, .* or give the entry another name"),
    ],
)
def test_a_mask_in_the_observation_space_must_fit_the_action_space(space, message):
    with pytest.raises(ValueError, match=message):
        observing(space, 4)


def test_the_observation_counts_before_the_info():
    masks = observing(spaces.Discrete(2), 2)
    infos = {0: {"a": {"action_mask": [0, 0]}, "stranger": {"action_mask": [1]}}}
    read = masks.read({"a": {"action_mask": np.array([[1, 0], [1, 1]])}}, np.ones((2, 1), bool), infos, now)
    assert list(read) == ["a"] and read["a"].tolist() == [[True, False], [True, True]] and not masks.snapshot()


def test_everything_is_legal_where_an_info_that_had_a_mask_lacks_it():
    masks = ActionMasks({"a": spaces.Discrete(2)}, {"a": spaces.Discrete(2)}, 2)

    def read_infos(infos):
        return masks.read({}, np.ones((2, 1), bool), infos, now)

    assert read_infos({0: {"a": {"time": 3}}}) == {} and read_infos({}) == {}
    mask = {"a": {"action_mask": [0, 1]}}
    assert read_infos({0: mask})["a"].tolist() == [[False, True], [True, True]]
    assert read_infos({1: mask})["a"].tolist() == [[True, True], [False, True]]
    assert read_infos({0: {"a": {"time": 3}}})["a"].all()
    assert read_infos({0: mask, 1: mask})["a"].tolist() == [[False, True]] * 2
    assert read_infos({})["a"].all() and read_infos({})["a"].shape == (2, 2)


def expected_masks(copy, observations, infos, agent, space):
    """From what a single env gave, for one agent: a list of 0 and 1."""
    if agent not in copy.acting():
        return [1] * options_of(space).sum()
    observation = observations[agent]
    given = observation if isinstance(observation, dict) else infos.get(agent, {})
    return flat(given.get("action_mask", np.ones(options_of(space).sum()))).tolist()


@pytest.mark.e2e
@EVERY_KIND
def test_masks_of_all_kinds_are_those_of_single_envs(kind):
    """Agents that wait, come late and leave early; masks in observations, in infos (not in all), and none."""
    n_steps = 40
    with closing(make_joint_vec_env(Waiting, 3, kind)) as venv:
        copies = [ReferenceCopy(Waiting()) for _ in range(3)]
        situations = [copy.reset(seed) for copy, seed in zip(copies, venv.seed(5), strict=True)]
        venv.reset()
        rng, told, legal = np.random.default_rng(0), False, []
        for _ in range(n_steps):
            told = told or any("action_mask" in infos.get("told", {}) for _, infos in situations)
            assert list(venv.action_masks) == ["seen", *["told"] * told, "late"]
            for agent, masks in venv.action_masks.items():
                spaced = zip(copies, situations, strict=True)
                expected = [expected_masks(copy, *now, agent, venv.action_spaces[agent]) for copy, now in spaced]
                np.testing.assert_array_equal(masks, expected)
                legal.append(masks.mean())
            actions = random_actions(venv.action_spaces, 3, rng)
            outcomes = [copy.step({agent: actions[agent][k] for agent in actions}) for k, copy in enumerate(copies)]
            situations = [(out.observations, out.reset_infos if out.done else out.infos) for out in outcomes]
            venv.step(actions)
        assert told and min(legal) < 1.0


def single_games(make, seeds):
    envs = [make() for _ in seeds]
    for env, seed in zip(envs, seeds, strict=True):
        env.reset(seed=seed)
    return envs


@EVERY_KIND
@pytest.mark.parametrize("make", [tictactoe_v3.env, connect_four_v3.env])
def test_masks_of_real_games(make, kind):
    """The player to move has PettingZoo's mask, and every move within it is accepted till the game is over."""
    with closing(make_joint_vec_env(make, 2, kind)) as venv:
        envs = single_games(make, venv.seed(0))
        venv.reset()
        rng, illegal = np.random.default_rng(0), 0
        for _ in range(45):
            for copy, env in enumerate(envs):
                player = env.agent_selection
                for agent, masks in venv.action_masks.items():
                    wanted = env.observe(player)["action_mask"] if agent == player else np.ones_like(masks[copy])
                    np.testing.assert_array_equal(masks[copy], wanted)
                    illegal += int((~masks[copy]).sum())
            actions = {a: np.array([rng.choice(np.flatnonzero(row)) for row in m]) for a, m in venv.action_masks.items()}
            for copy, env in enumerate(envs):
                env.step(actions[env.agent_selection][copy])
                if any(env.terminations.values()):
                    env.reset()
            venv.step(actions)
            assert not venv.last_step.rewards.sum(axis=1).any(), "an illegal move costs -1 and brings the other nothing"
        assert illegal > 0


def test_the_last_masks_told_are_kept_by_the_caller():
    """Arrays are fresh in every step."""
    venv = make_joint_vec_env(TurnGame, 2, seed=0)
    venv.reset()
    kept, rng = [], np.random.default_rng(0)
    for _ in range(20):
        kept += [(mask, mask.copy()) for mask in venv.action_masks.values()]
        venv.step(random_actions(venv.action_spaces, 2, rng))
    assert len(kept) > 20
    for mask, as_it_was in kept:
        np.testing.assert_array_equal(mask, as_it_was)


@pytest.mark.parametrize("kind", ["auto", "dummy"])
def test_envs_without_masks_have_none(kind):
    venv = make_joint_vec_env("checkers_v0", 2, kind)
    venv.reset()
    venv.step(random_actions(venv.action_spaces, 2, np.random.default_rng(0)))
    assert venv.action_masks == venv.last_step.action_masks == {} and "action_masks" not in venv.snapshot()


class Stuck(ToyEnv):
    """``plain`` whose second step leaves ``ant`` nothing to do."""

    def __init__(self):
        model = plain()
        super().__init__(model._observation_spaces, model._action_spaces, {"zebra": (9, "both"), "ant": (9, "both")})

    def step(self, actions):
        return *super().step(actions)[:4], {"ant": {"action_mask": [int(self.time != 2)] * 4}}


@EVERY_KIND
def test_a_mask_without_a_legal_action_ends_the_run_in_one_line(kind):
    with closing(make_joint_vec_env(Stuck, 2, kind, seed=4)) as venv:
        venv.reset()
        venv.step({"zebra": [0, 1], "ant": [2, 3]})
        with pytest.raises(EnvDataError) as caught:
            venv.step({"zebra": [0, 1], "ant": [2, 3]})
    assert str(caught.value) == (
        "env copy 0, agent 'ant': the action mask after step 2 leaves no legal choice; an agent that is to act needs at least "
        "one in Discrete(4). Allow one (for example a pass) or end the agent's episode. It happened in step 2 of episode 1 "
        "since seed 4, with actions {'zebra': 0, 'ant': 2}"
    )


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ([], "snapshot of the action masks must be a dict of agents, got a list"),
        ({"b": np.ones((2, 2), bool)}, "agent 'b' has no masks in infos; was it taken from another environment"),
        (
            {"a": np.ones((2, 3), bool)},
            r"'a' must be an array of shape \(2, 2\) and dtype bool, got shape \(2, 3\)",
        ),
    ],
)
def test_saved_masks_are_checked(masks, message):
    with pytest.raises(ValueError, match=message):
        ActionMasks({"a": spaces.Discrete(2)}, {"a": spaces.Discrete(2)}, 2).restore(masks)


def test_wrong_saved_masks_do_not_go_unseen():
    make = partial(make_joint_vec_env, "checkers_v0", 2)
    venv = make()
    venv.reset()
    snapshot = {**venv.snapshot(), "action_masks": {"agent_0": np.ones((2, 9), bool)}}
    with pytest.raises(ValueError, match=r"snapshot of the action masks: 'agent_0' must be an array of shape \(2, 5\)"):
        make().restore(snapshot)
