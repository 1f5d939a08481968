"""Running normalisation against NumPy over everything that was seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from sb3_matrl import MATRL
from sb3_matrl.common.agents import Team
from sb3_matrl.common.normalize import Normalizer, NormalizerConfig
from sb3_matrl.evaluation import evaluate_policy
from sb3_matrl.on_policy.rollout import RolloutCollector
from sb3_matrl.vec_env import make_joint_vec_env
from sb3_matrl.vec_env.errors import EnvDataError
from tests.on_policy.test_rollout import Recorder, late_entry
from tests.vec_env import toys

SMALL: dict[str, Any] = {"n_envs": 3, "n_steps": 8, "batch_size": 24, "n_epochs": 1, "br_n_epochs": 1, "seed": 0}
SMALL |= {"device": "cpu", "policy_kwargs": {"net_arch": [8]}}
PRIOR = 1e-4  # RunningMeanStd begins with so many observations of mean 0 and variance 1
BOX = spaces.Box(-np.inf, np.inf, (2,), np.float64)


def make(env: Any = late_entry, policy: Any = "MlpPolicy", **kwargs: Any) -> MATRL:
    return MATRL(policy, env, **{**SMALL, **kwargs})


def moments(rows: Any) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of all rows and of what the statistics begin with."""
    rows = np.asarray(rows, dtype=np.float64)
    n = len(rows) + PRIOR
    mean = rows.sum(axis=0) / n
    return mean, ((rows**2).sum(axis=0) + PRIOR) / n - mean**2


class Session:
    """Rollouts of a model's team in a recorded env."""

    def __init__(self, n_rollouts: int = 2, env: Any = late_entry, **kwargs: Any) -> None:
        self.model = make(env, **kwargs)
        self.team: Team = self.model.team
        env = make_joint_vec_env(env, 3, seed=4)
        self.first, self.alive = env.reset(), [env.alive]
        self.recorder = Recorder(env)
        position = self.team.begin(self.first, env.alive)
        self.buffers: list[dict[str, Any]] = []
        for _ in range(n_rollouts):
            position, _ = RolloutCollector(env, self.team).collect(position, 8, self._see)
            names = ("observations", "rewards", "mask")
            self.buffers.append(
                {name: [getattr(x.rollout_buffer, n).copy() for n in names] for name, x in self.team.learners.items()}
            )
        self.env = env

    def _see(self, seen: Any) -> bool:
        self.alive.append(self.recorder.env.alive)
        return self.recorder(seen)

    def live_observations(self, agent: str, steps: int | None = None) -> np.ndarray:
        """All observations of an agent while it is alive, of the first ``steps`` joint observations."""
        i = self.env.agents.index(agent)
        given = [self.first, *(step.observations for step in self.recorder.steps)]
        pairs = list(zip(given, self.alive, strict=True))[:steps]
        return np.concatenate([observation[agent][alive[:, i]] for observation, alive in pairs])


def test_statistics_are_those_of_all_live_observations() -> None:
    session = Session(norm_obs=True)
    assert not all(alive.all() for alive in session.alive)
    for agent, normalizer in session.team.normalizers.items():
        mean, variance = moments(session.live_observations(agent))
        np.testing.assert_allclose(normalizer.observations[None].mean, mean, rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(normalizer.observations[None].var, variance, rtol=1e-6)


def test_buffers_hold_observations_scaled_by_the_statistics_of_their_time() -> None:
    session = Session(n_rollouts=1, norm_obs=True, clip_obs=1.2)
    clipped = 0
    for agent, (observations, _, mask) in session.buffers[0].items():
        given = [session.first, *(step.observations for step in session.recorder.steps)]
        for t in range(8):
            mean, variance = moments(session.live_observations(agent, t + 1))
            scaled = np.clip((given[t][agent] - mean) / np.sqrt(variance + 1e-8), -1.2, 1.2)
            np.testing.assert_allclose(observations[t][mask[t]], scaled[mask[t]], rtol=1e-5, atol=1e-6)
            clipped += int((np.abs(scaled[mask[t]]) == 1.2).sum())
    assert clipped > 0


def test_rewards_are_scaled_by_the_deviation_of_the_discounted_return() -> None:
    session = Session(env=toys.early_death, norm_reward=True, gamma=0.9, clip_reward=0.8)
    clipped = 0
    for i, agent in enumerate(session.env.agents):
        seen: list[float] = []
        running = np.zeros(3)
        for t, step in enumerate(session.recorder.steps):
            live = session.alive[t][:, i]
            running = np.where(live, 0.9 * running + step.rewards[:, i], running)
            seen += running[live].tolist()
            deviation = np.sqrt((moments(seen)[1] if seen else 1.0) + 1e-8)
            scaled = np.clip(step.rewards[:, i] / deviation, -0.8, 0.8)
            ended = step.terminated[:, i] | step.truncated[:, i]
            _, rewards, _ = session.buffers[t // 8][agent]
            compared = live & ~step.truncated[:, i]  # those have a bootstrapped value on top
            np.testing.assert_allclose(rewards[t % 8][compared], scaled[compared], rtol=1e-5)
            clipped += int((np.abs(scaled[compared]) == 0.8).sum())
            assert not rewards[t % 8][~live].any()
            running = np.where(ended, 0.0, running)
        np.testing.assert_allclose(session.team.normalizers[agent].returns.var, moments(seen)[1], rtol=1e-6)
        np.testing.assert_allclose(session.team.normalizers[agent].running, running, rtol=1e-6)
    assert clipped > 0


def test_a_group_has_one_normaliser_that_sees_all_its_agents() -> None:
    session = Session(env=toys.early_death, share={"team": ["b", "c"]}, norm_obs=True)
    assert list(session.team.normalizers) == ["team", "a"]
    rows = np.concatenate([session.live_observations(agent) for agent in ("b", "c")])
    np.testing.assert_allclose(session.team.normalizers["team"].observations[None].mean, moments(rows)[0], rtol=1e-6)
    np.testing.assert_allclose(session.team.normalizers["team"].observations[None].var, moments(rows)[1], rtol=1e-6)


def test_only_continuous_entries_are_normalised() -> None:
    space = spaces.Dict(
        {
            "action_mask": spaces.Box(0, 1, (4,), np.int8),
            "bits": spaces.MultiBinary(3),
            "picture": spaces.Box(0, 255, (36, 36, 1), np.uint8),
            "x": spaces.Box(-1, 1, (2,), np.float32),
            "y": spaces.Box(-1, 1, (1,), np.float64),
        }
    )
    normalizer = Normalizer(NormalizerConfig(norm_obs=True), space, 2)
    assert set(normalizer.observations) == {"x", "y"}
    rng = np.random.default_rng(0)
    batch = {key: np.stack([entry.sample() for _ in range(2)]) for key, entry in space.spaces.items()}
    batch["x"] = rng.normal(3, 2, (2, 2))
    normalizer.observe(batch, np.array([True, True]))
    result = normalizer.normalize(batch)
    for key in ("action_mask", "bits", "picture"):
        assert result[key] is batch[key]
    mean, variance = moments(batch["x"])
    np.testing.assert_allclose(result["x"], (batch["x"] - mean) / np.sqrt(variance + 1e-8), rtol=1e-5)
    assert result["x"].dtype == result["y"].dtype == np.float32


@pytest.mark.parametrize("space", [spaces.Discrete(3), spaces.Box(0, 255, (36, 36, 3), np.uint8), spaces.MultiBinary(2)])
def test_where_there_is_nothing_to_normalise_it_says_so(space: Any) -> None:
    with pytest.raises(ValueError, match=r"norm_obs: there is nothing continuous to normalise in .*leave it out"):
        Normalizer(NormalizerConfig(norm_obs=True), space, 1)
    assert Normalizer(NormalizerConfig(norm_reward=True), space, 1).normalize("raw") == "raw"


@pytest.mark.parametrize("name", ["clip_obs", "clip_reward"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_clips_must_be_positive(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} must be positive, got {value}"):
        NormalizerConfig(norm_obs=True, **{name: value})


def test_settings_may_differ_between_agents() -> None:
    on = {"late": True, "early": False, "last": True}
    model = make(norm_obs=on, clip_obs={"late": 1.0, "early": 2.0, "last": 3.0})
    assert {name: one.config.clip_obs for name, one in model.team.normalizers.items()} == {"late": 1.0, "last": 3.0}


def test_a_constant_observation_and_an_episode_without_reward_stay_finite() -> None:
    normalizer = Normalizer(NormalizerConfig(norm_obs=True, norm_reward=True), BOX, 2)
    everyone, nobody = np.ones(2, bool), np.zeros(2, bool)
    for _ in range(2000):
        normalizer.observe(np.full((2, 2), 5.0), everyone)
        normalizer.reward(np.zeros(2), everyone, nobody)
    assert np.abs(normalizer.normalize(np.full((2, 2), 5.0))).max() < 0.1
    assert (normalizer.normalize(np.full((2, 2), 1e9)) == 10.0).all()
    assert (normalizer.reward(np.zeros(2), everyone, nobody) == 0.0).all()


def test_rows_of_the_absent_may_hold_anything() -> None:
    clean, spoilt = (Normalizer(NormalizerConfig(norm_obs=True), BOX, 3) for _ in range(2))
    rows, seen = np.random.default_rng(0).normal(size=(3, 2)), np.array([True, False, True])
    clean.observe(rows, seen)
    rows[1] = np.nan
    spoilt.observe(rows, seen)
    spoilt.observe(np.full((3, 2), np.inf), np.zeros(3, bool))
    for name, value in clean.state()["observations"][0].items():
        np.testing.assert_array_equal(spoilt.state()["observations"][0][name], value)


class TurnsBad(toys.ToyEnv):
    """Observes NaN in its fourth step."""

    def _observe(self, agents: Any) -> Any:
        self.asked = getattr(self, "asked", 0) + 1
        observations = super()._observe(agents)
        return {agent: value * np.nan for agent, value in observations.items()} if self.asked == 5 else observations


def test_an_observation_of_nan_never_reaches_the_statistics() -> None:
    model = make(lambda: TurnsBad({"a": BOX}, {"a": spaces.Discrete(2)}, {"a": (20, "terminated")}), norm_obs=True)
    with pytest.raises(EnvDataError):
        model.learn(64)
    statistics = model.team.normalizers["a"].observations[None]
    assert np.isfinite(statistics.mean).all() and np.isfinite(statistics.var).all()
    assert statistics.count == pytest.approx(3 * 4, abs=1e-3)


# ---------------------------------------------------------------- acting and files


def states(model: MATRL) -> list[np.ndarray]:
    """All numbers of all normalisers."""
    kept = [normalizer.state() for normalizer in model.team.normalizers.values()]
    return [
        np.asarray(v) for s in kept for one in (*s["observations"], s["returns"], {"_": s["running"]}) for v in one.values()
    ]


def test_acting_and_evaluating_leave_the_statistics_as_they_are() -> None:
    model = make(env=toys.early_death, norm_obs=True, norm_reward=True).learn(48)
    before = [array.copy() for array in states(model)]
    raw = np.random.default_rng(0).normal(4, 3, (6, 2))
    actions, _ = model.predict({"a": raw}, deterministic=True)
    statistics = model.team.normalizers["a"].observations[None]
    scaled = np.clip((raw - statistics.mean) / np.sqrt(statistics.var + 1e-8), -10, 10).astype(np.float32)
    expected, _ = model.agents["a"].predict(scaled, deterministic=True)
    np.testing.assert_array_equal(actions["a"], expected)
    evaluate_policy(model, toys.early_death, 5, seed=0)
    for one, other in zip(states(model), before, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("observation", [0.5, np.zeros(1), np.zeros((2, 1)), np.zeros(5), np.zeros((3, 2, 2)), [[0.0]], None])
def test_observations_of_another_shape_are_refused_and_tensors_are_taken(observation: Any) -> None:
    model = make(env=toys.early_death, norm_obs=True)
    with pytest.raises(ValueError, match=r"agent 'a': the observation has shape .*, expected \(2,\), or"):
        model.predict({"a": observation})
    actions = [model.predict({"a": one([[0.5, 1.0]])}, deterministic=True)[0]["a"] for one in (np.array, th.tensor)]
    assert np.array_equal(*actions)


@pytest.mark.e2e
def test_statistics_survive_saving_and_fit_another_number_of_copies(tmp_path: Path) -> None:
    model = make(env=toys.early_death, norm_obs=True, norm_reward=True).learn(48)
    model.save(tmp_path / "model")
    for one, other in zip(states(MATRL.load(tmp_path / "model")), states(model), strict=True):
        np.testing.assert_array_equal(one, other)
    more = MATRL.load(tmp_path / "model", env=toys.early_death, n_envs=4)
    for name, normalizer in more.team.normalizers.items():
        mine, theirs = normalizer.state(), model.team.normalizers[name].state()
        np.testing.assert_array_equal(mine["observations"][0]["mean"], theirs["observations"][0]["mean"])
        assert mine["returns"]["var"] == theirs["returns"]["var"] and mine["running"].shape == (4,)
    more.learn(32, reset_num_timesteps=False)


def test_states_of_another_normaliser_are_refused() -> None:
    normalizer = Normalizer(NormalizerConfig(norm_obs=True), BOX, 2)
    with pytest.raises(ValueError, match=r"statistics of shape \(3,\) where \(2,\) are expected"):
        normalizer.restore(Normalizer(NormalizerConfig(norm_obs=True), spaces.Box(-1, 1, (3,)), 2).state())
    with pytest.raises(ValueError, match="not a state of this normaliser"):
        normalizer.restore({"observations": normalizer.state()["observations"]})
