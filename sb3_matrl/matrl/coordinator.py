"""
One MATRL iteration after collection (Algorithms 1 and 2): predict, meta-game, aggregate, best response.

The coordinator reads the agents' rollout buffers, which joint collection has filled, and leaves the next policies in the
agents. Each stage is a function of tensors or arrays; the coordinator passes them from one stage to the next.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from sb3_matrl.common.argument_checks import check_range
from sb3_matrl.common.finite import REFUSED_BY_TORCH, NonFiniteError, check_parameters
from sb3_matrl.matrl.best_response import (
    BestResponse,
    BestResponseConfig,
    BestResponseStats,
    best_respond,
    best_respond_together,
    clip_weights,
)
from sb3_matrl.matrl.metagame_report import MetaGameReport
from sb3_matrl.matrl.mixture import (
    blend_logits,
    effective_sample_size,
    interpolate_parameters,
    kl,
    opponent_weights,
    total_variation,
)
from sb3_matrl.matrl.update_checks import check_ratios, check_response_losses
from sb3_matrl.metagame import METHODS, SELECTIONS, MetaGame, Solution, check_applicable, solve
from sb3_matrl.metagame.stability import eigenvalues, fixed_point_type, improvement_lower_bound
from sb3_matrl.on_policy.batch import (
    AgentBatch,
    action_distribution,
    actor_parameter_names,
    agent_batch,
    chunks,
    take_rows,
)
from sb3_matrl.on_policy.buffers import install_masked_buffer
from sb3_matrl.on_policy.joint_updates import JointUpdates
from sb3_matrl.utils.distributions import ActionDistribution, rows_of_distribution
from sb3_matrl.utils.suggest import unknown

AGGREGATIONS = ("parameters", "distill")
BEST_RESPONSE_STARTS = ("aggregated", "current", "predicted")
# The dense payoff table is reported up to this many agents (n 2^n numbers).
MAX_REPORTED_AGENTS = 4
# Limit of log-ratios: products of larger ratios could become inf or nan.
MAX_LOG_RATIO = 20.0

Parameters = dict[str, th.Tensor]


@dataclass(frozen=True, kw_only=True)
class CoordinatorConfig:
    """
    Switches and solver of the coordinator, named and documented as the arguments of :class:`~sb3_matrl.MATRL`.

    ``metagame`` and ``best_response`` give every ablation of Sec. 4.

    :raises ValueError: if a value is not one of those documented
    """

    metagame: bool
    best_response: bool
    solver: str
    selection: str
    aggregation: str
    best_response_start: str
    payoff_clip_range: float | None
    distill_steps: int

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> CoordinatorConfig:
        """
        Take the settings from an algorithm's arguments.

        :param arguments: constructor arguments by name
        """
        return cls(**{field.name: arguments[field.name] for field in fields(cls)})

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
        check_range("payoff_clip_range", self.payoff_clip_range)
        check_range("distill_steps", self.distill_steps)


@dataclass(frozen=True)
class _Snapshot:
    """A learner's policy at one moment: parameters of its actor, its action distributions and log-densities on the rollout."""

    parameters: Parameters
    distribution: ActionDistribution
    log_prob: th.Tensor


@dataclass(frozen=True)
class _Prediction:
    """
    The rollout of all learners with their current and predicted policies (lists follow the learners' order).

    The B joint samples of the meta-game are env steps: the ratio of agents that share a learner is the product of theirs,
    the advantage the sum, over those that acted.
    """

    batches: list[AgentBatch]
    current: list[_Snapshot]
    predicted: list[_Snapshot]
    ratios: th.Tensor
    advantages: th.Tensor
    mask: th.Tensor


class MATRLCoordinator:
    """
    Coordinates the updates of several SB3 on-policy learners that share one environment.

    It hooks their rollout buffers (see :func:`~sb3_matrl.on_policy.buffers.install_masked_buffer`) and holds the
    configuration, the best responses' optimisers and a random generator.

    The learners are the players of the meta-game. A learner that several agents share is one player: its ratio is
    the product of theirs, its payoff their sum, and one ``rho`` mixes their policy.

    :param learners: name -> learner; :class:`~sb3_matrl.on_policy.rollout.RolloutCollector` fills their buffers
    :param config: switches and solver
    :param rng: random generator for equilibria, solver restarts and minibatches; ``None`` for a fresh one
    :param group_sizes: name -> number of agents that share the learner, whose buffer has one block of env copies for each of
        them; 1 for all if ``None``
    :param backend: code that takes the gradient steps, see :class:`~sb3_matrl.on_policy.joint_updates.JointUpdates`
    :raises ValueError: if the solver does not apply to this number of learners, or the backend is unknown
    """

    def __init__(
        self,
        learners: Mapping[str, OnPolicyAlgorithm],
        config: CoordinatorConfig,
        rng: np.random.Generator | None = None,
        group_sizes: Mapping[str, int] | None = None,
        backend: str = "sb3",
    ) -> None:
        self.learners = dict(learners)
        self.group_sizes = {name: (group_sizes or {}).get(name, 1) for name in self.learners}
        for learner in self.learners.values():
            install_masked_buffer(learner)
        self.joint = JointUpdates(self.learners, backend)
        self.config = config
        check_applicable(self.config.solver, len(self.learners))
        self.rng = np.random.default_rng() if rng is None else rng
        self.optimizers = {
            name: th.optim.Adam(learner.policy.parameters(), eps=learner.policy.optimizer.defaults.get("eps", 1e-5))
            for name, learner in self.learners.items()
        }
        self._actor_names = {name: actor_parameter_names(learner.policy) for name, learner in self.learners.items()}

    def update(self, best_response: Mapping[str, BestResponseConfig]) -> MetaGameReport:
        """
        One iteration on the rollouts in the learners' buffers; the learners hold the next policies afterwards.

        :param best_response: learner -> settings of its best response
        :return: outcome and diagnostics of the iteration
        :raises NonFiniteError: if an agent's update leads to NaN or infinite numbers; the agents are left in mid-update
        """
        try:
            return self._update(best_response)
        except ValueError as error:
            if REFUSED_BY_TORCH not in str(error):
                raise
            self._check_parameters("during the update")
            raise NonFiniteError("during the update, a policy's output on the rollout was NaN or infinite") from error

    def _update(self, configs: Mapping[str, BestResponseConfig]) -> MetaGameReport:
        seconds: dict[str, float] = {}
        self.joint.refresh()
        with _timed(seconds, "predict"):
            prediction = self._predict()
        check_ratios(self.learners, prediction.ratios)
        with _timed(seconds, "metagame"):
            game = self._metagame(prediction)
            solution = self._solve(game)
        weights = self._weights(prediction, solution.rho)
        with _timed(seconds, "best_response"):
            self._aggregate(prediction, solution.rho, configs)
            stats = self._best_respond(prediction, weights, configs)
        self._check_parameters("after the best response")
        check_response_losses(stats)
        return self._report(prediction, game, solution, weights, configs, stats, seconds)

    def _check_parameters(self, when: str) -> None:
        for name, learner in self.learners.items():
            check_parameters(name, learner.policy, (learner.policy.optimizer, self.optimizers[name]), when)

    def _snapshots(self, batches: Mapping[str, AgentBatch]) -> list[_Snapshot]:
        """The learners' policies at this moment, in their order."""
        snapshots, evaluated = [], self.joint.log_probs_and_distributions(batches)
        for name, learner in self.learners.items():
            named = dict(learner.policy.named_parameters())
            parameters = {key: named[key].detach().clone() for key in self._actor_names[name]}
            log_prob, distribution = evaluated[name]
            snapshots.append(_Snapshot(parameters, distribution, log_prob))
        return snapshots

    def _predict(self) -> _Prediction:
        """Step 2 of Algorithm 1: every agent's own SB3 update against the others' current policies (Eq. 2)."""
        batches = [agent_batch(learner) for learner in self.learners.values()]
        by_name = dict(zip(self.learners, batches, strict=True))
        current = self._snapshots(by_name)
        self.joint.train(by_name)
        self._check_parameters("after the predicted step")
        predicted = self._snapshots(by_name)
        changes = [new.log_prob - batch.old_log_prob for new, batch in zip(predicted, batches, strict=True)]
        log_ratios = self._columns([th.where(b.mask, change, 0.0) for b, change in zip(batches, changes, strict=True)])
        ratios = th.exp(log_ratios.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO))
        advantages = self._columns([th.where(batch.mask, batch.advantages, 0.0) for batch in batches])
        mask = self._columns([batch.mask for batch in batches]) > 0.0
        return _Prediction(batches, current, predicted, ratios, advantages, mask)

    def _columns(self, values: list[th.Tensor]) -> th.Tensor:
        """Sums over the agents that share a learner: from tensors (group size * B,) to one (B, n) of doubles."""
        sizes = self.group_sizes.values()
        sums = [value.cpu().double().view(size, -1).sum(dim=0) for value, size in zip(values, sizes, strict=True)]
        return th.stack(sums, dim=1)

    def _metagame(self, prediction: _Prediction) -> MetaGame:
        """Step 3: payoffs of current and predicted policies, estimated on the rollout (Eqs. 3 and 5)."""
        return MetaGame(
            prediction.ratios.numpy(),
            prediction.advantages.numpy(),
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
        """Importance weights of the best response before clipping, (B, n)."""
        return opponent_weights(prediction.ratios, th.as_tensor(rho), prediction.mask)

    def _aggregate(self, prediction: _Prediction, rho: np.ndarray, configs: Mapping[str, BestResponseConfig]) -> None:
        """Step 5, and the start of step 6: the actors' parameters; critics keep the fit of the predicted step."""
        start = self.config.best_response_start if self.config.best_response else "aggregated"
        for i, name in enumerate(self.learners):
            weight = {"aggregated": float(rho[i]), "current": 1.0, "predicted": 0.0}[start]
            if weight == 0.0:
                continue  # the learner has the predicted parameters
            current, predicted = prediction.current[i], prediction.predicted[i]
            self._set_actor(name, interpolate_parameters(current.parameters, predicted.parameters, weight))
            if self.config.aggregation == "distill" and start == "aggregated" and weight < 1.0:
                target = blend_logits(current.distribution, predicted.distribution, weight)
                self._distill(name, prediction.batches[i], target, configs[name].br_learning_rate)

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
        parts = [(take_rows(batch, rows), rows_of_distribution(target, rows)) for rows in chunks(policy, batch)]
        n_live = batch.mask.float().sum().clamp(min=1.0)
        for _ in range(self.config.distill_steps):
            optimizer.zero_grad()
            for part, goal in parts:
                divergence = kl(goal, action_distribution(policy, part))
                loss = (part.mask.float() * divergence).sum() / n_live
                loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        policy.optimizer.zero_grad()

    def _best_respond(
        self, prediction: _Prediction, weights: th.Tensor, configs: Mapping[str, BestResponseConfig]
    ) -> dict[str, BestResponseStats]:
        """Step 6: every agent's clipped, weighted steps against the aggregated policies of the others (Eq. 6)."""
        if not self.config.best_response:
            return {}
        tasks = {}
        for i, (name, learner) in enumerate(self.learners.items()):
            batch, config = prediction.batches[i], configs[name]
            column = clip_weights(weights[:, i], config.br_clip_range).to(batch.advantages).repeat(self.group_sizes[name])
            tasks[name] = BestResponse(learner.policy, self.optimizers[name], batch, column, config)
        stacks, rest = self.joint.usable()
        stats = {name: best_respond(tasks[name], self.rng) for name in rest}
        for one in stacks:
            stats |= zip(one.names, best_respond_together(one, [tasks[name] for name in one.names], self.rng), strict=True)
        return {name: stats[name] for name in self.learners}

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
        clip_ranges = [configs[name].br_clip_range for name in self.learners]
        return MetaGameReport(
            agents=tuple(self.learners),
            n_equilibria=len(solution.equilibria) if self.config.metagame else -1,
            clip_fraction=_clipped_share(prediction.ratios, prediction.mask, [self.config.payoff_clip_range] * game.n_agents),
            weight_clip_fraction=_clipped_share(weights, prediction.mask, clip_ranges),
            effective_sample_size=_sample_sizes(weights, prediction.mask, clip_ranges),
            best_response=stats,
            seconds=seconds,
            **_game_numbers(game, solution),
            **self._distances(prediction, solution.rho),
            **self._lower_bounds(prediction, game, solution.rho),
        )

    def _distances(self, prediction: _Prediction, rho: np.ndarray) -> dict[str, Any]:
        """Mean KL divergences of the predicted and of the next policies from the current ones, (n,) each."""
        kl_predicted, kl_next = [], []
        unchanged = not self.config.best_response and not rho.any()  # the next policies are the predicted ones
        by_name = dict(zip(self.learners, prediction.batches, strict=True))
        evaluated = {} if unchanged else self.joint.log_probs_and_distributions(by_name)
        for i, name in enumerate(self.learners):
            batch, current = prediction.batches[i], prediction.current[i].distribution
            kl_predicted.append(_over_live(kl(current, prediction.predicted[i].distribution), batch))
            kl_next.append(kl_predicted[i] if unchanged else _over_live(kl(current, evaluated[name][1]), batch))
        return {"kl_predicted": np.array(kl_predicted), "kl_next": np.array(kl_next)}

    def _lower_bounds(self, prediction: _Prediction, game: MetaGame, rho: np.ndarray) -> dict[str, Any]:
        """Remarks 1 and C.1 from samples: maxima over the visited states and the executed actions."""
        gamma = np.array([learner.gamma for learner in self.learners.values()])
        epsilon = prediction.advantages.abs().amax(dim=0).numpy()
        policies = zip(prediction.batches, prediction.current, prediction.predicted, strict=True)
        distances = [th.where(batch.mask, total_variation(c.distribution, p.distribution), 0.0) for batch, c, p in policies]
        # For agents that share a learner, the sum bounds the total variation of their joint policy.
        alpha = self._columns(distances).clamp(max=1.0).amax(dim=0).numpy()
        predicted_gain = game.expected_payoffs(np.zeros(game.n_agents))
        return {
            "total_variation": alpha,
            "predicted_lower_bound": improvement_lower_bound(predicted_gain, epsilon, alpha, gamma),
            "lower_bound": improvement_lower_bound(game.expected_payoffs(rho), epsilon, alpha, gamma, rho=rho),
        }


def _game_numbers(game: MetaGame, solution: Solution) -> dict[str, Any]:
    """Numbers of the meta-game at its solution."""
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


def _over_live(values: th.Tensor, batch: AgentBatch) -> float:
    """Mean over the rows in which the agent acted; 0 if it never did."""
    live = values[batch.mask]
    return float(live.mean()) if len(live) > 0 else 0.0


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
