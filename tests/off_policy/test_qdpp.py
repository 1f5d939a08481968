"""Q-DPP: whole batches against loops over single rows, its relations to VDN and DQN, acting, files, errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from scipy.stats import chisquare

from sb3_matrl.envs import matrix_game_v0
from sb3_matrl.off_policy.joint_batch import JointBatch
from sb3_matrl.off_policy.qdpp import QDPP
from sb3_matrl.off_policy.vdn import VDN
from tests.off_policy.small_models import Save, SavingTrio, assert_same
from tests.off_policy.test_agent_perceptrons import alone
from tests.off_policy.trio import SETTINGS, Trio


def trained(algorithm: type[Any] = QDPP, steps: int = 60, **arguments: Any) -> Any:
    return algorithm(**{**SETTINGS, **arguments}).learn(steps)


def game() -> Any:
    return matrix_game_v0.parallel_env("coordination", max_cycles=3)


def row_of(observation: Any, row: int) -> Any:
    """One row of a batch's observations, with its axis."""
    if isinstance(observation, dict):
        return {key: value[row : row + 1] for key, value in observation.items()}
    return observation[row : row + 1]


class SlowQdpp:
    """Q-DPP's values row by row with explicit kernels, from the model's networks."""

    def __init__(self, model: QDPP) -> None:
        self.model, self.agents = model, model.possible_agents

    def pairs(self, observations: dict[str, Any], row: int, target: bool) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Agent -> values (A,) and features (A, d)."""
        networks = self.model.features_target if target else self.model.features
        found = {}
        for i, agent in enumerate(self.agents):
            policy, own = self.model.utilities.policies[agent], row_of(observations[agent], row)
            values = (policy.q_net_target if target else policy.q_net)(own)
            flat = policy.q_net.extract_features(own, policy.q_net.features_extractor)
            rows = alone(networks.features.directions, i)(flat).view(len(values[0]), -1)
            rows = rows / rows.norm(dim=1, keepdim=True)
            if networks.features.lengths is not None:
                rows = rows * alone(networks.features.lengths, i)(flat).sigmoid().view(-1, 1)
            found[agent] = values[0].double().numpy(), rows.double().numpy()
        return found

    def kernel(self, features: list[np.ndarray]) -> np.ndarray:
        rows = np.array(features)
        full = (1 - self.model.jitter) * rows @ rows.T + self.model.jitter * np.eye(len(rows))
        if self.model.feature_norm == "unit":
            np.fill_diagonal(full, 1.0)
        return full

    def log_det(self, features: list[np.ndarray]) -> float:
        return float(np.linalg.slogdet(self.kernel(features))[1]) if features else 0.0

    def greedy(self, pairs: dict[str, Any], masks: dict[str, Any], row: int, live: list[str]) -> dict[str, int]:
        """Greedy sampler: each step maximises Q_tot of the pairs chosen so far."""
        chosen: list[np.ndarray] = []
        actions = {}
        for agent in live:
            values, features = pairs[agent]
            legal = [a for a in range(len(values)) if agent not in masks or masks[agent][row, a]]
            coef, before = self.model.logdet_coef, self.log_det(chosen)
            scores = {a: values[a] + coef * (self.log_det([*chosen, features[a]]) - before) for a in legal}
            actions[agent] = max(legal, key=lambda a: scores[a])
            chosen.append(features[actions[agent]])
        return actions

    def q_tot(self, pairs: dict[str, Any], actions: dict[str, int], live: list[str]) -> tuple[float, float]:
        diversity = self.log_det([pairs[agent][1][actions[agent]] for agent in live])
        return sum(pairs[agent][0][actions[agent]] for agent in live) + self.model.logdet_coef * diversity, diversity

    @th.no_grad()
    def of_row(self, batch: JointBatch, row: int) -> dict[str, float]:
        live = [agent for i, agent in enumerate(self.agents) if batch.alive[row, i]]
        following = [agent for i, agent in enumerate(self.agents) if batch.counts_next()[row, i]]
        reward = sum(float(batch.rewards[row, self.agents.index(agent)]) for agent in live)
        ended = bool(batch.done[row]) and not (batch.truncated & ~batch.terminated)[row].any()
        taken = {agent: int(batch.actions[agent][row]) for agent in self.agents}
        value, diversity = self.q_tot(self.pairs(batch.observations, row, False), taken, live)
        choosing = self.pairs(batch.next_observations, row, not self.model.double_q)
        best = self.greedy(choosing, batch.next_masks, row, following)
        after, _ = self.q_tot(self.pairs(batch.next_observations, row, True), best, following)
        masks = {agent: mask[row].numpy() for agent, mask in batch.next_masks.items()}
        own = {a: int(np.argmax(np.where(masks.get(a, True), choosing[a][0], -np.inf))) for a in following}
        error = value - reward - (0.0 if ended else self.model.gamma * after)
        return {
            "train/loss": error**2,
            "train/td_error_abs": abs(error),
            "train/q_tot": value,
            "train/log_det": diversity,
            "train/greedy_agreement": float(own == best),
        }


@pytest.mark.cases(quick=["learned-True"])
@pytest.mark.parametrize("double_q", [True, False])
@pytest.mark.parametrize("norm", ["unit", "learned"])
def test_losses_equal_a_loop_with_deaths_masks_and_ends(norm: str, double_q: bool) -> None:
    special = {"feature_norm": norm, "double_q": double_q, "feature_dim": 3, "logdet_coef": 1.5, "jitter": 0.05, "loss": "mse"}
    model = trained(target_update_interval=10_000, learning_rate=1e-2, **special)
    batch = model.sample(40)
    cut = (batch.truncated & ~batch.terminated).any(dim=1)
    assert (batch.done & cut).any() and (batch.done & ~cut).any() and (~batch.alive).any() and set(batch.masks) == {"b", "c"}
    rows = [SlowQdpp(model).of_row(batch, row) for row in range(40)]
    logged = model.gradient_step(batch)
    for name in rows[0]:
        assert float(logged[name]) == pytest.approx(np.mean([row[name] for row in rows]), rel=2e-4, abs=1e-5), name
    assert 0.0 < float(logged["train/greedy_agreement"]) < 1.0


def test_the_value_of_the_team_is_at_most_the_sum_of_the_agents() -> None:
    model = trained()
    batch = model.sample(64)
    q = model.utilities.values(batch.observations)
    chosen = [q[agent].gather(1, batch.actions[agent][:, None])[:, 0] for agent in "abc"]
    actions = th.stack([batch.actions[agent] for agent in "abc"], dim=1)
    values, diversity = model.team_values(q, batch.observations, actions, batch.alive)
    total = (th.stack(chosen, dim=1) * batch.alive).sum(dim=1)
    assert (values <= total + 1e-5).all() and (diversity < -1e-3).any()


class Orthonormal(th.nn.Module):
    """Features that are unit vectors, different for every agent and action."""

    def forward(self, observations: Any) -> list[th.Tensor]:
        rows = th.eye(9).expand(len(observations["a"]), 9, 9)
        return [rows[:, :2], rows[:, 2:6], rows[:, 6:]]


def test_with_fixed_orthonormal_features_it_is_vdn() -> None:
    qdpp, vdn = (trained(algorithm, learning_starts=10**6) for algorithm in (QDPP, VDN))
    qdpp.features = qdpp.features_target = Orthonormal()
    assert_same_training(qdpp, vdn)


def assert_same_training(one: Any, other: Any) -> None:
    """The utilities of two models of equal seeds are and remain the same, bit for bit, when they learn from equal batches."""
    for _ in range(5):
        np.random.seed(1)
        batch = one.sample(32)
        np.random.seed(1)
        logged, reference = one.gradient_step(batch), other.gradient_step(other.sample(32))
        assert all(th.equal(logged[name], reference[name]) for name in ("train/loss", "train/q_tot"))
    for ours, theirs in zip(one.utilities.parameters(), other.utilities.parameters(), strict=True):
        assert th.equal(ours, theirs)


class Solo(Trio):
    """``b`` alone, who has masks."""

    def __init__(self) -> None:
        super().__init__()
        self.possible_agents = ["b"]


def test_one_agent_is_vdn() -> None:
    alone = {"env": Solo, "policy": "MultiInputPolicy", "learning_starts": 10**6, "logdet_coef": 3.0}
    qdpp = trained(**alone)
    del alone["logdet_coef"]
    vdn = trained(VDN, **alone)
    assert_same_training(qdpp, vdn)
    assert float(qdpp.gradient_step(qdpp.sample(8))["train/greedy_agreement"]) == 1.0


@pytest.mark.e2e
def test_behaviour_is_the_sampler_at_the_exploration_rate() -> None:
    settings = {"buffer_size": 8_000, "learning_starts": 4_000, "train_freq": 1, "learning_rate": 0.0}
    settings |= {"feature_dim": 2, "temperature": 1.4}
    model = QDPP("MlpPolicy", game, n_envs=4_000, seed=0, device="cpu", **settings)
    moments, choose = [], model.choose_actions

    def watched(moment: Any) -> Any:
        moments.append(choose(moment))
        return moments[-1]

    model.choose_actions = watched
    model.exploration_rate = 0.5
    model.exploration_schedule = lambda progress: 0.5
    model.learn(8_000)
    (actions,) = moments
    observation = {agent: th.ones(1, 1) for agent in model.possible_agents}
    with th.no_grad():
        pairs = SlowQdpp(model).pairs(observation, 0, target=False)
    law = np.zeros((2, 2))
    for first in range(2):
        alone = np.exp(pairs["agent_0"][0] / 0.7)
        kernels = [SlowQdpp(model).kernel([pairs["agent_0"][1][first], pairs["agent_1"][1][a]]) for a in range(2)]
        weights = np.array([np.linalg.det(one) for one in kernels]) * np.exp(pairs["agent_1"][0] / 0.7)
        law[first] = (alone / alone.sum())[first] * weights / weights.sum()
    counts = np.zeros((2, 2))
    np.add.at(counts, (actions["agent_0"], actions["agent_1"]), 1)
    assert chisquare(counts.ravel(), 4_000 * law.ravel()).pvalue > 1e-3


def test_deterministic_actions_are_the_agents_own_best() -> None:
    model = trained()
    observations = model._last_obs
    actions, _ = model.predict(observations, deterministic=True)
    for agent in "abc":
        alone, _ = model.predict({agent: observations[agent]}, deterministic=True)
        assert np.array_equal(actions[agent], alone[agent])
    plain, _ = model.agents["a"].predict(observations["a"], deterministic=True)
    assert np.array_equal(actions["a"], plain)


@pytest.mark.e2e
def test_sampled_actions_are_legal_and_joint() -> None:
    model = trained()
    observations = {agent: value for agent, value in model._last_obs.items()}
    masks = {"c": np.array([[False, False, True], [True, False, False], [False, True, False]])}
    for _ in range(30):
        actions, _ = model.predict(observations, action_masks=masks)
        assert actions["c"].tolist() == [3, 1, 2]
        assert observations["b"]["action_mask"][range(3), actions["b"]].all()
        assert all(model.action_space[agent].contains(one) for agent in "abc" for one in actions[agent])
    single = {agent: value[0] for agent, value in observations.items() if agent != "b"}
    actions, _ = model.predict(single)
    assert list(actions) == ["a", "c"] and all(one.shape == () for one in actions.values())
    with pytest.raises(ValueError, match=r"equally many observations of every agent, got \[1, 3\]"):
        model.predict({"a": observations["a"], "c": observations["c"][0]})
    with pytest.raises(ValueError, match="agent 'd' is unknown"):
        model.predict({"d": observations["a"]})


def test_joint_samples_avoid_equal_features() -> None:
    model = QDPP("MlpPolicy", game, seed=0, device="cpu", jitter=1e-4, feature_dim=2)
    directions = model.features.features.directions  # action k gets feature e_k, whatever the observation
    directions.weights[-1].data.zero_()
    directions.biases[-1].data[:, 0] = th.eye(2).flatten()
    for policy in model.utilities.policies.values():
        policy.q_net.q_net[-1].weight.data.zero_()
        policy.q_net.q_net[-1].bias.data.zero_()
    model.exploration_rate = 1.0
    actions, _ = model.predict({agent: np.ones((500, 1), np.float32) for agent in model.possible_agents})
    assert (actions["agent_0"] != actions["agent_1"]).mean() > 0.99
    assert 0.4 < actions["agent_0"].mean() < 0.6


@pytest.mark.e2e
@pytest.mark.parametrize("norm", ["unit", "learned"])
def test_a_saved_model_predicts_and_trains_as_before(norm: str, tmp_path: Path) -> None:
    model = trained(feature_norm=norm)
    model.save(tmp_path / "model")
    loaded = QDPP.load(tmp_path / "model", env=Trio, device="cpu")
    for deterministic in (True, False):
        th.manual_seed(0)
        before, _ = model.predict(model._last_obs, deterministic=deterministic)
        th.manual_seed(0)
        after, _ = loaded.predict(model._last_obs, deterministic=deterministic)
        assert all(np.array_equal(before[agent], after[agent]) for agent in before)
    batch = model.sample(16)
    first, second = model.gradient_step(batch), loaded.gradient_step(batch)
    assert all(th.equal(first[name], second[name]) for name in first)
    for one, other in zip(model.features.parameters(), loaded.features.parameters(), strict=True):
        assert th.equal(one, other)


@pytest.mark.e2e
def test_a_resumed_training_is_bit_for_bit_the_one_that_never_stopped(tmp_path: Path) -> None:
    special = {"env": SavingTrio, "buffer_size": 60, "target_update_interval": 27, "train_freq": 2}
    whole = trained(steps=120, **special)
    QDPP(**{**SETTINGS, **special}).learn(120, callback=Save(70, "step", tmp_path))
    th.manual_seed(99)
    np.random.seed(99)
    resumed = QDPP.load(tmp_path / "model", env=SavingTrio, device="cpu")
    resumed.load_replay_buffer(tmp_path / "buffer")
    resumed.learn(120 - resumed.num_timesteps, reset_num_timesteps=False)
    assert_same(resumed, whole)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"feature_norm": "l2"}, "feature_norm 'l2' is unknown"),
        ({"jitter": 0.0}, "jitter must be between 0.0001 and 1, got 0.0"),
        ({"jitter": 1.5}, "jitter must be between 0.0001 and 1, got 1.5"),
        ({"logdet_coef": -1.0}, "logdet_coef must be a finite number that is not negative, got -1.0"),
        ({"feature_dim": 0}, "feature_dim must be at least 1, got 0"),
        ({"temperature": 0.0}, "temperature must be greater than 0, got 0.0"),
        ({"loss": "l1"}, "loss 'l1' is unknown"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        QDPP("MlpPolicy", game, **arguments)
