"""
One MATRL iteration after collection (Algorithms 1 and 2): predict, meta-game, aggregate, best response.

The coordinator reads the agents' rollout buffers, which joint collection has filled, and leaves the next policies in
the agents. Each stage is a small function of tensors or arrays; the coordinator only carries them from one to the next.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.common.utils import FloatSchedule

from sb3_matrl.best_response import BestResponseConfig, BestResponseStats, best_respond, clip_weights
from sb3_matrl.common.suggest import unknown
from sb3_matrl.finite import NonFiniteError, check_parameters, check_ratios, check_response_losses
from sb3_matrl.metagame import METHODS, SELECTIONS, MetaGame, Solution, check_applicable, solve
from sb3_matrl.metagame.stability import eigenvalues, fixed_point_type, improvement_lower_bound
from sb3_matrl.mixture import (
    ActionDistribution,
    blend_logits,
    effective_sample_size,
    interpolate_parameters,
    kl,
    opponent_weights,
    total_variation,
)
from sb3_matrl.report import MetaGameReport
from sb3_matrl.rollout import AgentBatch, agent_batch, install_masked_buffer, live_rows

AGGREGATIONS = ("parameters", "distill")
BEST_RESPONSE_STARTS = ("aggregated", "current", "predicted")
# The dense payoff table is reported up to this many agents (n 2^n numbers).
MAX_REPORTED_AGENTS = 4
# Ratios beyond exp(20) say no more than that; without a limit products of them could become inf or nan.
MAX_LOG_RATIO = 20.0
# What torch.distributions say of parameters that are NaN.
_REFUSED_BY_TORCH = "found invalid values"

Parameters = dict[str, th.Tensor]


@dataclass(frozen=True)
class CoordinatorConfig:
    """
    How the agents' updates are coordinated; the two switches give every ablation of Sec. 4.

    :param metagame: solve the meta-game; off means rho = 0, everyone predicted
    :param best_response: take best-response steps; off means that the aggregated policies are the next ones
    :param solver: see :func:`sb3_matrl.metagame.solve`
    :param selection: which equilibrium, if there are several: ``random``, ``welfare`` or ``progress``
    :param aggregation: ``parameters`` interpolates network parameters; ``distill`` then fits the exact mixture
    :param best_response_start: ``aggregated``, ``current`` or ``predicted`` parameters
    :param payoff_clip_range: clip c of the ratios in the meta-game; ``None`` for no clip
    :param distill_steps: Adam steps of ``aggregation="distill"``
    :raises ValueError: if a value is not one of those named
    """

    metagame: bool = True
    best_response: bool = True
    solver: str = "auto"
    selection: str = "random"
    aggregation: str = "parameters"
    best_response_start: str = "aggregated"
    payoff_clip_range: float | None = 0.2
    distill_steps: int = 10

    def __post_init__(self) -> None:
        choices = {
            "solver": METHODS,
            "selection": SELECTIONS,
            "aggregation": AGGREGATIONS,
            "best_response_start": BEST_RESPONSE_STARTS,
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(unknown(name, getattr(self, name), known))
        if self.payoff_clip_range is not None and not self.payoff_clip_range > 0.0:
            raise ValueError(f"payoff_clip_range must be positive, or None for no clipping; got {self.payoff_clip_range}")
        if self.distill_steps < 0:
            raise ValueError(f"distill_steps must not be negative, got {self.distill_steps}")


@dataclass(frozen=True)
class BestResponseArguments:
    """
    One agent's best-response arguments as a user gives them; see :class:`~sb3_matrl.best_response.BestResponseConfig`.

    ``learning_rate``, ``clip_range`` and ``clip_range_vf`` may be schedules of the remaining progress.
    """

    learning_rate: float | Schedule = 3e-4
    n_epochs: int = 5
    batch_size: int = 64
    clip_range: float | Schedule = 0.2
    weight_clip_range: float | None = 0.2
    clip_range_vf: float | Schedule | None = None
    normalize_advantage: bool = True
    ent_coef: float = 0.0
    vf_coef: float = 0.5
    kl_coef: float = 0.0
    max_grad_norm: float = 0.5
    target_kl: float | None = None

    def __post_init__(self) -> None:
        if self.n_epochs < 0:
            raise ValueError(f"br_n_epochs must not be negative, got {self.n_epochs}")
        if self.weight_clip_range is not None and not self.weight_clip_range > 0.0:
            raise ValueError(f"br_clip_range must be positive, or None for no clipping; got {self.weight_clip_range}")

    def at(self, progress_remaining: float) -> BestResponseConfig:
        """The settings when ``progress_remaining`` (from 1 down to 0) of the training is left."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        for name in ("learning_rate", "clip_range", "clip_range_vf"):
            if values[name] is not None:
                values[name] = FloatSchedule(values[name])(progress_remaining)
        return BestResponseConfig(**values)


@dataclass(frozen=True)
class _Snapshot:
    """An agent's policy at one moment: parameters of its actor and its action distributions on the rollout."""

    parameters: Parameters
    distribution: ActionDistribution


@dataclass(frozen=True)
class _Prediction:
    """The rollout of all agents with their current and predicted policies (lists follow the agents' order)."""

    batches: list[AgentBatch]
    current: list[_Snapshot]
    predicted: list[_Snapshot]
    ratios: th.Tensor
    mask: th.Tensor


class MATRLCoordinator:
    """
    Coordinates the updates of several SB3 on-policy learners that share one environment.

    It hooks their rollout buffers (see :func:`sb3_matrl.rollout.install_masked_buffer`); it holds configuration, the best
    responses' optimisers and a random generator, nothing else.

    :param learners: agent -> learner; fill their buffers by :func:`sb3_matrl.rollout.collect_rollout`
    :param config: switches and solver
    :param best_response: agent -> best-response arguments; defaults for all when ``None``
    :param rng: draws equilibria, solver restarts and minibatches
    :raises ValueError: if the solver does not apply to this number of agents
    """

    def __init__(
        self,
        learners: Mapping[str, OnPolicyAlgorithm],
        config: CoordinatorConfig | None = None,
        best_response: Mapping[str, BestResponseArguments] | None = None,
        rng: np.random.Generator | None = None,
    ) -> None:
        self.learners = dict(learners)
        for learner in self.learners.values():
            install_masked_buffer(learner)
        self.config = config or CoordinatorConfig()
        check_applicable(self.config.solver, len(self.learners))
        self.best_response = dict(best_response or {name: BestResponseArguments() for name in learners})
        self.rng = np.random.default_rng() if rng is None else rng
        self.optimizers = {
            name: th.optim.Adam(learner.policy.parameters(), lr=3e-4, eps=1e-5) for name, learner in self.learners.items()
        }
        self._actor_names = {name: actor_parameter_names(learner.policy) for name, learner in self.learners.items()}

    def update(self, progress_remaining: float = 1.0) -> MetaGameReport:
        """
        One iteration on the rollouts in the learners' buffers; the learners hold the next policies afterwards.

        :param progress_remaining: share of the training that is left, for schedules
        :return: the iteration's numbers
        :raises NonFiniteError: when an agent's update leads to NaN or infinite numbers; the agents are left in mid-update
        """
        try:
            return self._update(progress_remaining)
        except ValueError as error:
            if _REFUSED_BY_TORCH not in str(error):
                raise
            self._check_parameters("during the update")
            raise NonFiniteError("during the update, a policy's output on the rollout was NaN or infinite") from error

    def _update(self, progress_remaining: float) -> MetaGameReport:
        seconds: dict[str, float] = {}
        with _timed(seconds, "predict"):
            prediction = self._predict()
        check_ratios(self.learners, prediction.ratios)
        with _timed(seconds, "metagame"):
            game = self._metagame(prediction)
            solution = self._solve(game)
        weights = self._weights(prediction, solution.rho)
        with _timed(seconds, "best_response"):
            configs = {name: arguments.at(progress_remaining) for name, arguments in self.best_response.items()}
            self._aggregate(prediction, solution.rho, configs)
            stats = self._best_respond(prediction, weights, configs)
        self._check_parameters("after the best response")
        check_response_losses(stats)
        return self._report(prediction, game, solution, weights, configs, stats, seconds)

    def _check_parameters(self, when: str) -> None:
        for name, learner in self.learners.items():
            check_parameters(name, learner.policy, (learner.policy.optimizer, self.optimizers[name]), when)

    def _snapshot(self, name: str, observations: PyTorchObs) -> _Snapshot:
        policy = self.learners[name].policy
        named = dict(policy.named_parameters())
        parameters = {key: named[key].detach().clone() for key in self._actor_names[name]}
        return _Snapshot(parameters, action_distribution(policy, observations))

    def _predict(self) -> _Prediction:
        """Step 2 of Algorithm 1: every agent's own SB3 update against the others' current policies (Eq. 2)."""
        batches = [agent_batch(learner) for learner in self.learners.values()]
        pairs = list(zip(self.learners, batches, strict=True))
        current = [self._snapshot(name, batch.observations) for name, batch in pairs]
        for learner in self.learners.values():
            if learner.rollout_buffer.mask.any():  # type: ignore[attr-defined]  # SB3's train() fails without any row
                learner.train()
        self._check_parameters("after the predicted step")
        predicted = [self._snapshot(name, batch.observations) for name, batch in pairs]
        mask = live_rows(batches).cpu()
        columns = [_log_prob(self.learners[name].policy, batch) - batch.old_log_prob for name, batch in pairs]
        log_ratios = th.stack([column.cpu() for column in columns], dim=1).double()
        ratios = th.exp(log_ratios.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO))
        return _Prediction(batches, current, predicted, th.where(mask, ratios, 1.0), mask)

    def _metagame(self, prediction: _Prediction) -> MetaGame:
        """Step 3: payoffs of current and predicted policies, estimated on the rollout (Eqs. 3 and 5)."""
        advantages = th.stack([batch.advantages.cpu() for batch in prediction.batches], dim=1)
        return MetaGame(
            prediction.ratios.numpy(),
            advantages.double().numpy(),
            clip_range=self.config.payoff_clip_range,
            mask=prediction.mask.numpy(),
        )

    def _solve(self, game: MetaGame) -> Solution:
        """Step 4: a Nash equilibrium; all predicted when the meta-game is switched off."""
        if self.config.metagame:
            return solve(game, method=self.config.solver, selection=self.config.selection, rng=self.rng)
        rho = np.zeros(game.n_agents)
        return Solution(rho=rho, nash_conv=game.nash_conv(rho), method="none", equilibria=np.empty((0, game.n_agents)))

    def _weights(self, prediction: _Prediction, rho: np.ndarray) -> th.Tensor:
        """The best response's importance weights before clipping, (B, n)."""
        return opponent_weights(prediction.ratios, th.as_tensor(rho), prediction.mask)

    def _aggregate(self, prediction: _Prediction, rho: np.ndarray, configs: Mapping[str, BestResponseConfig]) -> None:
        """Step 5, and the start of step 6: the actors' parameters; critics keep the fit of the predicted step."""
        start = self.config.best_response_start if self.config.best_response else "aggregated"
        for i, name in enumerate(self.learners):
            weight = {"aggregated": float(rho[i]), "current": 1.0, "predicted": 0.0}[start]
            if weight == 0.0:
                continue  # the learner holds the predicted parameters already
            current, predicted = prediction.current[i], prediction.predicted[i]
            self._set_actor(name, interpolate_parameters(current.parameters, predicted.parameters, weight))
            if self.config.aggregation == "distill" and start == "aggregated" and weight < 1.0:
                target = blend_logits(current.distribution, predicted.distribution, weight)
                self._distill(name, prediction.batches[i], target, configs[name].learning_rate)

    def _set_actor(self, name: str, parameters: Parameters) -> None:
        named = dict(self.learners[name].policy.named_parameters())
        with th.no_grad():
            for key, value in parameters.items():
                named[key].copy_(value)

    def _distill(self, name: str, batch: AgentBatch, target: ActionDistribution, learning_rate: float) -> None:
        """Adam steps on KL(mixture || pi_theta) over the rollout's live rows."""
        policy = self.learners[name].policy
        named = dict(policy.named_parameters())
        optimizer = th.optim.Adam([named[key] for key in self._actor_names[name]], lr=learning_rate)
        live = batch.mask.float()
        for _ in range(self.config.distill_steps):
            divergence = kl(target, policy.get_distribution(batch.observations).distribution)  # type: ignore[arg-type]
            loss = (live * divergence).sum() / live.sum().clamp(min=1.0)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        policy.optimizer.zero_grad()

    def _best_respond(
        self, prediction: _Prediction, weights: th.Tensor, configs: Mapping[str, BestResponseConfig]
    ) -> dict[str, BestResponseStats]:
        """Step 6: every agent's clipped, weighted steps against the aggregated policies of the others (Eq. 6)."""
        if not self.config.best_response:
            return {}
        stats = {}
        for i, (name, learner) in enumerate(self.learners.items()):
            batch, config = prediction.batches[i], configs[name]
            column = clip_weights(weights[:, i], config.weight_clip_range).to(batch.advantages)
            stats[name] = best_respond(learner.policy, self.optimizers[name], batch, column, config, self.rng)
        return stats

    def _report(
        self,
        prediction: _Prediction,
        game: MetaGame,
        solution: Solution,
        weights: th.Tensor,
        configs: Mapping[str, BestResponseConfig],
        stats: dict[str, BestResponseStats],
        seconds: dict[str, float],
    ) -> MetaGameReport:
        clip_ranges = [configs[name].weight_clip_range for name in self.learners]
        return MetaGameReport(
            agents=tuple(self.learners),
            n_equilibria=len(solution.equilibria) if self.config.metagame else -1,
            clip_fraction=_clipped_share(prediction.ratios, prediction.mask, [self.config.payoff_clip_range] * game.n_agents),
            weight_clip_fraction=_clipped_share(weights, prediction.mask, clip_ranges),
            effective_sample_size=_sample_sizes(weights, prediction.mask, clip_ranges),
            best_response=stats,
            seconds=seconds,
            **_game_numbers(game, solution),
            **self._distances(prediction),
            **self._lower_bounds(prediction, game, solution.rho),
        )

    def _distances(self, prediction: _Prediction) -> dict[str, Any]:
        """Mean KL divergences of the predicted and of the next policies from the current ones, (n,) each."""
        kl_predicted, kl_next = [], []
        for i, learner in enumerate(self.learners.values()):
            batch, current = prediction.batches[i], prediction.current[i].distribution
            kl_predicted.append(_over_live(kl(current, prediction.predicted[i].distribution), batch, "mean"))
            kl_next.append(_over_live(kl(current, action_distribution(learner.policy, batch.observations)), batch, "mean"))
        return {"kl_predicted": np.array(kl_predicted), "kl_next": np.array(kl_next)}

    def _lower_bounds(self, prediction: _Prediction, game: MetaGame, rho: np.ndarray) -> dict[str, Any]:
        """Remarks 1 and C.1 from samples: maxima over the visited states and the executed actions."""
        gamma = np.array([learner.gamma for learner in self.learners.values()])
        epsilon = np.array([_over_live(batch.advantages.abs(), batch, "max") for batch in prediction.batches])
        policies = zip(prediction.batches, prediction.current, prediction.predicted, strict=True)
        distances = [(batch, total_variation(c.distribution, p.distribution)) for batch, c, p in policies]
        alpha = np.array([_over_live(distance, batch, "max") for batch, distance in distances])
        predicted_gain = game.expected_payoffs(np.zeros(game.n_agents))
        return {
            "total_variation": alpha,
            "predicted_lower_bound": improvement_lower_bound(predicted_gain, epsilon, alpha, gamma),
            "lower_bound": improvement_lower_bound(game.expected_payoffs(rho), epsilon, alpha, gamma, rho=rho),
        }


def _game_numbers(game: MetaGame, solution: Solution) -> dict[str, Any]:
    """What the meta-game itself says at its solution."""
    rho, equilibria = solution.rho, solution.equilibria
    payoffs = game.strategy_payoffs(rho)
    return {
        "rho": rho,
        "method": solution.method,
        "nash_conv": solution.nash_conv,
        "n_pure_equilibria": int(np.all((equilibria == 0.0) | (equilibria == 1.0), axis=1).sum()),
        "current_payoffs": payoffs[:, 0],
        "predicted_payoffs": payoffs[:, 1],
        "expected_payoffs": game.expected_payoffs(rho),
        "payoffs": game.payoffs() if game.n_agents <= MAX_REPORTED_AGENTS else None,
        "fixed_point": fixed_point_type(game, rho),
        "eigenvalues": eigenvalues(game.hessian(rho)),
    }


def _sample_sizes(weights: th.Tensor, mask: th.Tensor, clip_ranges: list[float | None]) -> np.ndarray:
    """Effective sample size of each agent's clipped weights over its live samples, (n,)."""
    clipped = [clip_weights(weights[:, i], clip_range)[mask[:, i]].numpy() for i, clip_range in enumerate(clip_ranges)]
    return np.array([effective_sample_size(column) for column in clipped])


def actor_parameter_names(policy: ActorCriticPolicy) -> list[str]:
    """
    Names of the parameters that shape the action distribution, shared feature extractors included.

    Found by differentiating the distribution's log-density and entropy, so any policy class works.
    """
    observation = _example_observation(policy)
    distribution = policy.get_distribution(observation)
    actions = distribution.get_actions(deterministic=True)
    objective = distribution.log_prob(actions).sum()
    entropy = distribution.entropy()
    if entropy is not None:
        objective = objective + entropy.sum()
    named = [(name, value) for name, value in policy.named_parameters() if value.requires_grad]
    gradients = th.autograd.grad(objective, [value for _, value in named], allow_unused=True)
    return [name for (name, _), gradient in zip(named, gradients, strict=True) if gradient is not None]


def _example_observation(policy: ActorCriticPolicy) -> PyTorchObs:
    """A batch of one zero observation, as a tensor or a dict of tensors."""

    def zero(space: spaces.Space[Any]) -> np.ndarray:
        return np.zeros(space.shape or (), dtype=space.dtype)

    space = policy.observation_space
    if isinstance(space, spaces.Dict):
        return policy.obs_to_tensor({key: zero(value) for key, value in space.spaces.items()})[0]
    return policy.obs_to_tensor(zero(space))[0]


def action_distribution(policy: ActorCriticPolicy, observations: PyTorchObs) -> ActionDistribution:
    """The policy's action distributions on a batch of observations, without gradient."""
    policy.set_training_mode(False)
    with th.no_grad():
        return policy.get_distribution(observations).distribution  # type: ignore[return-value]


def _log_prob(policy: ActorCriticPolicy, batch: AgentBatch) -> th.Tensor:
    policy.set_training_mode(False)
    with th.no_grad():
        return policy.evaluate_actions(batch.observations, batch.actions)[1]


def _over_live(values: th.Tensor, batch: AgentBatch, statistic: str) -> float:
    """Mean or maximum over the rows in which the agent acted; 0 if it never did."""
    live = values[batch.mask]
    if len(live) == 0:
        return 0.0
    return float(live.max() if statistic == "max" else live.mean())


def _clipped_share(values: th.Tensor, mask: th.Tensor, clip_ranges: list[float | None]) -> np.ndarray:
    """Share of an agent's live samples whose distance from 1 exceeds the clip, per column."""
    shares = []
    for i, clip_range in enumerate(clip_ranges):
        live = values[:, i][mask[:, i]]
        outside = (live - 1.0).abs() > clip_range if clip_range is not None else th.zeros(len(live))
        shares.append(float(outside.double().mean()) if len(live) else 0.0)
    return np.array(shares)


@contextmanager
def _timed(seconds: dict[str, float], phase: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[phase] = time.perf_counter() - start
