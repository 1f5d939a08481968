"""QTRAN: losses of whole batches against loops over single rows, files, resume, errors."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th

from sb3_matrl.envs import matrix_game_v0
from sb3_matrl.off_policy.joint_batch import JointBatch
from sb3_matrl.off_policy.qtran import QTRAN
from tests.off_policy.small_models import Save, SavingTrio, assert_same
from tests.off_policy.trio import SETTINGS, Trio

VARIANTS = ["base", "alt"]


def trained(variant: str = "base", steps: int = 60, **arguments: Any) -> QTRAN:
    return QTRAN(**{**SETTINGS, "variant": variant, **arguments}).learn(steps)


def row_of(observation: Any, row: int) -> Any:
    """One row of a batch's observations, with its axis."""
    if isinstance(observation, dict):
        return {key: value[row : row + 1] for key, value in observation.items()}
    return observation[row : row + 1]


class SlowQtran:
    """QTRAN's losses row by row, agent by agent, from the model's networks."""

    def __init__(self, model: QTRAN) -> None:
        self.model, self.agents = model, model.possible_agents

    def utility(self, agent: str, observation: Any, target: bool) -> tuple[th.Tensor, th.Tensor]:
        """Last hidden layer and values of one row."""
        policy = self.model.utilities.policies[agent]
        network = policy.q_net_target if target else policy.q_net
        x = network.extract_features(observation, network.features_extractor)
        for layer in network.q_net[:-1]:
            x = layer(x)
        values = network(observation)
        th.testing.assert_close(network.q_net[-1](x), values)
        return x[0], values[0]

    def best(self, observations: dict[str, Any], masks: dict[str, Any], row: int, target: bool) -> dict[str, int]:
        chosen = {}
        for agent in self.agents:
            _, values = self.utility(agent, row_of(observations[agent], row), target)
            legal = [a for a in range(len(values)) if agent not in masks or masks[agent][row, a]]
            chosen[agent] = max(legal, key=lambda a: float(values[a]))
        return chosen

    def joint(
        self, observations: dict[str, Any], row: int, actions: dict[str, int], live: list[str], state: th.Tensor, target: bool
    ) -> dict[str, th.Tensor]:
        """Base: ``{"": Q_jt}``; alternative: live agent -> values of its own actions."""
        network = self.model.joint_target if target else self.model.joint
        hidden, encodings = {}, {}
        for i, agent in enumerate(self.agents):
            hidden[agent], values = self.utility(agent, row_of(observations[agent], row), target)
            one_hot = th.nn.functional.one_hot(th.tensor(actions[agent]), len(values)).float()
            encodings[agent] = network.encoders.networks.networks[i](th.cat([hidden[agent], one_hot]))
        if self.model.variant == "base":
            return {"": network.network(th.cat([state, sum(encodings[agent] for agent in live)]))[0]}
        results = {}
        for i, agent in enumerate(self.agents):
            if agent in live:
                others = sum((encodings[other] for other in live if other != agent), th.zeros_like(encodings[agent]))
                results[agent] = network.networks.networks[i](th.cat([state, hidden[agent], others]))
        return results

    @th.no_grad()
    def losses(self, batch: JointBatch) -> dict[str, float]:
        rows = [self.losses_of_row(batch, row) for row in range(len(batch.done))]
        return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}

    def losses_of_row(self, batch: JointBatch, row: int) -> dict[str, float]:
        model = self.model
        live = [agent for i, agent in enumerate(self.agents) if batch.alive[row, i]]
        following = [agent for i, agent in enumerate(self.agents) if batch.counts_next()[row, i]]
        reward = sum(float(batch.rewards[row, self.agents.index(agent)]) for agent in live)
        ended = bool(batch.done[row]) and not (batch.truncated & ~batch.terminated)[row].any()
        taken = {agent: int(batch.actions[agent][row]) for agent in self.agents}
        greedy = self.best(batch.observations, batch.masks, row, target=False)
        values = {agent: self.utility(agent, row_of(batch.observations[agent], row), False)[1] for agent in self.agents}
        state_value = float(model.state_value(batch.states[row : row + 1])[0])
        joint = self.joint(batch.observations, row, taken, live, batch.states[row], False)
        joint_greedy = self.joint(batch.observations, row, greedy, live, batch.states[row], False)
        after = {}
        if not ended:
            best = self.best(batch.next_observations, batch.next_masks, row, target=not model.double_q)
            after = self.joint(batch.next_observations, row, best, following, batch.next_states[row], True)
            after = {agent: float(one[best[agent]] if agent else one) for agent, one in after.items()}
        q = {agent: float(values[agent][taken[agent]]) for agent in live}
        at_greedy = sum(float(values[agent][greedy[agent]]) for agent in live) + state_value
        if model.variant == "base":
            target = reward + model.gamma * after.get("", 0.0)
            difference = sum(q.values()) - float(joint[""]) + state_value
            return {
                "train/td_loss": (float(joint[""]) - target) ** 2,
                "train/opt_loss": (at_greedy - float(joint_greedy[""])) ** 2,
                "train/nopt_loss": min(difference, 0.0) ** 2,
                "train/td_error_abs": abs(float(joint[""]) - target),
                "train/q_tot": float(joint[""]),
                "train/q_sum": sum(q.values()),
            }
        of_agent = []
        for agent in live:
            own = float(joint[agent][taken[agent]])
            shared = float(np.mean(list(after.values()))) if after else 0.0
            target = reward + model.gamma * after.get(agent, shared)
            rest = sum(q.values()) - q[agent] + state_value
            legal = [a for a in range(len(values[agent])) if agent not in batch.masks or batch.masks[agent][row, a]]
            smallest = min(float(values[agent][a] - joint[agent][a]) + rest for a in legal)
            opt = at_greedy - float(joint_greedy[agent][greedy[agent]])
            of_agent.append([(own - target) ** 2, opt**2, smallest**2, abs(own - target), own, sum(q.values())])
        names = ("td_loss", "opt_loss", "nopt_loss", "td_error_abs", "q_tot", "q_sum")
        return {f"train/{name}": float(value) for name, value in zip(names, np.mean(of_agent, axis=0), strict=True)}


@pytest.mark.cases(e2e=["base-True"], expensive=["base-False", "alt-True"])
@pytest.mark.parametrize(("variant", "double_q"), list(product(VARIANTS, [True, False])))
def test_losses_equal_a_loop_with_deaths_masks_and_ends(variant: str, double_q: bool) -> None:
    model = trained(variant, double_q=double_q, target_update_interval=10_000, learning_rate=1e-2)
    batch = model.sample(40)
    cut = (batch.truncated & ~batch.terminated).any(dim=1)
    assert (batch.done & cut).any() and (batch.done & ~cut).any() and (~batch.alive).any() and set(batch.masks) == {"b", "c"}
    expected = SlowQtran(model).losses(batch)
    logged = model.gradient_step(batch)
    for name, value in expected.items():
        assert float(logged[name]) == pytest.approx(value, rel=2e-4, abs=1e-5), name
    total = sum(expected[f"train/{name}_loss"] for name in ("td", "opt", "nopt"))
    assert float(logged["train/loss"]) == pytest.approx(total, rel=2e-4)


@pytest.mark.e2e
@pytest.mark.parametrize("variant", VARIANTS)
def test_alike_agents_computed_together_equal_sb3s_networks(variant: str) -> None:
    settings = {"learning_starts": 10, "train_freq": 2, "batch_size": 8, "seed": 0, "device": "cpu", "variant": variant}
    together, apart = (QTRAN("MlpPolicy", game, **settings, backend=backend) for backend in ("torch", "sb3"))
    for model in (together, apart):
        np.random.seed(0)
        model.learn(30)
    assert together.utilities.stacks and not apart.utilities.stacks
    for one, other in zip(together.policy.parameters(), apart.policy.parameters(), strict=True):
        th.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.cases(e2e=["alt"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_only_the_weights_of_the_losses_decide_what_learns(variant: str) -> None:
    model = trained(variant, opt_coef=0.0, nopt_coef=0.0)
    before = {name: value.clone() for name, value in model.state_value.state_dict().items()}
    heads = {agent: policy.q_net.q_net[-1].weight.clone() for agent, policy in model.utilities.policies.items()}
    bodies = {agent: policy.q_net.q_net[0].weight.clone() for agent, policy in model.utilities.policies.items()}
    model.train(5)
    assert all(th.equal(value, before[name]) for name, value in model.state_value.state_dict().items())
    for agent, policy in model.utilities.policies.items():
        assert th.equal(policy.q_net.q_net[-1].weight, heads[agent])
        assert not th.equal(policy.q_net.q_net[0].weight, bodies[agent])  # by the joint value's error


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_targets_follow_utilities_and_joint_networks(variant: str) -> None:
    model = trained(variant, target_update_interval=10_000)
    pairs = [*model.utilities.target_pairs(), (list(model.joint.parameters()), list(model.joint_target.parameters()))]
    assert not any(
        th.equal(one, other) for parameters, targets in pairs for one, other in zip(parameters, targets, strict=True)
    )
    assert not any(target.requires_grad for target in model.joint_target.parameters())
    model.update_targets()
    assert all(th.equal(*pair) for parameters, targets in pairs for pair in zip(parameters, targets, strict=True))


@pytest.mark.e2e
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_saved_model_predicts_and_trains_as_before(variant: str, tmp_path: Path) -> None:
    model = trained(variant)
    model.save(tmp_path / "model")
    loaded = QTRAN.load(tmp_path / "model", env=Trio, device="cpu")
    observations = model._last_obs
    for deterministic in (True, False):
        np.random.seed(0)
        before, _ = model.predict(observations, deterministic=deterministic)
        np.random.seed(0)
        after, _ = loaded.predict(observations, deterministic=deterministic)
        assert all(np.array_equal(before[agent], after[agent]) for agent in before)
    batch = model.sample(16)
    first, second = model.gradient_step(batch), loaded.gradient_step(batch)
    assert all(th.equal(first[name], second[name]) for name in first)
    assert_equal_parameters(model, loaded)


@pytest.mark.cases(e2e=["alt"], rest="expensive")
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_resumed_training_is_bit_for_bit_the_one_that_never_stopped(variant: str, tmp_path: Path) -> None:
    special = {"env": SavingTrio, "buffer_size": 60, "target_update_interval": 27, "train_freq": 2}
    whole = trained(variant, 120, **special)
    QTRAN(**{**SETTINGS, "variant": variant, **special}).learn(120, callback=Save(70, "step", tmp_path))
    th.manual_seed(99)
    np.random.seed(99)
    resumed = QTRAN.load(tmp_path / "model", env=SavingTrio, device="cpu")
    resumed.load_replay_buffer(tmp_path / "buffer")
    resumed.learn(120 - resumed.num_timesteps, reset_num_timesteps=False)
    assert_same(resumed, whole)


def assert_equal_parameters(one: Any, other: Any) -> None:
    """Networks, targets and optimisers are the same, bit for bit."""

    def check(left: Any, right: Any) -> None:
        assert type(left) is type(right)
        if isinstance(left, th.Tensor):
            assert th.equal(left, right)
        elif isinstance(left, dict):
            assert list(left) == list(right)
            for key in left:
                check(left[key], right[key])
        elif isinstance(left, list):
            assert len(left) == len(right)
            for pair in zip(left, right, strict=True):
                check(*pair)
        else:
            assert left == right

    check(one.get_parameters(), other.get_parameters())


def test_agents_are_saved_as_plain_dqn(tmp_path: Path) -> None:
    from stable_baselines3 import DQN

    model = trained()
    model.agents["a"].save(tmp_path / "a")
    observation = np.random.default_rng(0).uniform(-1, 1, (20, 3)).astype(np.float32)
    alone, _ = DQN.load(tmp_path / "a", device="cpu").predict(observation, deterministic=True)
    assert np.array_equal(alone, model.predict({"a": observation}, deterministic=True)[0]["a"])


def game() -> Any:
    return matrix_game_v0.parallel_env("coordination", max_cycles=3)


def test_state_of_observations_and_a_network_without_hidden_layers() -> None:
    settings = {"learning_starts": 10, "train_freq": 2, "batch_size": 8, "seed": 0, "device": "cpu"}
    model = QTRAN("MlpPolicy", game, **settings, state="observations", policy_kwargs={"net_arch": []}).learn(30)
    assert model.state_size == 2 and model._n_updates > 0
    assert model.joint.encoders.networks.weights[0].shape == (2, 1 + 2, 64)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"variant": "bese"}, "variant 'bese' is unknown; did you mean 'base'"),
        ({"opt_coef": -1.0}, "opt_coef must be a finite number that is not negative, got -1.0"),
        ({"nopt_coef": float("inf")}, "nopt_coef must be a finite number that is not negative, got inf"),
        ({"joint_embed_dim": 0}, "joint_embed_dim must be at least 1, got 0"),
        ({"team_reward": "max"}, "team_reward 'max' is unknown"),
        ({"state": "all"}, "state 'all' is unknown"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        QTRAN("MlpPolicy", game, **arguments)
