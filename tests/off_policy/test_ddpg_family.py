"""Training, resuming, files, acting and errors of IDDPG, MADDPG and COMIX."""

from __future__ import annotations

import inspect
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import DDPG, DQN
from stable_baselines3.common.noise import ActionNoise, NormalActionNoise, OrnsteinUhlenbeckActionNoise

from sb3_matrl.common.finite import NonFiniteError
from sb3_matrl.common.frozen import FrozenAgent
from sb3_matrl.common.loading import load_model
from sb3_matrl.off_policy.comix import COMIX
from sb3_matrl.off_policy.iddpg import IDDPG
from sb3_matrl.off_policy.maddpg import MADDPG
from sb3_matrl.vec_env import make_joint_vec_env
from tests.matrl.test_exact_resume import flat
from tests.off_policy.continuous_trio import SETTINGS, ContinuousTrio, MixedTrio
from tests.off_policy.small_models import Save, assert_same, equal
from tests.vec_env.toys import ToyEnv
from tests.worlds.continuous_games import ContinuousGame

CASES = [(IDDPG, ContinuousTrio), (MADDPG, MixedTrio), (COMIX, ContinuousTrio)]
NOISES: dict[Any, Any] = {
    IDDPG: {"a": OrnsteinUhlenbeckActionNoise(np.zeros(2), np.full(2, 0.4)), "b": 0.2, "c": None},
    MADDPG: {"a": OrnsteinUhlenbeckActionNoise(np.zeros(2), np.full(2, 0.4)), "b": None, "c": None},
    COMIX: {"a": NormalActionNoise(np.zeros(2), np.full(2, 0.1)), "b": 0.2, "c": 0.3},
}
N_STEPS = 180


def build(algorithm: Any, env: Any, **settings: Any) -> Any:
    given = {**SETTINGS, "buffer_size": 120, "batch_size": 10, "train_freq": 4, "gradient_steps": 2, **settings}
    given |= {"cem_samples": 8, "cem_elites": 3} if algorithm is COMIX else {}
    return algorithm(env=env, **{"action_noise": NOISES[algorithm], **given})


@cache
def never_stopped(algorithm: Any, env: Any) -> Any:
    return build(algorithm, env).learn(N_STEPS)


def assert_same_training(model: Any, other: Any) -> None:
    for one in (model, other):
        one.exploration_rate = None  # which these algorithms have not
    assert_same(model, other)
    for agent, memories in model.noise.state().items():
        for memory, theirs in zip(memories, other.noise.state()[agent], strict=True):
            assert np.array_equal(memory["noise_prev"], theirs["noise_prev"])


@pytest.mark.cases(e2e=["step-MADDPG-MixedTrio", "end-COMIX-ContinuousTrio"], rest="expensive")
@pytest.mark.parametrize(("algorithm", "env"), CASES)
@pytest.mark.parametrize("moment", ["step", "end"])
def test_a_resumed_training_is_bit_for_bit_the_one_that_never_stopped(
    tmp_path: Path, algorithm: Any, env: Any, moment: str
) -> None:
    callback = Save(100, moment, tmp_path)
    build(algorithm, env).learn(N_STEPS, callback=callback)
    th.manual_seed(99)
    np.random.seed(99)
    resumed = algorithm.load(tmp_path / "model", env=env, device="cpu")
    resumed.load_replay_buffer(tmp_path / "buffer")
    assert resumed.num_timesteps == callback.saved_at
    resumed.learn(N_STEPS - resumed.num_timesteps, reset_num_timesteps=False)
    assert_same_training(resumed, never_stopped(algorithm, env))


@pytest.mark.cases(quick=["MADDPG-MixedTrio"])
@pytest.mark.parametrize(("algorithm", "env"), CASES)
def test_a_loaded_model_acts_like_the_saved_one(tmp_path: Path, algorithm: Any, env: Any) -> None:
    model = build(algorithm, env).learn(60)
    model.save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model", device="cpu")
    observations = make_joint_vec_env(env, n_envs=30, seed=3).reset()
    ours, _ = model.predict(observations, deterministic=True)
    theirs, _ = loaded.predict(observations, deterministic=True)
    assert all(np.array_equal(ours[agent], theirs[agent]) for agent in ours)
    for agent, space in model._spaces["action"].items():
        assert ours[agent].shape == (30, *space.shape)
        assert all(space.contains(action) for action in ours[agent])
        single = model.predict({agent: row(observations[agent], 4)}, deterministic=True)[0][agent]
        assert single.shape == space.shape and single == pytest.approx(ours[agent][4], abs=1e-5)


def row(observations: Any, k: int) -> Any:
    return {key: value[k] for key, value in observations.items()} if isinstance(observations, dict) else observations[k]


def test_a_file_holds_noise_of_sb3_alone(tmp_path: Path) -> None:
    class Pulse(ActionNoise):
        def __call__(self) -> np.ndarray:
            return np.ones(2)

    build(MADDPG, MixedTrio, action_noise={"a": Pulse(), "b": None, "c": None}).save(tmp_path / "model")
    with pytest.raises(ValueError, match=r"action_noise holds .*custom_objects"):
        MADDPG.load(tmp_path / "model")
    assert MADDPG.load(tmp_path / "model", custom_objects={"action_noise": None}).noise.state() == {}


def test_dummy_and_batched_envs_give_the_same_training() -> None:
    settings = {"policy": "MlpPolicy", "learning_starts": 40, "env_kwargs": {"n_agents": 3}, "action_noise": None}
    assert_same_training(*(build(MADDPG, "switch_v0", vec_env=kind, **settings).learn(90) for kind in ("batched", "dummy")))


# ---------------------------------------------------------------------- acting


def test_noise_is_added_to_scaled_actions_and_clipped() -> None:
    model = build(IDDPG, ContinuousTrio, action_noise=0.7).learn(60)
    moment = model.moment
    actions = model.choose_actions(moment)
    np.random.seed(5)
    played, stored = model.buffer_actions(actions)
    np.random.seed(5)
    for agent, space in model._spaces["action"].items():
        scaled = 2 * (actions[agent] - space.low) / (space.high - space.low) - 1
        noise = np.random.normal(0, 0.7, (3, *space.shape))
        expected = np.clip(scaled + noise, -1, 1)
        assert stored[agent] == pytest.approx(expected.reshape(3, -1), abs=1e-5)
        assert played[agent] == pytest.approx(space.low + (expected + 1) / 2 * (space.high - space.low), abs=1e-5)


class Strict(MixedTrio):
    """Fails at an illegal action."""

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        observations, infos = super().reset(seed, options)
        self.legal = {"b": observations["b"]["action_mask"], "c": infos["c"]["action_mask"]}
        return observations, infos

    def step(self, actions: dict[str, Any]) -> Any:
        starts = {"b": 0, "c": 1}
        for agent, start in starts.items():
            assert agent not in actions or self.legal[agent][actions[agent] - start]
        observations, *results, infos = super().step(actions)
        masks = {"b": observations["b"]["action_mask"]} if "b" in observations else {}
        self.legal = {**masks, "c": infos["c"]["action_mask"]}
        return observations, *results, infos


@pytest.mark.e2e
def test_no_action_is_illegal_in_training() -> None:
    build(MADDPG, Strict, learning_starts=60, gradient_steps=1).learn(300)


def test_a_discrete_actor_samples_its_softmax_or_takes_the_most_likely_legal_action() -> None:
    model = build(MADDPG, MixedTrio).learn(60)
    observation = {"observation": np.array([0.3, -0.2], np.float32), "action_mask": np.array([1, 0, 1, 1], np.int8)}
    n = 4000
    rows = {key: np.tile(value, (n, 1)) for key, value in observation.items()}
    logits = (
        model.networks["b"].actor({key: th.as_tensor(value)[None].float() for key, value in observation.items()})[0].detach()
    )
    weights = np.exp(logits.numpy()) * observation["action_mask"]
    th.manual_seed(0)
    sampled = model.predict({"b": rows})[0]["b"]
    assert np.bincount(sampled, minlength=4) / n == pytest.approx(weights / weights.sum(), abs=0.03)
    assert model.predict({"b": observation}, deterministic=True)[0]["b"] == weights.argmax()
    # c counts from 1; a mask of the caller.
    seen = np.zeros((n, 2, 2), np.float32)
    chosen = model.predict({"c": seen}, action_masks={"c": np.array([True, False, True])})[0]["c"]
    assert set(chosen.tolist()) == {1, 3}


@pytest.mark.parametrize("agent", ["b", "c"])
def test_a_mask_without_a_legal_action_counts_as_one_that_allows_all(agent: str) -> None:
    model = build(MADDPG, MixedTrio)
    observations = make_joint_vec_env(MixedTrio, n_envs=200, seed=3).reset()[agent]
    n, start = model.action_space[agent].n, model.action_space[agent].start
    with th.no_grad():
        model.networks[agent].actor.q_net[-1].bias += th.arange(n) * 0.5
    free, none = (np.full((200, n), legal) for legal in (True, False))
    none[:100, 0] = True
    best, given = (
        model.predict({agent: observations}, deterministic=True, action_masks={agent: mask})[0][agent] for mask in (free, none)
    )
    assert (given[:100] == start).all() and np.array_equal(given[100:], best[100:]) and (best != start).any()
    assert np.array_equal(model.player(agent).predict(observations, None, None, True, none)[0], given)
    sampled = model.predict({agent: observations}, action_masks={agent: none})[0][agent]
    assert (sampled[:100] == start).all() and set(sampled[100:]) == set(range(start, start + n))


def test_comix_predicts_from_the_observation_alone_and_explores_when_it_samples() -> None:
    model = build(COMIX, ContinuousTrio).learn(60)
    observations = {"a": np.random.default_rng(0).uniform(-1, 1, (9, 3)).astype(np.float32)}
    first, second = (model.predict(observations, deterministic=True)[0]["a"] for _ in range(2))
    assert np.array_equal(first, second)
    sampled = [model.predict(observations)[0]["a"] for _ in range(2)]
    assert not np.array_equal(*sampled)
    alone = np.stack([model.predict({"a": one}, deterministic=True)[0]["a"] for one in observations["a"]])
    assert alone == pytest.approx(first, abs=1e-5)


@pytest.mark.parametrize("double_q", [True, False])
def test_comix_evaluates_alike_critics_together_and_alone_with_the_same_results(double_q: bool) -> None:
    settings = {"policy": "MlpPolicy", "action_noise": 0.1, "double_q": double_q, "learning_starts": 20}
    model = build(COMIX, ContinuousGame, **settings).learn(60)
    assert model.groups == [["agent_0", "agent_1"]]
    batch = model.sample(40)
    draws = model._draws(40)
    together = model._best_actions(model.critics, batch.observations, draws)
    model.groups = [["agent_0"], ["agent_1"]]
    alone = model._best_actions(model.critics, batch.observations, draws)
    for agent in together:
        assert together[agent].numpy() == pytest.approx(alone[agent].numpy(), abs=1e-5)


# ---------------------------------------------------------------------- agents as models of SB3


@pytest.mark.parametrize(("algorithm", "env", "agent", "kind"), [
    (IDDPG, ContinuousTrio, "c", DDPG), (MADDPG, MixedTrio, "a", DDPG), (MADDPG, MixedTrio, "b", DQN),
])  # fmt: skip
def test_an_agent_is_a_model_of_sb3(tmp_path: Path, algorithm: Any, env: Any, agent: str, kind: Any) -> None:
    model = build(algorithm, env).learn(60)
    before = np.random.get_state()[1].tolist(), th.get_rng_state().tolist()
    one = model.agents[agent]
    assert (np.random.get_state()[1].tolist(), th.get_rng_state().tolist()) == before
    assert type(one) is kind
    one.save(tmp_path / "agent")
    loaded = kind.load(tmp_path / "agent", device="cpu")
    observations = make_joint_vec_env(env, n_envs=20, seed=3).reset()[agent]
    space = model.action_space[agent]
    masks = {agent: np.ones((20, space.n), bool)} if isinstance(space, spaces.Discrete) else None
    expected = model.predict({agent: observations}, deterministic=True, action_masks=masks)[0][agent]
    assert np.array_equal(loaded.predict(observations, deterministic=True)[0], expected)


def test_a_ddpg_made_of_an_agent_has_its_optimisers_and_shares_nothing() -> None:
    model = build(IDDPG, ContinuousTrio).learn(60)
    ddpg = model.agents["a"]
    theirs, ours = flat(ddpg.get_parameters()), flat(model.get_parameters()["a"])
    assert all(map(equal, theirs, ours)) and len(theirs) == len(ours)
    kept = [one.clone() if isinstance(one, th.Tensor) else one for one in ours]
    for optimizer in (ddpg.actor.optimizer, ddpg.critic.optimizer):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = th.ones_like(parameter)
        optimizer.step()
    assert all(map(equal, kept, flat(model.get_parameters()["a"])))


@pytest.mark.e2e
@pytest.mark.parametrize("agent", ["a", "b"])
def test_a_player_of_maddpg_follows_the_training_and_keeps_to_its_masks(agent: str) -> None:
    model = build(MADDPG, MixedTrio)
    player = model.player(agent)
    model.learn(90)
    observations = make_joint_vec_env(MixedTrio, n_envs=30, seed=3).reset()[agent]
    masks = observations["action_mask"].astype(bool) if agent == "b" else None
    actions, _ = player.predict(observations, deterministic=True, action_masks=masks)
    assert np.array_equal(actions, model.predict({agent: observations}, deterministic=True)[0][agent])


@pytest.mark.parametrize(("algorithm", "env"), CASES)
def test_agents_play_frozen(algorithm: Any, env: Any) -> None:
    model = build(algorithm, env).learn(60)
    player = model.player("a")
    assert isinstance(player, FrozenAgent)
    observations = make_joint_vec_env(env, n_envs=5, seed=3).reset()["a"]
    expected = model.predict({"a": observations}, deterministic=True)[0]["a"]
    assert np.array_equal(player.copied().predict(observations, deterministic=True)[0], expected)


def test_comix_has_no_agents_of_sb3() -> None:
    with pytest.raises(ValueError, match=r"COMIX are no models of plain SB3: use predict\(\)"):
        build(COMIX, ContinuousTrio).agents["a"]


def test_load_model_finds_the_class(tmp_path: Path) -> None:
    build(COMIX, ContinuousTrio).save(tmp_path / "model")
    assert type(load_model(tmp_path / "model")) is COMIX


# ---------------------------------------------------------------------- arguments and errors


@pytest.mark.parametrize("algorithm", [IDDPG, MADDPG, COMIX])
def test_the_signature_is_ddpgs_and_then_ours(algorithm: Any) -> None:
    theirs, ours = (inspect.signature(cls.__init__).parameters for cls in (DDPG, algorithm))
    defaults = {name: one.default for name, one in theirs.items()}
    if algorithm is COMIX:
        defaults["action_noise"] = 0.1
    assert {name: ours[name].default for name in list(ours)[: len(theirs)]} == defaults
    assert list(ours)[: len(theirs)] == list(theirs)
    assert all(ours[name].kind is inspect.Parameter.KEYWORD_ONLY for name in list(ours)[len(theirs) :])
    with pytest.raises(TypeError, match="n_epochs"):
        algorithm("MlpPolicy", ContinuousGame, n_epochs=3)


def test_arguments_by_position_and_changed_defaults() -> None:
    by_position = ("MlpPolicy", ContinuousGame, 0.01, 500, 20, 8, 0.1, 0.9, 2, 3)
    assert COMIX(*by_position).arguments["action_noise"] == 0.1
    model = COMIX(*by_position, None, device="cpu")
    assert (model.arguments["action_noise"], model.gradient_steps, model.arguments["mixer"]) == (None, 3, "qmix")


BOX = spaces.Box(-1, 1, (2,), np.float32)


class Odd(ToyEnv):
    """One agent with actions of a certain space."""

    def __init__(self, actions: spaces.Space[Any] = BOX, observations: spaces.Space[Any] = BOX) -> None:
        super().__init__({"one": observations}, {"one": actions}, {"one": (3, "terminated")})


@pytest.mark.parametrize(
    ("algorithm", "space", "message"),
    [
        (IDDPG, spaces.Discrete(3), r"agent 'one': IDDPG takes Box actions, not Discrete\(3\): use .*MADDPG"),
        (COMIX, spaces.Discrete(3), r"agent 'one': COMIX takes Box actions, not Discrete\(3\): use .*QMIX"),
        (MADDPG, spaces.MultiDiscrete([2, 2]), "agent 'one': MADDPG takes Box or Discrete actions, not MultiDiscrete"),
        (IDDPG, spaces.Box(-np.inf, np.inf, (2,), np.float32), "not bounded"),
        (MADDPG, spaces.Box(0, 9, (1,), np.int32), "actions must be floats"),
    ],
)
def test_action_spaces_that_are_for_others(algorithm: Any, space: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        algorithm("MlpPolicy", Odd, env_kwargs={"actions": space})


@pytest.mark.parametrize(
    ("algorithm", "settings", "message"),
    [
        (IDDPG, {"train_freq": (2, "episode")}, "needs n_envs=1"),
        (IDDPG, {"action_noise": -0.1}, "action_noise must be a finite number that is not negative"),
        (IDDPG, {"action_noise": {"a": 0.1}}, "action_noise as a dict needs exactly the keys"),
        (IDDPG, {"policy": "MlPolicy"}, "agent 'a': policy 'MlPolicy' is unknown; did you mean 'MlpPolicy'"),
        (IDDPG, {"policy": DQN.policy_aliases["MlpPolicy"]}, "agent 'a': policy must be one of .*TD3Policy"),
        (IDDPG, {"policy_kwargs": {"net_ark": [8]}}, "agent 'a': .*net_ark"),
        (MADDPG, {"policy_kwargs": {"n_critics": 2}}, "agent 'a': policy_kwargs: n_critics is 2"),
        (MADDPG, {"policy_kwargs": {"share_features_extractor": True}}, "share_features_extractor must be False"),
        (MADDPG, {"gumbel_temperature": 0}, "gumbel_temperature must be greater than 0"),
        (MADDPG, {"actor_reg": -1.0}, "actor_reg must be"),
        (MADDPG, {"state": "all"}, "state 'all' is unknown"),
        (COMIX, {"mixer": "sum"}, "mixer 'sum' is unknown"),
        (COMIX, {"loss": "l1"}, "loss 'l1' is unknown"),
        (COMIX, {"cem_elites": 9}, "cem_elites=9 is more than cem_samples=8"),
        (COMIX, {"cem_elites": 1}, "cem_elites must be at least 2"),
        (COMIX, {"cem_iterations": 0}, "cem_iterations must be at least 1"),
        (COMIX, {"team_reward": "max"}, "team_reward 'max' is unknown"),
        (COMIX, {"policy_kwargs": {"n_critics": 2}}, "n_critics is 2"),
    ],
)
def test_unusable_arguments_are_errors_that_say_what_to_do(algorithm: Any, settings: dict[str, Any], message: str) -> None:
    cem = {"cem_samples": 8, "cem_elites": 3} if algorithm is COMIX else {}
    with pytest.raises((ValueError, TypeError), match=message):
        algorithm(**{**SETTINGS, "env": ContinuousTrio, **cem, **settings}).learn(3)


def test_comix_has_one_optimiser() -> None:
    kwargs = {"agent_0": {"optimizer_class": th.optim.SGD}, "agent_1": None}
    with pytest.raises(ValueError, match="COMIX has one optimiser for all agents"):
        COMIX("MlpPolicy", ContinuousGame, policy_kwargs=kwargs)


def test_a_sum_needs_no_state() -> None:
    image = spaces.Box(0, 255, (36, 36, 3), np.uint8)
    with pytest.raises(ValueError, match="cannot take images"):
        COMIX("CnnPolicy", Odd, env_kwargs={"observations": image}, state="observations")
    model = COMIX(
        "CnnPolicy", Odd, env_kwargs={"observations": image}, mixer="vdn", learning_starts=4, batch_size=3, cem_samples=8
    )
    model.learn(6)
    assert model.state_size == 0 and model._n_updates == 2


# ---------------------------------------------------------------------- NaN


def parameters_of(model: Any) -> list[Any]:
    return [one.clone() if isinstance(one, th.Tensor) else one for one in flat(model.get_parameters())]


@pytest.mark.cases(expensive=["stop-COMIX-ContinuousTrio", "skip-IDDPG-ContinuousTrio", "skip-MADDPG-MixedTrio"])
@pytest.mark.parametrize(("algorithm", "env"), CASES)
@pytest.mark.parametrize("on_nan", ["stop", "skip"])
def test_a_step_with_infinite_numbers_changes_nothing(algorithm: Any, env: Any, on_nan: str) -> None:
    model = build(algorithm, env, on_nan=on_nan).learn(60)
    before, sample = parameters_of(model), model.replay_buffer.sample

    def spoiled(batch_size: int) -> Any:
        batch = sample(batch_size)
        batch.rewards[0] = np.inf
        return batch

    model.replay_buffer.sample = spoiled
    if on_nan == "stop":
        with pytest.raises(NonFiniteError, match=r"loss is (inf|nan)"):
            model.train(1)
    else:
        with pytest.warns(UserWarning, match="skipped"):
            model.train(1)
        assert model.skipped_updates == 1
    assert all(map(equal, before, parameters_of(model)))


@pytest.mark.parametrize("fresh", [True, False])
def test_critics_are_restored_if_an_actor_fails(fresh: bool) -> None:
    model = build(MADDPG, MixedTrio, learning_starts=50).learn(30 if fresh else 90)
    assert all(bool(optimizer.state) != fresh for optimizer in model.optimizers())
    with th.no_grad():
        next(model.networks["c"].actor.parameters())[0] = np.inf
    before = parameters_of(model)
    with pytest.raises(NonFiniteError, match=r"the c actor loss is nan"):
        model.gradient_step(model.sample(10))
    assert all(map(equal, before, parameters_of(model)))
