"""The samples of a meta-game, which are steps or episodes of one joint rollout, and what they are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch as th
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from sb3_matrl.matrl.episode_payoffs import AgentRollout, episode_payoffs, present
from sb3_matrl.matrl.ratio_scope import Array, Episodes, separately_masked
from sb3_matrl.on_policy.batch import AgentBatch

Mask = npt.NDArray[np.bool_]
# Correlation from which payoffs count as common; critics that differ keep those of common rewards below 1.
_COMMON = 0.9


@dataclass(frozen=True)
class JointRollout:
    """
    The rollouts of all learners, whose B joint rows are env steps, copy-major (lists follow the learners' order).

    A learner that several agents share is one column: sums over its agents, those that acted.

    :param learners: learners whose buffers hold the rollout, flattened
    :param batches: batch of each learner
    :param sizes: number of agents of each learner
    """

    learners: Sequence[OnPolicyAlgorithm]
    batches: Sequence[AgentBatch]
    sizes: Sequence[int]

    def columns(self, values: Sequence[th.Tensor]) -> th.Tensor:
        """
        :param values: (group size * B,) of each learner
        :return: doubles (B, n), sums over the agents of each learner
        """
        sums = [value.cpu().double().view(size, -1).sum(dim=0) for value, size in zip(values, self.sizes, strict=True)]
        return th.stack(sums, dim=1)

    @cached_property
    def advantages(self) -> th.Tensor:
        """Doubles (B, n), 0 where masked."""
        return self.columns([th.where(batch.mask, batch.advantages, 0.0) for batch in self.batches])

    @cached_property
    def mask(self) -> th.Tensor:
        """Bool (B, n), True where any of the learner's agents acted."""
        return self.columns([batch.mask for batch in self.batches]) > 0.0

    def log_ratios(self, log_probs: Sequence[th.Tensor]) -> Array:
        """
        :param log_probs: log-densities of the actions under changed policies, one tensor for each learner
        :return: (B, n), logarithms of the ratios to the policies that collected the data, 0 where masked
        """
        changes = [new - batch.old_log_prob for new, batch in zip(log_probs, self.batches, strict=True)]
        pairs = zip(self.batches, changes, strict=True)
        return np.asarray(self.columns([th.where(batch.mask, change, 0.0) for batch, change in pairs]).numpy())

    @property
    def n_envs(self) -> int:
        """Number of copies of the environment."""
        return int(self.learners[0].n_envs // self.sizes[0])

    @cached_property
    def begins(self) -> Mask:
        """
        Bool (n_steps, n_envs), True where an episode of the environment begins: one of all agents does.

        (Steps of dead agents count as beginnings: where all learners' agents are dead, each step is an episode of its own, in
        which nobody acts.)
        """
        starts = [_starts(learner).reshape(-1, size, self.n_envs).all(axis=1) for learner, size in self._sized]
        return np.asarray(np.logical_and.reduce(starts))

    @cached_property
    def episodes(self) -> Episodes:
        """Episodes of the environment in the rollout."""
        return Episodes.of(self.begins)

    @property
    def _sized(self) -> list[tuple[OnPolicyAlgorithm, int]]:
        return list(zip(self.learners, self.sizes, strict=True))

    def episode_payoffs(self, kind: str) -> tuple[Array, Mask, Mask]:
        """
        :param kind: one of :data:`~sb3_matrl.matrl.episode_payoffs.EPISODE_PAYOFFS`
        :return: payoffs, episodes in which any of a learner's agents takes part, and those in which any acts, (E, n) each
        """
        payoffs, taking_part, acting = [], [], []
        begins = self.begins.T.reshape(-1)
        for learner, batch, size in zip(self.learners, self.batches, self.sizes, strict=True):
            members = _agent_rollouts(learner, batch, size)
            payoffs.append(np.sum([episode_payoffs(one, self.episodes, kind) for one in members], axis=0))
            taking_part.append(np.any([present(one, self.episodes, begins) for one in members], axis=0))
            acting.append(np.any([self.episodes.any(one.acted) for one in members], axis=0))
        return np.stack(payoffs, axis=1), np.stack(taking_part, axis=1), np.stack(acting, axis=1)


def _starts(learner: Any) -> Mask:
    """The buffer's episode starts, bool (n_steps, n_columns), which recurrent learners flatten."""
    buffer = learner.rollout_buffer
    starts: Mask = np.asarray(buffer.episode_starts) != 0
    n_steps, n_columns = buffer.mask.shape
    return starts if starts.shape == (n_steps, n_columns) else starts.reshape(n_columns, n_steps).T


def _agent_rollouts(learner: Any, batch: AgentBatch, size: int) -> list[AgentRollout]:
    """Rows of each of a learner's agents."""
    buffer = learner.rollout_buffer
    columns: dict[str, Any] = {
        "rewards": buffer.rewards.T,
        "values": batch.old_values.cpu().numpy(),
        "advantages": batch.advantages.cpu().numpy(),
        "acted": batch.mask.cpu().numpy(),
        "starts": _starts(learner).T,
    }
    rows = {name: value.reshape(size, -1) for name, value in columns.items()}
    rows = {name: value if value.dtype == bool else value.astype(np.float64) for name, value in rows.items()}
    return [AgentRollout(**{name: value[i] for name, value in rows.items()}, gamma=learner.gamma) for i in range(size)]


@dataclass(frozen=True)
class Samples:
    """
    The S samples of a meta-game of n players.

    :param rows: int (S,), rows of the rollout whose ratios are those of the samples
    :param payoffs: (S, n), advantages of steps or payoffs of episodes
    :param mask: bool (S, n), samples that count for a player's payoffs; elsewhere its ratio is 1. ``None``: all count
    :param acted: bool (S, n), samples in which a player acted
    """

    rows: npt.NDArray[np.int64]
    payoffs: Array
    mask: Mask | None
    acted: Mask

    @classmethod
    def of(cls, rollout: JointRollout, scope: str | int, kind: str, judged: Mask | None = None) -> Samples:
        """
        :param rollout: the rollout
        :param scope: scope of the ratios, see :func:`~sb3_matrl.matrl.ratio_scope.scoped_log_ratios`
        :param kind: kind of payoffs of episodes
        :param judged: bool (n_envs,), copies of the environment that the payoffs are estimated in; ``None`` for all
        """
        n_rows = len(rollout.mask)
        counts = np.ones(n_rows, dtype=bool) if judged is None else np.repeat(judged, n_rows // len(judged))
        if scope == "episode":
            chosen = counts[rollout.episodes.first]
            payoffs, mask, acted = (value[chosen] for value in rollout.episode_payoffs(kind))
            return cls(rollout.episodes.first[chosen], payoffs, mask, acted)
        rows, acted = np.flatnonzero(counts), rollout.mask.numpy()[counts]
        advantages = rollout.advantages.numpy()[counts]
        if scope == "step":
            return cls(rows, advantages, acted, acted)
        return cls(rows, separately_masked(advantages, acted), None, acted)

    def nearly_common(self) -> bool:
        """
        Whether the players' payoffs are nearly common: each two correlate by at least 0.9 in the samples in which both act.

        :return: False as well if two players never act in the same sample; players whose payoffs are constant do not count
        """
        values = np.where(self.acted, self.payoffs, 0.0)
        centred = np.where(self.acted, values - values.sum(axis=0) / np.maximum(self.acted.sum(axis=0), 1), 0.0)
        centred = centred[:, np.abs(centred).max(axis=0) > 1e-12 * np.abs(values).max(axis=0)]
        if centred.shape[1] < 2:
            return True
        live = (centred != 0.0).astype(np.float64)
        squares = (centred**2).T @ live  # of a player's payoffs, where the other one acts
        products = centred.T @ centred
        scale = np.sqrt(squares * squares.T)
        return bool(np.all((scale > 0.0) & (products >= _COMMON * scale)))
