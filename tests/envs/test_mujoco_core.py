"""The batched core of the MuJoCo robots against gymnasium-robotics' own environments, bit for bit."""

import warnings

import numpy as np
import pytest

from sb3_matrl import MATRL
from sb3_matrl.envs import make
from sb3_matrl.envs.mamujoco import MultiAgentMujoco
from sb3_matrl.envs.mujoco_core import MujocoCore
from sb3_matrl.vec_env import make_joint_vec_env
from tests.envs.test_mamujoco import TASKS
from tests.envs.test_snapshot import through_json
from tests.matrl.test_exact_resume import assert_same, build

IDS = ["ant_2x4", "ant_2x4d", "ant_4x2", "halfcheetah_2x3", "halfcheetah_6x1", "hopper_3x1", "swimmer_2x1", "walker2d_2x3"]
LIMIT = 60
OPTIONS = [
    ("hopper_3x1", {"agent_obsk": None}),
    ("hopper_3x1", {"terminate_when_unhealthy": False, "healthy_state_range": (-5.0, 5.0), "healthy_reward": 3}),
    ("hopper_3x1", {"exclude_current_positions_from_observation": False, "agent_obsk": 0}),
    ("walker2d_2x3", {"agent_obsk": 2, "healthy_angle_range": (-0.1, 0.1), "forward_reward_weight": 0.3}),
    ("walker2d_2x3", {"agent_obsk": None}),
    ("halfcheetah_6x1", {"local_categories": [["qvel"], ["qpos", "qvel"]], "global_categories": ("qvel",)}),
    ("swimmer_2x1", {"agent_obsk": 0, "ctrl_cost_weight": 0.7, "reset_noise_scale": 0.0}),
    ("ant_4x2", {"agent_obsk": 0, "main_body": "aux_1", "contact_cost_weight": 0.1}),
    ("ant_2x4", {"agent_obsk": 2, "local_categories": [["qpos"], ["cfrc_ext", "qvel"], ["cfrc_ext"]]}),
    ("ant_2x4", {"agent_obsk": None, "contact_force_range": (-0.02, 0.5), "healthy_z_range": (0.4, 0.6)}),
    ("ant_2x4", {"agent_obsk": None, "include_cfrc_ext_in_observation": False}),
]


def library_env(env_id, **options):
    """gymnasium-robotics' environment, with gymnasium's wrapper for the time limit."""
    from gymnasium_robotics import mamujoco_v1

    robot, _, conf = env_id.partition("_")
    return mamujoco_v1.parallel_env(TASKS[robot], conf, **{"max_episode_steps": LIMIT, **options})


def core_of(env_id, num_envs, **options):
    return make(env_id, **{"max_episode_steps": LIMIT, **options}).make_core(num_envs)


def joint_actions(core, rng, scale=1.0):
    """Random actions, which may exceed the bounds."""
    space = next(iter(core.action_spaces.values()))
    shape = (core.num_envs, len(core.possible_agents), *space.shape)
    return (scale * rng.uniform(space.low.min(), space.high.max(), shape)).astype(np.float32)


def assert_observes(core, references, observations):
    """
    :param observations: per copy, what the library's environment returned
    """
    seen, states = core.observations(), core.state()
    for copy, (reference, own) in enumerate(zip(references, observations, strict=True)):
        assert states[copy].tobytes() == reference.state().astype(np.float32).tobytes()
        for agent, observation in own.items():
            assert core.observation_spaces[agent].contains(seen[agent][copy])
            assert seen[agent][copy].tobytes() == observation.astype(np.float32).tobytes()


def follow(core, references, n_steps, scale=1.0):
    """
    Step both with the same actions and compare all that they return; copies whose episodes end are reset.

    :return: number of episodes that ended by the rules, and by the time limit
    """
    rng, agents = np.random.default_rng(1), core.possible_agents
    core.seed([10 + copy for copy in range(len(references))])
    core.reset()
    starts = [reference.reset(seed=10 + copy) for copy, reference in enumerate(references)]
    observations = [start[0] for start in starts]
    assert_observes(core, references, observations)
    np.testing.assert_equal(core.start_infos(np.ones(len(references), bool)), dict(enumerate(start[1] for start in starts)))
    ends = np.zeros(2, dtype=int)
    for _ in range(n_steps):
        actions = joint_actions(core, rng, scale)
        step = core.step(actions)
        for copy, reference in enumerate(references):
            acts = {agent: actions[copy, column] for column, agent in enumerate(agents)}
            observations[copy], rewards, terminated, truncated, infos = reference.step(acts)
            assert step.rewards[copy].tolist() == list(rewards.values())
            assert step.terminated[copy].tolist() == list(terminated.values())
            assert step.truncated[copy].tolist() == list(truncated.values())
            np.testing.assert_equal(step.infos[copy], infos)
        assert_observes(core, references, observations)
        over = (step.terminated | step.truncated).any(axis=1)
        assert np.array_equal(core.alive, np.repeat(~over[:, None], len(agents), axis=1))
        ends += [step.terminated.any(axis=1).sum(), (step.truncated & ~step.terminated).any(axis=1).sum()]
        if over.any():
            core.reset(over)
            for copy in np.flatnonzero(over).tolist():
                observations[copy], infos = references[copy].reset()
                np.testing.assert_equal(core.start_infos(over)[copy], infos)
            assert_observes(core, references, observations)
    return ends.tolist()


@pytest.mark.cases(e2e=["ant_2x4", "swimmer_2x1", "walker2d_2x3"], rest="expensive")
@pytest.mark.parametrize("env_id", IDS)
def test_core_follows_the_librarys_environments(env_id):
    references = [library_env(env_id) for _ in range(3)]
    terminated, truncated = follow(core_of(env_id, 3), references, 220)
    can_fall = env_id.split("_")[0] in ("ant", "hopper", "walker2d")
    assert (terminated > 0) == can_fall and (truncated > 0 or env_id.startswith(("hopper", "walker2d")))


@pytest.mark.e2e
@pytest.mark.parametrize("env_id", ["manysegmentant_3x1", "manysegmentswimmer_5x3"])
def test_core_follows_the_librarys_robots_that_grow(env_id, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # the library's own models make MuJoCo write a file of warnings
    references = [library_env(env_id) for _ in range(2)]
    assert sum(follow(core_of(env_id, 2), references, 130)) >= 4


@pytest.mark.e2e
@pytest.mark.parametrize(("env_id", "options"), OPTIONS)
def test_core_follows_the_library_with_other_options(env_id, options):
    assert sum(follow(core_of(env_id, 2, **options), [library_env(env_id, **options) for _ in range(2)], 70)) >= 2


def test_actions_beyond_the_bounds_are_limited_by_mujoco_and_cost_as_in_the_library():
    assert sum(follow(core_of("halfcheetah_2x3", 2), [library_env("halfcheetah_2x3") for _ in range(2)], 70, scale=4.0)) == 2


def test_unstable_physics_starts_again_with_mujocos_warning_as_in_the_library(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    library, core = library_env("hopper_3x1", reset_noise_scale=1e12), core_of("hopper_3x1", 1, reset_noise_scale=1e12)
    assert follow(core, [library], 40)[0] > 0
    warned = (tmp_path / "MUJOCO_LOG.TXT").read_text(encoding="utf-8")
    assert warned.count("The simulation is unstable") >= 4 and warned.count("The simulation is unstable") % 2 == 0


def twins(env_id, n_envs=3, kinds=("batched", "dummy"), **options):
    """Vectorised environments of two kinds, with the same seed."""
    options = {"max_episode_steps": LIMIT, **options}
    return [make_joint_vec_env(env_id, n_envs, vec_env=kind, seed=4, env_kwargs=options) for kind in kinds]


def step_both(one, other, n_steps, seed):
    """Step both with the same actions, compare all that is returned, and count the ends of episodes."""
    rng, ends = np.random.default_rng(seed), 0
    for _ in range(n_steps):
        shapes = {agent: (one.num_envs, *space.shape) for agent, space in one.action_spaces.items()}
        actions = {agent: rng.uniform(-1, 1, shape).astype(np.float32) for agent, shape in shapes.items()}
        for venv in (one, other):
            venv.step(actions)
        ours, theirs = one.last_step, other.last_step
        for name in ("rewards", "terminated", "truncated", "alive", "acting", "dones"):
            assert np.array_equal(getattr(ours, name), getattr(theirs, name))
        for name in ("observations", "final_observations"):
            np.testing.assert_equal(getattr(ours, name), getattr(theirs, name))
        for info in (*ours.infos, *theirs.infos):
            info.get("episode", {}).pop("t", None)
        np.testing.assert_equal(ours.infos, theirs.infos)
        over = np.flatnonzero(ours.dones).tolist()
        assert [one.reset_infos[copy] for copy in over] == [other.reset_infos[copy] for copy in over]
        ends += len(over)
    return ends


@pytest.mark.e2e
@pytest.mark.parametrize("env_id", ["hopper_3x1", "ant_4x2"])
def test_vectorised_environments_of_both_kinds_return_the_same(env_id):
    batched, separate = twins(env_id)
    np.testing.assert_equal(batched.reset(), separate.reset())
    np.testing.assert_equal(batched.reset_infos, separate.reset_infos)
    assert step_both(batched, separate, 130, seed=0) >= 6
    assert batched.backend.layout == "batched" and separate.backend.layout == "separate"
    assert batched.last_step.infos[1]["agents"]["agent_0"].keys() >= {"x_position", "reward_forward"}


@pytest.mark.e2e
@pytest.mark.parametrize("env_id", ["hopper_3x1", "ant_2x4", "swimmer_2x1"])
def test_restored_core_continues_bit_for_bit_across_episodes(env_id):
    venv, fresh = twins(env_id, kinds=("batched", "batched"), max_episode_steps=25)
    fresh.seed(99)
    for one in (venv, fresh):
        one.reset()
    step_both(venv, venv, 10, seed=0)  # each action twice
    fresh.restore(through_json(venv.snapshot()))
    np.testing.assert_equal(fresh.backend.core.observations(), venv.backend.core.observations())
    assert step_both(venv, fresh, 80, seed=1) >= 6
    np.testing.assert_equal(fresh.snapshot()["envs"], venv.snapshot()["envs"])


@pytest.mark.e2e
@pytest.mark.parametrize("env_id", ["hopper_3x1", "ant_2x4"])
def test_core_continues_from_separately_stepped_copies(env_id):
    batched, separate = twins(env_id)
    for one in (batched, separate):
        one.reset()
    step_both(separate, separate, 12, seed=0)
    batched.restore(through_json(separate.snapshot()))
    assert step_both(batched, separate, 130, seed=1) >= 6


@pytest.mark.e2e
def test_models_that_were_saved_before_there_was_a_core_resume(tmp_path, monkeypatch):
    options = {"env": "hopper_3x1", "n_envs": 2, "n_steps": 6, "batch_size": 12, "br_n_epochs": 1, "n_epochs": 1}
    with monkeypatch.context() as before:
        before.setattr(MultiAgentMujoco, "core_obstacle", "there were no cores")
        whole = build(**options).learn(12)
        assert whole.env.backend.layout == "separate"
        whole.save(tmp_path / "half")
        whole.learn(24, reset_num_timesteps=False)
    resumed = MATRL.load(tmp_path / "half", env="hopper_3x1", device="cpu")
    assert resumed.env.backend.layout == "batched"
    assert_same(resumed.learn(24, reset_num_timesteps=False), whole)


def test_snapshots_that_do_not_fit_are_refused_and_change_nothing():
    core, untouched = (core_of("hopper_3x1", 2) for _ in range(2))
    for one in (core, untouched):
        one.seed([1, 2])
        one.reset()
    good = core.snapshot()
    one_dead = good["alive"].copy()
    one_dead[0, 1] = False
    for spoilt, message in [
        ({"physics": good["physics"][1:]}, "snapshot of hopper_3x1: 'physics' must be an array of shape"),
        ({"derived": {}}, "'derived' lacks"),
        ({"derived": {**good["derived"], "xpos": np.zeros(3)}}, "'xpos' must be an array of shape"),
        ({"generators": [{}, {}]}, r"'generators'\[0\] must be the state of a PCG64"),
        ({"generators": good["generators"][:1]}, "'generators' must have 2 entries"),
        ({"elapsed_steps": np.zeros(2)}, "'elapsed_steps' must be an array of shape"),
        ({"elapsed_steps": np.array([0, -1])}, "'elapsed_steps' must be integers from 0 to .*, got -1"),
        ({"elapsed_steps": np.array([2**63 - 1, 0])}, "'elapsed_steps' must be integers from 0 to"),
        ({"alive": one_dead}, "'alive' must be equal for the agents of a copy"),
        ({"extra": 1}, "has unknown"),
    ]:
        with pytest.raises(ValueError, match=message):
            core.restore({**good, **spoilt})
    single = make("hopper_3x1")
    single.reset(seed=0)
    fits = single.snapshot()
    for steps in (-1, 2**63):
        with pytest.raises(ValueError, match="env copy 1, snapshot of hopper_3x1: 'elapsed_steps' must be"):
            core.restore_separate([fits, {**fits, "elapsed_steps": steps}])
    np.testing.assert_equal(core.snapshot(), untouched.snapshot())


def test_seeds_decide_the_starts_and_none_continues():
    one, other = core_of("walker2d_2x3", 2), core_of("walker2d_2x3", 2)
    one.reset()
    other.reset()
    assert not np.array_equal(one.state(), other.state())
    for core in (one, other):
        core.seed([5, 5])
        core.reset()
    assert np.array_equal(one.state(), other.state()) and np.array_equal(one.state()[0], one.state()[1])
    one.seed([None, 7])
    one.reset()
    other.reset()
    assert np.array_equal(one.state()[0], other.state()[0]) and not np.array_equal(one.state()[1], other.state()[1])


def test_invalid_actions_are_refused_and_change_nothing():
    core = core_of("hopper_3x1", 2)
    core.reset()
    before, actions = core.snapshot(), np.zeros((2, 3, 1), np.float32)
    actions[1, 2] = np.nan
    with pytest.raises(ValueError, match=r"env copy 1, agent 'agent_2': action \[nan\] is not in Box\(-1.0, 1.0"):
        core.step(actions)
    with pytest.raises(ValueError, match=r"have shape \(2, 3\), expected \(num_envs, n_agents, joints\) = \(2, 3, 1\)"):
        core.step(np.zeros((2, 3)))
    np.testing.assert_equal(core.snapshot(), before)
    (batched,) = twins("hopper_3x1", 2, kinds=("batched",))
    batched.reset()
    with pytest.raises(ValueError, match="env copy 1, agent 'agent_2': action"):
        batched.step({agent: actions[:, column] for column, agent in enumerate(batched.agents)})


def test_copies_whose_episodes_are_over_rest():
    core = core_of("swimmer_2x1", 2, max_episode_steps=3)
    core.reset()
    rng = np.random.default_rng(0)
    core.step(joint_actions(core, rng))
    core.reset(np.array([True, False]))
    for _ in range(2):
        step = core.step(joint_actions(core, rng))
    assert step.truncated.tolist() == [[False, False], [True, True]] and core.alive.tolist() == [[True, True], [False, False]]
    resting = core.state()[1]
    actions = joint_actions(core, rng)
    actions[1] = np.nan
    step = core.step(actions)
    assert step.truncated.tolist() == [[True, True], [False, False]] and step.infos.keys() == {0}
    assert step.rewards[1].tolist() == [0, 0] and np.array_equal(core.state()[1], resting)


def test_arrays_that_a_core_returned_stay_as_they_are():
    core = core_of("ant_2x4", 2)
    core.reset()
    rng = np.random.default_rng(0)
    step = core.step(joint_actions(core, rng))
    returned = [*core.observations().values(), core.state(), step.rewards, core.alive]
    copies = [array.copy() for array in returned]
    core.step(joint_actions(core, rng))
    core.reset()
    assert all(np.array_equal(array, copy) for array, copy in zip(returned, copies, strict=True))
    assert all(array.flags.c_contiguous for array in returned[:3])


def custom_factorisation(parts, **changed):
    """The cheetah's joints by name, in other parts than the library's."""
    from gymnasium_robotics.envs.multiagent_mujoco.obsk import get_parts_and_edges

    ((*joints,),), edges, free = get_parts_and_edges("HalfCheetah", None)
    named = {joint.label: joint for joint in joints}
    for name, value in changed.items():
        setattr(named["bfoot"], name, value)
    return {"partition": [tuple(named[name] for name in part) for part in parts], "edges": edges, "globals": free}


def test_core_follows_the_library_with_a_custom_factorisation():
    parts = [("ffoot", "bthigh"), ("bshin", "fshin"), ("fthigh", "bfoot")]
    options = {"agent_factorization": custom_factorisation(parts)}
    references = [library_env("halfcheetah_2x3", **options) for _ in range(2)]
    assert sum(follow(core_of("halfcheetah_2x3", 2, **options), references, 70)) == 2


EVERY_JOINT = [("bthigh", "bshin", "bfoot"), ("fthigh", "fshin", "ffoot")]


class OtherRobot(MultiAgentMujoco):
    """Subclass that could have rules of its own."""


@pytest.mark.parametrize(
    ("make_env", "reason"),
    [
        (lambda: make("humanoid_9|8"), "the rules of the humanoid are not batched"),
        (lambda: make("pusher_3p"), "the rules of the pusher are not batched"),
        (lambda: OtherRobot("hopper", "3x1", None, None, {}, {}), "OtherRobot may have other rules than MultiAgentMujoco"),
        (
            lambda: make(
                "halfcheetah_2x3",
                agent_factorization=custom_factorisation([("bthigh",), ("bshin", "bfoot", "fthigh", "fshin", "ffoot")]),
            ),
            "its agents have different numbers of joints",
        ),
        (
            lambda: make("halfcheetah_2x3", agent_factorization=custom_factorisation([("bthigh",), ("bfoot",)])),
            "its factorisation does not give every joint to exactly one agent",
        ),
        (
            lambda: make(
                "halfcheetah_2x3",
                agent_factorization=custom_factorisation(EVERY_JOINT, extra_obs={"qvel": lambda data: data.qvel[:2] ** 2}),
            ),
            "its factorisation computes observations with functions of its own",
        ),
    ],
)
def test_environments_without_a_core_are_stepped_one_by_one(make_env, reason):
    env = make_env()
    assert env.core_obstacle == reason
    auto = make_joint_vec_env(make_env, n_envs=2)
    assert auto.backend.layout == "separate"
    auto.reset()
    with pytest.raises(ValueError, match="vec_env='batched' needs an env with batched rules") as caught:
        make_joint_vec_env(make_env, n_envs=2, vec_env="batched")
    assert reason in str(caught.value) and "use vec_env='auto', 'dummy'" in str(caught.value)
    if type(env) is MultiAgentMujoco:
        with pytest.raises(ValueError, match=f"^{reason}$"):
            env.make_core(2)


def test_a_window_shows_the_librarys_environment(monkeypatch):
    monkeypatch.setenv("DISPLAY", ":99")
    assert make("hopper_3x1", render_mode="human").core_obstacle == "render_mode 'human' shows one robot in a window"


@pytest.mark.cases(e2e=["rgb_array"], rest="expensive")
@pytest.mark.parametrize("mode", ["rgb_array", "depth_array"])
def test_pictures_of_copy_0_are_those_of_the_separate_copy(mode, monkeypatch):
    for name in ("MUJOCO_GL", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    batched, separate = twins("hopper_3x1", 2, render_mode=mode, width=96, height=64)
    for venv in (batched, separate):
        venv.reset()
    standing = batched.render()
    assert np.array_equal(standing, separate.render()) and standing.shape[:2] == (64, 96) and standing.std() > 0
    step_both(batched, separate, 12, seed=0)
    assert np.array_equal(batched.render(), separate.render()) and not np.array_equal(batched.render(), standing)
    with pytest.raises(ValueError, match="mode 'ansi' is unknown"):
        batched.render("ansi")
    for venv in (batched, separate):
        venv.close()
        venv.close()


def test_making_a_core_writes_and_prints_nothing(monkeypatch, tmp_path, capfd):
    monkeypatch.chdir(tmp_path)
    core = core_of("manysegmentswimmer_2x2", 2)
    core.reset()
    assert isinstance(core, MujocoCore) and isinstance(core.replicate(5), MujocoCore) and core.replicate(5).num_envs == 5
    assert list(tmp_path.iterdir()) == [] and capfd.readouterr() == ("", "")
    with pytest.raises(ValueError, match="num_envs must be an integer of at least 1, got 0"):
        core.replicate(0)


def test_vectorised_environments_give_no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (venv,) = twins("ant_2x4", 2, kinds=("auto",))
        venv.reset()
        step_both(venv, venv, 5, seed=0)
    assert venv.backend.layout == "batched"
