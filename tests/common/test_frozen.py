"""Agents that act and do not learn."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib import MaskablePPO, RecurrentPPO
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.utils import get_device

from sb3_matrl import MATRL
from sb3_matrl.common.agents import SpacesVecEnv
from sb3_matrl.common.frozen import FrozenAgent
from sb3_matrl.envs import checkers_v0, matrix_game_v0
from sb3_matrl.evaluation.play import play_episodes
from tests.vec_env import toys

SMALL: dict[str, Any] = {"n_envs": 2, "n_steps": 16, "batch_size": 32, "n_epochs": 2, "br_n_epochs": 1, "seed": 1}
SMALL |= {"device": "cpu", "policy_kwargs": {"net_arch": [8]}, "learning_rate": 0.01}
OBSERVATION = checkers_v0.parallel_env().observation_space("agent_1")
ACTION = checkers_v0.parallel_env().action_space("agent_1")
LSTM = {"net_arch": [8], "lstm_hidden_size": 8}


def make(frozen: Any = None, env: Any = checkers_v0.parallel_env, policy: Any = "MlpPolicy", **kwargs: Any) -> MATRL:
    return MATRL(policy, env, frozen=frozen, **{**SMALL, **kwargs})


def trained(**kwargs: Any) -> MATRL:
    """A model whose agents may be frozen in another one."""
    return make(seed=7, **kwargs).learn(64)


def spread(algorithm: Any) -> Any:
    """With decided actions, so that two different policies differ."""
    with th.no_grad():
        for parameter in algorithm.policy.parameters():
            parameter.add_(0.5 * th.randn_like(parameter))
    return algorithm


def algorithm(cls: type = PPO, policy: str = "MlpPolicy", observation: Any = OBSERVATION, action: Any = ACTION) -> Any:
    th.manual_seed(2)
    return spread(cls(policy, SpacesVecEnv(1, observation, action), device="cpu", policy_kwargs={"net_arch": [8]}))


def observations(n: int = 40) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (n, *OBSERVATION.shape)).astype(np.float32)  # type: ignore[misc]


def third_action(observation: np.ndarray) -> np.ndarray:
    return np.full(len(observation), 3)


def sources(tmp_path: Path) -> dict[str, tuple[Any, Any]]:
    """What the constructor takes, and who predicts the same."""
    ppo, dqn, model = algorithm(), algorithm(DQN), trained()
    model.save(tmp_path / "model")
    return {
        "algorithm": (ppo, ppo.predict),
        "policy": (ppo.policy, ppo.predict),
        "off-policy": (dqn, dqn.predict),
        "tuple": ((model, "agent_0"), model.agents["agent_0"].predict),
        "path": (tmp_path / "model", model.agents["agent_1"].predict),
        "path and agent": ((str(tmp_path / "model"), "agent_0"), model.agents["agent_0"].predict),
        "function": (third_action, lambda observation, **_: (third_action(observation), None)),
    }


@pytest.mark.cases(quick=["function"], expensive=["policy"])
@pytest.mark.parametrize("kind", ["algorithm", "policy", "off-policy", "tuple", "path", "path and agent", "function"])
def test_everything_that_acts_can_be_frozen(kind: str, tmp_path: Path) -> None:
    unchanged = checkers_v0.parallel_env
    if kind in ("tuple", "path and agent"):  # agent_0 and agent_1 see alike in this version
        assert unchanged().observation_space("agent_0") == OBSERVATION
    source, predict = sources(tmp_path)[kind]
    expected, _ = predict(observations(), deterministic=True)
    model = make({"agent_1": source})
    assert list(model.agents) == ["agent_0"]
    assert model.learn(64).report.agents == ("agent_0",)  # type: ignore[union-attr]
    actions, _ = model.predict({"agent_1": observations()}, deterministic=True)
    np.testing.assert_array_equal(actions["agent_1"], expected)
    model.save(tmp_path / "saved")
    loaded = MATRL.load(tmp_path / "saved", env=unchanged, device="cpu")
    if kind == "function":
        return
    for deterministic in (True, False):
        played = []
        for one in (model, loaded):
            th.manual_seed(11)
            np.random.seed(11)
            played.append(one.predict({"agent_1": observations()}, deterministic=deterministic)[0]["agent_1"])
        np.testing.assert_array_equal(*played)
    loaded.learn(32, reset_num_timesteps=False)


@pytest.mark.e2e
def test_actions_are_sampled_during_collection_and_reach_the_env() -> None:
    ppo, played = algorithm(), []
    model = make({"agent_1": ppo}, n_envs=4)
    assert model.env is not None
    step = model.env.step
    model.env.step = lambda actions: played.append(actions["agent_1"].copy()) or step(actions)  # type: ignore[assignment, func-returns-value, method-assign]
    seen, act = [], model.team.frozen["agent_1"].act
    model.team.frozen["agent_1"].act = lambda *given: seen.append(given[0]) or act(*given)  # type: ignore[func-returns-value, method-assign]
    model.learn(4 * 16 * 12)
    chosen = np.concatenate(played)
    with th.no_grad():
        probabilities = ppo.policy.get_distribution(th.tensor(np.concatenate(seen))).distribution.probs.numpy()
    counts, expected = np.bincount(chosen, minlength=ACTION.n), probabilities.sum(axis=0)  # type: ignore[union-attr]
    deviation = np.sqrt((probabilities * (1 - probabilities)).sum(axis=0)) + 1e-9
    assert (np.abs(counts - expected) < 4.5 * deviation + 1).all(), (counts, expected)
    assert (deviation > 1).any(), "there is something to sample"


@pytest.mark.cases(expensive=["tuple"])
@pytest.mark.parametrize("kind", ["policy", "tuple"])
def test_a_frozen_policy_never_changes_whoever_goes_on_training(kind: str) -> None:
    teacher = trained(norm_obs=True)
    source = (teacher, "agent_1") if kind == "tuple" else teacher.agents["agent_1"].policy
    model = make({"agent_1": source})
    frozen: Any = model.team.frozen["agent_1"]
    before = {name: value.clone() for name, value in frozen.policy.state_dict().items()}
    expected = model.predict({"agent_1": observations()}, deterministic=True)[0]["agent_1"]
    model.learn(64)
    teacher.learn(128, reset_num_timesteps=False)
    for name, value in frozen.policy.state_dict().items():
        assert th.equal(value, before[name]), name
    np.testing.assert_array_equal(model.predict({"agent_1": observations()}, deterministic=True)[0]["agent_1"], expected)


@pytest.mark.e2e
def test_normalised_and_recurrent_agents_bring_what_they_need(tmp_path: Path) -> None:
    recurrent = {"policy": "MlpLstmPolicy", "learner_class": RecurrentPPO, "policy_kwargs": LSTM}
    teacher = trained(norm_obs=True, **recurrent)
    spread(teacher.agents["agent_1"])
    model = make({"agent_1": (teacher, "agent_1")}).learn(48)
    model.save(tmp_path / "model")
    loaded = MATRL.load(tmp_path / "model", env=checkers_v0.parallel_env, device="cpu")
    normalizer, policy = teacher.team.normalizers["agent_1"], teacher.agents["agent_1"].policy
    steps, results = observations(5)[:, None], []
    for predict in (teacher.predict, model.predict, loaded.predict):
        th.manual_seed(3)
        state, actions = None, []
        for t, row in enumerate(steps):
            action, state = predict({"agent_1": row}, state, np.array([t == 3]), deterministic=t % 2 == 0)
            actions.append(action["agent_1"][0])
        results.append(actions)
    th.manual_seed(3)
    hidden: Any = None
    by_hand = []
    for t, row in enumerate(steps):
        scaled = (row - normalizer.observations[None].mean) / np.sqrt(normalizer.observations[None].var + 1e-8)
        scaled = np.clip(scaled, -10, 10).astype(np.float32)
        action, hidden = policy.predict(scaled, hidden, np.array([t == 3]), deterministic=t % 2 == 0)
        by_hand.append(action[0])
    assert results == [by_hand] * 3


def test_recurrent_states_are_carried_from_step_to_step_of_a_rollout() -> None:
    ppo = spread(RecurrentPPO("MlpLstmPolicy", SpacesVecEnv(1, OBSERVATION, ACTION), policy_kwargs=LSTM, device="cpu"))
    frozen, state = FrozenAgent(ppo), None
    starts = np.random.default_rng(0).random((6, 3)) < 0.3
    for row, start in zip(observations(18).reshape(6, 3, -1), starts, strict=True):
        th.manual_seed(5)
        actions = frozen.act(row, start, None)
        th.manual_seed(5)
        expected, state = ppo.policy.predict(row, state, start, deterministic=False)
        np.testing.assert_array_equal(actions, expected)
    for mine, theirs in zip(frozen.state, state, strict=True):
        np.testing.assert_array_equal(mine, theirs)
        assert np.abs(mine).max() > 0


def test_a_function_must_be_given_again(tmp_path: Path) -> None:
    model = make({"agent_1": third_action}).learn(32)
    model.save(tmp_path / "model")
    loaded = MATRL.load(tmp_path / "model", env=checkers_v0.parallel_env, device="cpu")
    observation = {"agent_0": observations(1), "agent_1": observations(1)}
    with pytest.raises(ValueError, match=r"frozen agent was a function, .*pass it to load\(\) as frozen=\{\.\.\.\}"):
        loaded.predict(observation)
    with pytest.raises(ValueError, match=r"frozen: 'agent_1' was a function, .* pass it to load\(\)"):
        loaded.learn(32, reset_num_timesteps=False)
    assert set(loaded.predict({"agent_0": observations(1)})[0]) == {"agent_0"}, "the others act without it"
    whole = make({"agent_1": third_action}).learn(64)
    given = MATRL.load(tmp_path / "model", env=checkers_v0.parallel_env, device="cpu", frozen={"agent_1": third_action})
    assert given.predict(observation)[0]["agent_1"] == 3
    given.learn(32, reset_num_timesteps=False)
    for ours, theirs in zip(
        given.agents["agent_0"].policy.parameters(), whole.agents["agent_0"].policy.parameters(), strict=True
    ):
        assert th.equal(ours, theirs)


def test_load_may_replace_a_frozen_policy(tmp_path: Path) -> None:
    make({"agent_1": algorithm()}).save(tmp_path / "model")
    loaded = MATRL.load(tmp_path / "model", env=checkers_v0.parallel_env, device="cpu", frozen={"agent_1": third_action})
    assert (loaded.predict({"agent_1": observations()})[0]["agent_1"] == 3).all()


@pytest.mark.parametrize("device", ["auto", "cpu", th.device("cpu")])
def test_load_takes_the_devices_that_sb3_takes(tmp_path: Path, device: Any) -> None:
    make({"agent_1": algorithm()}).save(tmp_path / "model")
    loaded = MATRL.load(tmp_path / "model", env=checkers_v0.parallel_env, device=device)
    devices = {parameter.device for parameter in loaded.team.frozen["agent_1"].policy.parameters()}  # type: ignore[union-attr]
    assert devices == {get_device(device)} == {loaded.device}
    assert loaded.learn(32, reset_num_timesteps=False).num_timesteps == 32


# ---------------------------------------------------------------- bad input


def test_what_cannot_act_is_refused(tmp_path: Path) -> None:
    trained().save(tmp_path / "model")
    other = make(env=matrix_game_v0.parallel_env)
    cases: list[tuple[Any, type[Exception], str]] = [
        (3, TypeError, r"a frozen agent is .* not 3"),
        ((algorithm(), "agent_0"), TypeError, "a frozen agent is"),
        ((other, "agent_9"), ValueError, r"frozen: 'agent_1': the model has no such agent: agent 'agent_9' is unknown"),
        ((other, next(iter(other.agents))), ValueError, r"frozen: 'agent_1': its observation space is .*, that of the"),
        (tmp_path / "none", FileNotFoundError, "none"),
        (algorithm(observation=spaces.Box(-1, 1, (4,))), ValueError, r"frozen: 'agent_1': its observation space is .*\(4,\)"),
        (
            algorithm(DQN, action=spaces.Discrete(4, start=1)),
            ValueError,
            r"start at 0, not the action space Discrete\(4, start=1",
        ),
        (algorithm(action=spaces.Discrete(99)), ValueError, r"frozen: 'agent_1': its action space is .*Discrete\(99\)"),
    ]
    for source, error, message in cases:
        with pytest.raises(error, match=message):
            make({"agent_1": source})


# ---------------------------------------------------------------- other actions and observations


@pytest.mark.parametrize("masks", [False, True])
def test_a_function_gets_a_batch_also_where_one_env_is_played(masks: bool) -> None:
    seen: list[Any] = []

    def first(observation: Any) -> np.ndarray:
        seen.append(observation)
        return np.argmax(observation["picture"].reshape(len(observation["picture"]), -1), axis=1) % 3

    def legal(observation: Any, action_masks: Any) -> np.ndarray:
        assert action_masks.shape == (len(observation["picture"]), 3)
        return first(observation)

    entries = {"picture": spaces.Box(0, 1, (2, 4), np.float32), "action_mask": spaces.MultiBinary(3)}
    observation = spaces.Dict(entries if masks else {"picture": entries["picture"]})
    ends = {"me": (3, "truncated"), "other": (3, "truncated")}
    env = toys.ToyEnv(dict.fromkeys(ends, observation), dict.fromkeys(ends, spaces.Discrete(3)), ends)
    model = make({"other": legal if masks else first}, lambda: env, "MultiInputPolicy", n_envs=1)
    rows = [toys.draw(observation, np.random.default_rng(seed)) for seed in range(4)]
    for row in rows if masks else ():
        row["action_mask"][0] = 1
    batch = {key: np.stack([row[key] for row in rows]) for key in rows[0]}
    together = model.predict({"other": batch})[0]["other"]
    for row, action in zip(rows, together, strict=True):
        alone = model.predict({"other": row})[0]["other"]
        assert np.shape(alone) == () and alone == action
        assert all(np.array_equal(seen[-1][key], value[None]) for key, value in row.items())
    if not masks:
        assert play_episodes(model, env, 2, seed=0).n_episodes == 2


def test_half_precision_actions_are_in_their_space() -> None:
    half = spaces.Box(-1, 1, (2,), np.float16)
    ends = {"me": (3, "truncated"), "other": (3, "truncated")}
    view = spaces.Box(-1, 1, (3,), np.float32)
    model = make(None, lambda: toys.ToyEnv(dict.fromkeys(ends, view), dict.fromkeys(ends, half), ends))
    actions, _ = model.predict({agent: np.zeros(3, np.float32) for agent in ends})
    assert all(half.contains(action) for action in actions.values())
    model.learn(64)


def test_bits_and_boxes_of_a_frozen_policy_fit_the_env() -> None:
    image = spaces.Box(0, 255, (36, 36, 3), np.uint8)
    observation = {
        "learner": spaces.Discrete(3),
        "bits": spaces.Box(-1, 1, (2,)),
        "box": spaces.Box(-1, 1, (2,)),
        "image": image,
    }
    action = {"learner": spaces.Discrete(2), "bits": spaces.MultiBinary(3), "box": spaces.Box(-0.1, 0.1, (2,))}
    action |= {"image": spaces.MultiDiscrete([2, 3])}
    ends = dict.fromkeys(observation, (3, "truncated"))
    frozen = {name: algorithm(observation=observation[name], action=action[name]) for name in ("bits", "box")}
    th.manual_seed(0)
    seeing = PPO("CnnPolicy", SpacesVecEnv(1, image, action["image"]), device="cpu", policy_kwargs={"net_arch": [4]})
    model = make(frozen | {"image": seeing}, lambda: toys.ToyEnv(observation, action, ends))
    model.learn(64)  # the env asserts that all actions belong to their spaces
    assert model.num_timesteps == 64


@pytest.mark.parametrize("cls", [DQN, MaskablePPO])
def test_a_mask_without_a_legal_action_counts_as_one_that_allows_all(cls: Any) -> None:
    player = FrozenAgent(algorithm(cls))
    masks = np.zeros((40, ACTION.n), bool)  # type: ignore[attr-defined]
    masks[:10, 3] = True
    expected, _ = player.predict(observations(), deterministic=True)
    actions, _ = player.predict(observations(), deterministic=True, action_masks=masks)
    assert (actions[:10] == 3).all() and np.array_equal(actions[10:], expected[10:]) and len(set(expected)) > 1
    seen = FrozenAgent(lambda observation, action_masks: action_masks).predict(observations(), action_masks=masks)[0]
    assert np.array_equal(seen[:10], masks[:10]) and seen[10:].all()


# ---------------------------------------------------------------- learning against it


def learn_against(strategy: list[float], payoffs: list[list[float]]) -> np.ndarray:
    """The row player's final strategy against a column player of a fixed mixed strategy."""
    rng = np.random.default_rng(0)
    game = [payoffs, (-np.array(payoffs)).tolist()]
    env = partial(matrix_game_v0.parallel_env, payoffs=game)
    row, column = env().possible_agents
    frozen = {column: lambda observation: rng.choice(len(strategy), len(observation), p=strategy)}
    model = make(frozen, env, n_envs=16, n_steps=16, batch_size=256, n_epochs=10, learning_rate=0.03).learn(8 * 256)
    return model.agents[row].policy.get_distribution(th.ones(1, 1)).distribution.probs[0].detach().numpy()  # type: ignore[union-attr]


@pytest.mark.e2e
@pytest.mark.parametrize(("heads", "best"), [(0.9, 0), (0.1, 1)])
def test_matching_pennies_against_a_fixed_mixture_is_answered_best(heads: float, best: int) -> None:
    assert learn_against([heads, 1 - heads], [[1, -1], [-1, 1]])[best] > 0.9


@pytest.mark.e2e
@pytest.mark.parametrize("fixed", [1, 2])
def test_a_fixed_hand_of_rock_paper_scissors_is_beaten(fixed: int) -> None:
    payoffs = [[0, -1, 1], [1, 0, -1], [-1, 1, 0]]
    assert learn_against(np.eye(3)[fixed].tolist(), payoffs)[(fixed + 1) % 3] > 0.9
