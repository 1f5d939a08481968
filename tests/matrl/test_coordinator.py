"""One iteration: what is computed from the rollout, and what the agents hold afterwards."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from torch.distributions import Categorical

from sb3_matrl import MATRL, MATRLCoordinator
from sb3_matrl.common.agents import SpacesVecEnv
from sb3_matrl.common.arguments import LearnerArguments, constructor_arguments
from sb3_matrl.envs import checkers_v0, matrix_game_v0
from sb3_matrl.matrl.best_response import BestResponseConfig
from sb3_matrl.matrl.coordinator_config import CoordinatorConfig
from sb3_matrl.matrl.mixture import blend_logits, kl
from sb3_matrl.metagame import MetaGame, Solution
from sb3_matrl.on_policy.batch import actor_parameter_names, agent_batch
from tests.vec_env.toys import early_death

SMALL: dict[str, Any] = {
    "n_envs": 4,
    "n_steps": 16,
    "batch_size": 64,
    "n_epochs": 3,
    "learning_rate": 0.01,
    "policy_kwargs": {"net_arch": [8]},
    "seed": 0,
    "device": "cpu",
}


class Watched:
    """A model after one rollout, with the current, predicted and final actors of one update."""

    def __init__(self, rho: Any = None, env: Any = checkers_v0.parallel_env, **kwargs: Any) -> None:
        self.model = MATRL("MlpPolicy", env, **{**SMALL, **kwargs})
        self.model.learn(0)
        callback = self.model._init_callback(None)
        assert self.model.collect_rollouts(callback)
        self.coordinator = self.model.coordinator
        self.batches = [copy.deepcopy(agent_batch(learner)) for learner in self.model.agents.values()]
        self.current = self._actors()
        if rho is not None:
            self._force(np.asarray(rho, dtype=float))
        predict = self.coordinator._predict

        def watched_predict() -> Any:
            prediction = predict()
            self.predicted, self.predicted_values = self._actors(), self._all()
            self.prediction = prediction
            return prediction

        self.coordinator._predict = watched_predict  # type: ignore[method-assign]
        self.model._total_timesteps = 1000
        self.report = self.coordinator.update(self.model._best_response_configs())
        self.final = self._actors()

    def _force(self, rho: np.ndarray) -> None:
        equilibria = rho[None]
        self.coordinator._solve = lambda game, _: Solution(rho, game.nash_conv(rho), "forced", equilibria)  # type: ignore[method-assign]

    def _actors(self) -> list[dict[str, th.Tensor]]:
        names = self.coordinator._actor_names
        return [
            {key: dict(learner.policy.named_parameters())[key].detach().clone() for key in names[name]}
            for name, learner in self.model.agents.items()
        ]

    def _all(self) -> list[dict[str, th.Tensor]]:
        return [copy.deepcopy(learner.policy.state_dict()) for learner in self.model.agents.values()]


def assert_actors_equal(first: list[dict[str, th.Tensor]], second: list[dict[str, th.Tensor]]) -> None:
    for mine, theirs in zip(first, second, strict=True):
        for key, value in theirs.items():
            th.testing.assert_close(mine[key], value, rtol=0, atol=1e-7)


def test_actor_parameters_are_those_that_shape_the_action_distribution() -> None:
    model = MATRL("MlpPolicy", checkers_v0.parallel_env, **SMALL)
    names = actor_parameter_names(model.agents["agent_0"].policy)
    assert set(names) == {
        "mlp_extractor.policy_net.0.weight",
        "mlp_extractor.policy_net.0.bias",
        "action_net.weight",
        "action_net.bias",
    }


def test_ratios_are_predicted_over_current_density_of_the_executed_actions() -> None:
    watched = Watched()
    for i, (name, learner) in enumerate(watched.model.agents.items()):
        batch = watched.batches[i]
        logits = []
        for parameters in (watched.current[i], watched.predicted[i]):
            policy = copy.deepcopy(learner.policy)
            policy.load_state_dict({**policy.state_dict(), **parameters})
            logits.append(policy.get_distribution(batch.observations).distribution.logits.detach())
        rows = th.arange(len(batch.actions))
        expected = (logits[1] - logits[0])[rows, batch.actions].exp()
        np.testing.assert_allclose(watched.prediction.ratios[:, i], expected.numpy(), rtol=2e-5, err_msg=name)


def test_payoffs_are_the_mean_of_the_product_of_ratios_and_centred_advantage() -> None:
    watched = Watched(payoff_clip_range=0.1)
    ratios = watched.prediction.ratios.numpy().clip(0.9, 1.1)
    report = watched.report
    assert report.payoffs is not None and report.payoffs.shape == (2, 2, 2)
    for i in range(2):
        advantage = watched.batches[i].advantages.double().numpy()
        advantage = advantage - advantage.mean()
        for x0 in (0, 1):
            for x1 in (0, 1):
                expected = np.mean(advantage * ratios[:, 0] ** x0 * ratios[:, 1] ** x1)
                assert report.payoffs[i, x0, x1] == pytest.approx(expected, abs=1e-12)


def test_rho_is_an_equilibrium_of_the_payoffs() -> None:
    report = Watched().report
    assert report.nash_conv <= 1e-6 * np.abs(report.payoffs).max()
    game = MetaGame.from_payoffs(report.payoffs)
    assert game.nash_conv(report.rho) == pytest.approx(report.nash_conv, abs=1e-12)


@pytest.mark.parametrize(
    ("start", "weight"), [("aggregated", [0.25, 0.75]), ("current", [1.0, 1.0]), ("predicted", [0.0, 0.0])]
)
def test_best_response_starts_where_it_is_told(start: str, weight: list[float]) -> None:
    # With no epochs the final policies are the start of the best response.
    watched = Watched(rho=[0.25, 0.75], best_response_start=start, br_n_epochs=0)
    expected = [
        {key: w * watched.current[i][key] + (1 - w) * watched.predicted[i][key] for key in watched.current[i]}
        for i, w in enumerate(weight)
    ]
    assert_actors_equal(watched.final, expected)


def test_without_best_response_the_aggregated_policies_are_next_whatever_the_start() -> None:
    watched = Watched(rho=[0.0, 0.5], best_response=False, best_response_start="current")
    halfway = {key: (watched.current[1][key] + watched.predicted[1][key]) / 2 for key in watched.current[1]}
    assert_actors_equal(watched.final, [watched.predicted[0], halfway])
    assert watched.report.best_response == {}


def test_critics_keep_the_fit_of_the_predicted_step() -> None:
    watched = Watched(rho=[1.0, 1.0], best_response=False)
    for i, learner in enumerate(watched.model.agents.values()):
        for key, value in learner.policy.state_dict().items():
            if "value" in key:
                assert th.equal(value, watched.predicted_values[i][key])
    assert_actors_equal(watched.final, watched.current)


def test_switches_off_leave_the_predicted_policies() -> None:
    watched = Watched(metagame=False, best_response=False)
    assert_actors_equal(watched.final, watched.predicted)
    assert watched.report.method == "none" and watched.report.n_equilibria == -1
    np.testing.assert_array_equal(watched.report.rho, [0.0, 0.0])


def test_il_la_weights_are_the_opponents_predicted_ratios() -> None:
    watched = Watched(metagame=False)
    weights = watched.coordinator._weights(watched.prediction, watched.report.rho)
    np.testing.assert_allclose(weights[:, 0], watched.prediction.ratios[:, 1])
    np.testing.assert_allclose(weights[:, 1], watched.prediction.ratios[:, 0])


def test_matrl_takes_the_steps_of_il_la_where_everybody_plays_predicted() -> None:
    def trained(**switches: Any) -> tuple[MATRL, list[np.ndarray]]:
        model, found = MATRL("MlpPolicy", checkers_v0.parallel_env, **{**SMALL, "learning_rate": 0.001, **switches}), []
        for _ in range(4):
            model.learn(64, reset_num_timesteps=False)
            assert model.report is not None
            found.append(model.report.rho)
        return model, found

    (matrl, rho), (il_la, _) = trained(), trained(metagame=False)
    np.testing.assert_array_equal(rho, np.zeros((4, 2)))
    for agent, learner in matrl.agents.items():
        for ours, theirs in zip(learner.policy.parameters(), il_la.agents[agent].policy.parameters(), strict=True):
            assert th.equal(ours, theirs)


def test_forced_rho_one_makes_all_weights_exactly_one() -> None:
    watched = Watched(rho=[1.0, 1.0])
    weights = watched.coordinator._weights(watched.prediction, watched.report.rho)
    assert th.equal(weights, th.ones_like(weights))
    np.testing.assert_array_equal(watched.report.effective_sample_size, [1.0, 1.0])


def test_distillation_approaches_the_exact_mixture() -> None:
    def distance(watched: Watched, i: int = 0) -> float:
        current, predicted = (p[i].distribution for p in (watched.prediction.current, watched.prediction.predicted))
        target = blend_logits(current, predicted, 0.5)
        learner = watched.model.agents[f"agent_{i}"]
        return float(kl(target, learner.policy.get_distribution(watched.batches[i].observations).distribution).mean().detach())

    # Large steps, so that interpolated parameters are far from the mixture.
    common: dict[str, Any] = {"rho": [0.5, 0.5], "best_response": False, "n_epochs": 40, "learning_rate": 0.03}
    plain = Watched(**common)
    distilled = Watched(**common, aggregation="distill", distill_steps=100, br_learning_rate=0.003)
    assert distance(distilled) < 0.5 * distance(plain)


def test_report_diagnostics_match_direct_computation() -> None:
    watched = Watched(br_clip_range=0.05, payoff_clip_range=0.05)
    report, ratios = watched.report, watched.prediction.ratios.numpy()
    for i in range(2):
        current, predicted = (p[i].distribution for p in (watched.prediction.current, watched.prediction.predicted))
        assert isinstance(current, Categorical) and isinstance(predicted, Categorical)
        p, q = current.probs.double(), predicted.probs.double()
        assert report.total_variation[i] == pytest.approx(float((0.5 * (p - q).abs().sum(1)).max()), rel=1e-4)
        assert report.kl_predicted[i] == pytest.approx(float((p * (p.log() - q.log())).sum(1).mean()), rel=1e-3)
        assert report.clip_fraction[i] == pytest.approx(np.mean(np.abs(ratios[:, i] - 1) > 0.05))
        weight = report.rho[1 - i] + (1 - report.rho[1 - i]) * ratios[:, 1 - i]
        clipped = weight.clip(0.95, 1.05)
        assert report.weight_clip_fraction[i] == pytest.approx(np.mean(np.abs(weight - 1) > 0.05))
        assert report.effective_sample_size[i] == pytest.approx(clipped.sum() ** 2 / (len(clipped) * (clipped**2).sum()))
        epsilon = float(watched.batches[i].advantages.abs().max())
        a = 1 - np.prod(1 - report.total_variation)
        bound = report.predicted_payoffs[i] if (report.rho == 0).all() else None
        if bound is not None:
            assert report.predicted_lower_bound[i] == pytest.approx(bound - 4 * 0.99 * epsilon / 0.01**2 * a**2, rel=1e-5)
        assert report.lower_bound[i] >= report.predicted_lower_bound[i] - 1e-9 or report.rho.any()


def test_rows_of_dead_agents_do_not_influence_anyone() -> None:
    # Agents end one after the other; poisoning the rows in which they did not act must change nothing.
    def run(poison: float) -> tuple[Any, list[th.Tensor]]:
        model = MATRL("MlpPolicy", early_death, **SMALL)
        model.learn(0)
        model.collect_rollouts(model._init_callback(None))
        masked = 0
        for learner in model.agents.values():
            buffer: Any = learner.rollout_buffer
            dead = ~buffer.mask
            masked += int(dead.sum())
            for array, value in ((buffer.advantages, poison), (buffer.log_probs, -poison), (buffer.observations, poison)):
                array[dead] = value
        assert masked > 0
        model._total_timesteps = 1000
        report = model.coordinator.update(model._best_response_configs())
        return report, [value.clone() for learner in model.agents.values() for value in learner.policy.parameters()]

    report, parameters = run(0.0)
    poisoned_report, poisoned_parameters = run(7.0)
    for mine, theirs in zip(parameters, poisoned_parameters, strict=True):
        assert th.equal(mine, theirs)
    for key, value in report.scalars().items():
        if not key.startswith("time/"):
            assert value == poisoned_report.scalars()[key], key


DEFAULTS = {name: spec.default for name, spec in constructor_arguments(MATRL).items()}


def config(**changes: Any) -> CoordinatorConfig:
    return CoordinatorConfig.of(DEFAULTS | changes)


def best_response(left: float = 1.0, **changes: Any) -> BestResponseConfig:
    return BestResponseConfig.of(LearnerArguments(DEFAULTS | changes, ["a"]), "a", left)


def test_coordinator_stands_alone_with_plain_learners() -> None:
    model = MATRL("MlpPolicy", matrix_game_v0.parallel_env, **SMALL)
    model.learn(0)
    model.collect_rollouts(model._init_callback(None))
    coordinator = MATRLCoordinator(model.agents, config(solver="enumeration"), rng=np.random.default_rng(0))
    report = coordinator.update(dict.fromkeys(model.agents, best_response()))
    assert report.agents == tuple(model.agents)
    assert all(stats.n_updates > 0 for stats in report.best_response.values())


def test_coordinator_hooks_the_rollout_buffers_and_no_more_than_once() -> None:
    space = gym.spaces.Box(-1, 1, (2,), np.float32)
    learner = PPO("MlpPolicy", SpacesVecEnv(2, space, gym.spaces.Discrete(3)), n_steps=8, batch_size=16, device="cpu")
    MATRLCoordinator({"a": learner}, config())
    buffer: Any = learner.rollout_buffer
    assert buffer.mask.shape == (8, 2) and buffer.observations.shape == (8, 2, 2)
    assert learner.rollout_buffer_class is RolloutBuffer
    MATRLCoordinator({"a": learner}, config())
    assert learner.rollout_buffer is buffer


def test_schedules_are_evaluated_at_the_remaining_progress() -> None:
    schedules = {"learning_rate": lambda left: 0.1 * left, "clip_range": lambda left: 0.2 * left}
    found = best_response(0.5, **schedules)
    assert (found.br_learning_rate, found.clip_range, found.clip_range_vf) == (0.05, 0.1, None)
    assert best_response(0.5, **schedules, br_learning_rate=lambda left: left).br_learning_rate == 0.5


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("solver", "enumerate", "did you mean 'enumeration'"),
        ("selection", "best", "selection 'best' is unknown"),
        ("aggregation", "distil", "did you mean 'distill'"),
        ("best_response_start", "aggregate", "did you mean 'aggregated'"),
        ("payoff_clip_range", 0.0, "payoff_clip_range must be greater than 0"),
        ("distill_steps", -1, "distill_steps must be at least 0"),
    ],
)
def test_unusable_settings_are_named(name: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**{name: value})


@pytest.mark.parametrize(
    ("arguments", "message"), [({"br_n_epochs": -1}, "br_n_epochs"), ({"br_clip_range": 0.0}, "br_clip_range")]
)
def test_unusable_best_response_settings_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        best_response(**arguments)
