"""
One MATRL iteration after collection (Algorithms 1 and 2): predict, meta-game, aggregate, best response.

The coordinator reads the agents' rollout buffers, which joint collection has filled, and leaves the next policies in the
agents. Each stage is a function of tensors or arrays; the coordinator passes them from one stage to the next.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch as th
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from sb3_matrl.common.finite import REFUSED_BY_TORCH, NonFiniteError, check_parameters
from sb3_matrl.matrl.best_response import (
    BestResponse,
    BestResponseConfig,
    BestResponseStats,
    best_respond,
    best_respond_together,
    clip_weights,
)
from sb3_matrl.matrl.coordinator_config import CoordinatorConfig
from sb3_matrl.matrl.joint_samples import JointRollout, Samples
from sb3_matrl.matrl.metagame_report import MetaGameReport
from sb3_matrl.matrl.mixture import blend_logits, interpolate_parameters, kl, opponent_weights, total_variation
from sb3_matrl.matrl.prediction import Parameters, Prediction, Snapshot
from sb3_matrl.matrl.ratio_scope import scoped_log_ratios
from sb3_matrl.matrl.report_numbers import clipped_share, game_numbers, over_live, sample_sizes
from sb3_matrl.matrl.trial_steps import CURRENT, PREDICTED, TrialSteps, has_parameters_of, read_strategies
from sb3_matrl.matrl.update_checks import check_ratios, check_response_losses
from sb3_matrl.metagame import MetaGame, Solution, check_applicable, solve
from sb3_matrl.metagame.stability import improvement_lower_bound
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
from sb3_matrl.utils.devices import gradients_in_evaluation_mode
from sb3_matrl.utils.distributions import ActionDistribution, rows_of_distribution


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
    :raises ValueError: if the solver does not apply to this number of learners, the backend is unknown, or there are too few
        copies of the environment for cross-fitted payoffs
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
        self.strategies = read_strategies(config.strategies)
        check_applicable(config.solver, len(self.learners), len(self.strategies))
        if config.payoff_fit == "cross" and min(one.n_envs // self.group_sizes[name] for name, one in learners.items()) < 2:
            raise ValueError("payoff_fit='cross' needs two copies of the environment or more: pass n_envs")
        self.rng = np.random.default_rng() if rng is None else rng
        self.optimizers = {name: _best_response_optimizer(learner.policy) for name, learner in self.learners.items()}
        self._actor_names = {name: actor_parameter_names(learner.policy) for name, learner in self.learners.items()}
        self.trials = TrialSteps(self.strategies, self.learners, self.joint, config.optimism, config.optimistic_n_epochs)

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

    def _follow_replaced_parameters(self) -> None:
        """Make the optimisers of learners again whose layers or policies the user has replaced."""
        for name, learner in self.learners.items():
            if not has_parameters_of(self.optimizers[name], learner.policy):
                self.optimizers[name] = _best_response_optimizer(learner.policy)
                self._actor_names[name] = actor_parameter_names(learner.policy)
        self.trials.follow_replaced_parameters()

    def _update(self, configs: Mapping[str, BestResponseConfig]) -> MetaGameReport:
        seconds: dict[str, float] = {}
        self.joint.refresh()
        self._follow_replaced_parameters()
        with _timed(seconds, "predict"):
            prediction = self._predict()
        check_ratios(self.learners, prediction.ratios)
        with _timed(seconds, "metagame"):
            game = self._metagame(prediction)
            solution = self._solve(game, prediction)
        weights = self._weights(prediction, solution.sigma)
        with _timed(seconds, "best_response"):
            self._aggregate(prediction, solution.sigma, configs)
            stats = self._best_respond(prediction, weights, configs)
        self._check_parameters("after the best response")
        check_response_losses(stats)
        return self._report(prediction, game, solution, weights, configs, stats, seconds)

    def _check_parameters(self, when: str) -> None:
        for name, learner in self.learners.items():
            trials = (of_learner[name] for of_learner in self.trials.optimizers.values())
            check_parameters(name, learner.policy, (learner.policy.optimizer, self.optimizers[name], *trials), when)

    def _snapshots(self, batches: Mapping[str, AgentBatch]) -> list[Snapshot]:
        """The learners' policies at this moment, in their order."""
        snapshots, evaluated = [], self.joint.log_probs_and_distributions(batches)
        for name, learner in self.learners.items():
            named = dict(learner.policy.named_parameters())
            parameters = {key: named[key].detach().clone() for key in self._actor_names[name]}
            log_prob, distribution = evaluated[name]
            snapshots.append(Snapshot(parameters, distribution, log_prob))
        return snapshots

    def _predict(self) -> Prediction:
        """Step 2 of Algorithm 1: every agent's own SB3 update against the others' current policies (Eq. 2)."""
        batches = {name: agent_batch(learner) for name, learner in self.learners.items()}
        rollout = JointRollout(list(self.learners.values()), list(batches.values()), list(self.group_sizes.values()))
        fitted = self._fitted_copies(rollout.n_envs)
        policies = [self._snapshots(batches), *self._trial_policies(batches, fitted)]
        trials = [rollout.log_ratios([one.log_prob for one in policy]) for policy in policies[1:]]
        changes = trials[0] if len(trials) == 1 else np.stack(trials, axis=2)
        scope = self.config.ratio_scope
        ratios = th.exp(th.from_numpy(scoped_log_ratios(changes, rollout.episodes, scope)))
        judged = None if fitted is None else ~fitted
        return Prediction(rollout, policies, ratios, Samples.of(rollout, scope, self.config.episode_payoffs, judged))

    def _fitted_copies(self, n_envs: int) -> npt.NDArray[np.bool_] | None:
        """Copies that the trial steps learn from, bool (n_envs,): a random half, the payoffs are those of the other half."""
        if self.config.payoff_fit == "same":
            return None
        fitted = np.zeros(n_envs, dtype=bool)
        fitted[self.rng.permutation(n_envs)[: n_envs // 2]] = True
        return fitted

    def _trial_policies(
        self, batches: Mapping[str, AgentBatch], fitted: npt.NDArray[np.bool_] | None
    ) -> Iterator[list[Snapshot]]:
        """Every trial step begins with the current policies; the learners hold the policies of the first one in the end."""
        trials = self.strategies[1:]
        current = self._states() if len(trials) > 1 else []
        first: list[dict[str, Any]] = []
        for strategy in trials:
            if first:
                self._load(current)
            self.trials.take(strategy, batches, fitted)
            self._check_parameters(f"after the {strategy.name} step")
            yield self._snapshots(batches)
            first = first or (self._states() if current else [])
        if first:
            self._load(first)

    def _states(self) -> list[dict[str, Any]]:
        """Copies of the learners' whole policies, their critics included."""
        policies = [learner.policy for learner in self.learners.values()]
        return [{key: value.detach().clone() for key, value in policy.state_dict().items()} for policy in policies]

    def _load(self, states: list[dict[str, Any]]) -> None:
        for learner, state in zip(self.learners.values(), states, strict=True):
            learner.policy.load_state_dict(state)

    def _metagame(self, prediction: Prediction) -> MetaGame:
        """Step 3: payoffs of all strategies, estimated on the rollout (Eqs. 3 and 5)."""
        samples = prediction.samples
        ratios = prediction.ratios.numpy()[samples.rows]
        return MetaGame(ratios, samples.payoffs, clip_range=self.config.payoff_clip_range, mask=samples.mask)

    def _solve(self, game: MetaGame, prediction: Prediction) -> Solution:
        """Step 4: a Nash equilibrium; all take the last strategy when the meta-game is switched off."""
        if self.config.metagame:
            selection = self.config.selection
            if selection == "auto":
                selection = "welfare" if prediction.samples.nearly_common() else "random"
            return solve(game, method=self.config.solver, selection=selection, rng=self.rng)
        return _last_strategies(game)

    def _weights(self, prediction: Prediction, profile: np.ndarray) -> th.Tensor:
        """Importance weights of the best response before clipping, (B, n), for rho (n,) or sigma (n, K)."""
        mask = prediction.mask if self.config.ratio_scope == "step" else None
        return opponent_weights(prediction.ratios, th.as_tensor(profile), mask)

    def _aggregate(self, prediction: Prediction, sigma: np.ndarray, configs: Mapping[str, BestResponseConfig]) -> None:
        """Step 5, and the start of step 6: the actors' parameters; critics keep the fit of the first trial step."""
        start = self.config.best_response_start if self.config.best_response else "aggregated"
        for i, name in enumerate(self.learners):
            weights = self._start_weights(start, sigma[i])
            if weights[1] == 1.0:
                continue  # the learner has the parameters of the first trial step
            policies = [policy[i] for policy in prediction.policies]
            self._set_actor(name, interpolate_parameters([one.parameters for one in policies], weights))
            if self.config.aggregation == "distill" and start == "aggregated" and weights.max() < 1.0:
                target = _blended([one.distribution for one in policies], weights)
                self._distill(name, prediction.batches[i], target, configs[name].br_learning_rate)

    def _start_weights(self, start: str, own: np.ndarray) -> np.ndarray:
        """
        Weights (K,) of the strategies in the parameters at which a best response starts.

        :param start: value of ``best_response_start``
        :param own: the agent's meta-strategy (K,)
        """
        if start == "aggregated":
            return own
        names = [one.name for one in self.strategies]
        return np.asarray(np.eye(len(names))[names.index(CURRENT if start == "current" else PREDICTED)])

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
                with gradients_in_evaluation_mode(policy):
                    divergence = kl(goal, action_distribution(policy, part))
                    loss = (part.mask.float() * divergence).sum() / n_live
                    loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        policy.optimizer.zero_grad()

    def _best_respond(
        self, prediction: Prediction, weights: th.Tensor, configs: Mapping[str, BestResponseConfig]
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
        prediction: Prediction,
        game: MetaGame,
        solution: Solution,
        weights: th.Tensor,
        configs: Mapping[str, BestResponseConfig],
        stats: dict[str, BestResponseStats],
        seconds: dict[str, float],
    ) -> MetaGameReport:
        clip_ranges = [configs[name].br_clip_range for name in self.learners]
        rows, acted = prediction.samples.rows, th.from_numpy(prediction.samples.acted)
        payoff_clips = [self.config.payoff_clip_range] * game.n_agents
        return MetaGameReport(
            agents=tuple(self.learners),
            strategies=tuple(one.name for one in self.strategies),
            n_equilibria=len(solution.equilibria) if self.config.metagame else -1,
            clip_fraction=clipped_share(prediction.ratios[rows], acted, payoff_clips),
            weight_clip_fraction=clipped_share(weights[rows], acted, clip_ranges),
            effective_sample_size=sample_sizes(weights[rows], acted, clip_ranges),
            best_response=stats,
            seconds=seconds,
            **game_numbers(game, solution),
            **self._distances(prediction, solution.sigma),
            **self._lower_bounds(prediction, game, solution.sigma),
        )

    def _distances(self, prediction: Prediction, sigma: np.ndarray) -> dict[str, Any]:
        """Mean KL divergences of all strategies, of the predicted and of the next policies from the current ones."""
        by_name = dict(zip(self.learners, prediction.batches, strict=True))
        divergences = np.zeros((len(self.learners), len(prediction.policies)))
        for k, policies in enumerate(prediction.policies[1:], start=1):
            for i, (batch, now, policy) in enumerate(zip(by_name.values(), prediction.current, policies, strict=True)):
                divergences[i, k] = over_live(kl(now.distribution, policy.distribution), batch)
        if not self.config.best_response and (sigma[:, 1] == 1.0).all():  # the next policies are the predicted ones
            following = divergences[:, 1]
        else:
            evaluated = self.joint.log_probs_and_distributions(by_name)
            pairs = zip(by_name.items(), prediction.current, strict=True)
            following = np.array([over_live(kl(now.distribution, evaluated[name][1]), batch) for (name, batch), now in pairs])
        return {"kl_predicted": divergences[:, 1], "kl_strategies": divergences, "kl_next": following}

    def _lower_bounds(self, prediction: Prediction, game: MetaGame, sigma: np.ndarray) -> dict[str, Any]:
        """Remarks 1 and C.1 from samples: maxima over the visited states and the executed actions."""
        gamma = np.array([learner.gamma for learner in self.learners.values()])
        epsilon = prediction.advantages.abs().amax(dim=0).numpy()
        alphas = [self._total_variation(prediction, policies) for policies in prediction.policies[1:]]
        predicted_gain, gain = game.expected_payoffs(game.pure_profile(1)), game.expected_payoffs(sigma)
        change = sum(weight * alpha for weight, alpha in zip(sigma.T[1:], alphas, strict=True))
        return {
            "total_variation": alphas[0],
            "predicted_lower_bound": improvement_lower_bound(predicted_gain, epsilon, alphas[0], gamma),
            "lower_bound": improvement_lower_bound(gain, epsilon, change, gamma),
        }

    def _total_variation(self, prediction: Prediction, policies: list[Snapshot]) -> np.ndarray:
        """Largest total variation between current and other policies over the visited states, (n,)."""
        pairs = zip(prediction.batches, prediction.current, policies, strict=True)
        distances = [th.where(b.mask, total_variation(now.distribution, one.distribution), 0.0) for b, now, one in pairs]
        # For agents that share a learner, the sum bounds the total variation of their joint policy.
        return np.asarray(prediction.rollout.columns(distances).clamp(max=1.0).amax(dim=0).numpy())


def _best_response_optimizer(policy: Any) -> th.optim.Optimizer:
    return th.optim.Adam(policy.parameters(), eps=policy.optimizer.defaults.get("eps", 1e-5))


def _last_strategies(game: MetaGame) -> Solution:
    """The profile in which all play their last strategy, which need not be an equilibrium."""
    sigma = game.pure_profile(game.n_strategies - 1)
    none = np.empty((0, game.n_agents) if game.n_strategies == 2 else (0, *sigma.shape))
    return Solution(sigma[:, 0].copy(), game.nash_conv(sigma), "none", none, sigma)


def _blended(distributions: list[ActionDistribution], weights: np.ndarray) -> ActionDistribution:
    """Distribution that stands for the mixture of K policies."""
    if len(distributions) == 2:  # the two weights sum to one in the logits' precision
        return blend_logits(distributions[0], distributions[1], float(weights[0]))
    return blend_logits(distributions, weights)


@contextmanager
def _timed(seconds: dict[str, float], phase: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[phase] = time.perf_counter() - start
