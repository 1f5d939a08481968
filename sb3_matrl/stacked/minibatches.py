"""Rollouts of n learners as stacked tensors, and their minibatches in lockstep."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch as th

# Minibatches of one epoch of one learner: indices of rows, or one slice for the whole batch.
Epoch = Sequence[np.ndarray | slice]


@dataclass(frozen=True)
class Columns:
    """
    What the losses read beside the networks' outputs, (n, B) each.

    :param old_log_prob: log-densities under the policies that collected the data
    :param old_values: values at that time
    :param advantages: advantages; normalised in a minibatch where that is asked for
    :param returns: targets of the critics
    :param weights: weights of the surrogate loss
    """

    old_log_prob: th.Tensor
    old_values: th.Tensor
    advantages: th.Tensor
    returns: th.Tensor
    weights: th.Tensor


@dataclass(frozen=True)
class StackedBatch:
    """
    Rollouts of n learners with B rows each.

    :param features: (n, B, n_inputs), as the networks take them, zeros where an agent has fewer
    :param actions: (n, B, action size)
    :param columns: what the losses read
    :param masks: bool (n, B, n_outputs), legal actions; ``None`` for learners without masks
    :param states: (n, B, n_inputs), what the critics see, if they do not see the features
    """

    features: th.Tensor
    actions: th.Tensor
    columns: Columns
    masks: th.Tensor | None
    states: th.Tensor | None = None


@dataclass(frozen=True)
class Minibatch:
    """
    One minibatch of every learner; learners with fewer rows are filled up with rows that do not count.

    :param batch: rows (n, width, ...)
    :param shares: (n, width), share of a row in its learner's mean: one over the number of rows, 0 for rows that do not count
    :param counts: number of rows of each learner
    :param epoch: index of the epoch
    """

    batch: StackedBatch
    shares: th.Tensor
    counts: tuple[int, ...]
    epoch: int

    @property
    def kind(self) -> tuple[Any, ...]:
        """Minibatches of the same kind have tensors of the same shapes."""
        return tuple(one.shape for one in self.tensors()), self.batch.masks is None, self.batch.states is None

    def tensors(self) -> list[th.Tensor]:
        """All tensors, always in the same order."""
        batch = self.batch
        optional = [one for one in (batch.masks, batch.states) if one is not None]
        return [batch.features, batch.actions, *vars(batch.columns).values(), *optional, self.shares]

    def copy(self) -> Minibatch:
        """:return: the same minibatch with tensors of its own"""
        batch = self.batch
        copied = StackedBatch(
            batch.features.clone(),
            batch.actions.clone(),
            Columns(*(one.clone() for one in vars(batch.columns).values())),
            None if batch.masks is None else batch.masks.clone(),
            None if batch.states is None else batch.states.clone(),
        )
        return Minibatch(copied, self.shares.clone(), self.counts, self.epoch)

    def parts(self, n_rows: int) -> Iterator[Minibatch]:
        """
        Cut into parts; the means over the minibatch are the sums over its parts.

        :param n_rows: rows of a part
        """
        width = self.shares.shape[1]
        if width <= n_rows:
            yield self
            return
        for start in range(0, width, n_rows):
            rows = slice(start, start + n_rows)
            yield Minibatch(_rows(self.batch, rows), self.shares[:, rows], self.counts, self.epoch)


@dataclass(frozen=True)
class _Counts:
    """
    Rows of each learner in a minibatch.

    :param rows: numbers of rows
    :param sizes: the same on the device, (n, 1); ``None`` if all advantages are normalised alike
    :param wanted: bool (n, 1), learners whose advantages are normalised, on the device; ``None`` likewise
    """

    rows: tuple[int, ...]
    sizes: th.Tensor | None = None
    wanted: th.Tensor | None = None


class LockstepBatches:
    """
    Iterates over the minibatches of all learners: the k-th minibatch of an epoch holds the k-th of every learner.

    :param batch: rollouts
    :param epochs: learner -> its epochs; learners with fewer epochs wait
    :param normalize: learner -> whether its advantages are normalised in every minibatch
    """

    def __init__(self, batch: StackedBatch, epochs: Sequence[Sequence[Epoch]], normalize: Sequence[bool]) -> None:
        self._batch = batch
        self._epochs = epochs
        self._n, self._size = batch.features.shape[:2]
        self._features = batch.features.flatten(0, 1)
        self._actions = batch.actions.flatten(0, 1)
        self._columns = th.stack([one.flatten() for one in vars(batch.columns).values()])
        self._masks = None if batch.masks is None else batch.masks.flatten(0, 1)
        self._states = None if batch.states is None else batch.states.flatten(0, 1)
        self._normalize = list(normalize)

    def __iter__(self) -> Iterator[Minibatch]:
        for k in range(max(map(len, self._epochs))):
            yield from self._epoch([epochs[k] if k < len(epochs) else [] for epochs in self._epochs], k)

    def _epoch(self, epoch: list[Epoch], k: int) -> Iterator[Minibatch]:
        """Gather the rows of an epoch once; its minibatches are views."""
        if all(len(parts) == 1 and isinstance(parts[0], slice) for parts in epoch):
            whole, shares = self._batch, self._batch.columns.advantages.new_full((self._n, self._size), 1.0 / self._size)
            (of_learners,) = self._counts([(self._size,) * self._n], [self._size])
            yield self._minibatch(whole, shares, of_learners, k)
            return
        index, shares, widths, counts = self._layout(epoch)
        gathered = self._gather(index)
        shares = shares.to(gathered.features)
        start = 0
        for width, of_learners in zip(widths, self._counts(counts, widths), strict=True):
            rows = slice(start, start + width)
            start += width
            yield self._minibatch(_rows(gathered, rows), shares[:, rows], of_learners, k)

    def _counts(self, counts: list[tuple[int, ...]], widths: list[int]) -> list[_Counts]:
        """Rows of every minibatch; also on the device, by one copy per epoch, if advantages are not normalised alike."""
        alike = all(min(one) == width > 1 for one, width in zip(counts, widths, strict=True))
        if not any(self._normalize) or (alike and all(self._normalize)):
            return [_Counts(one) for one in counts]
        like = self._batch.columns.advantages
        sizes = th.tensor(counts, dtype=like.dtype).to(like.device)[..., None]
        wanted = (sizes > 1.0) & th.tensor(self._normalize).to(like.device)[:, None]
        return [_Counts(*one) for one in zip(counts, sizes, wanted, strict=True)]

    def _layout(self, epoch: list[Epoch]) -> tuple[th.Tensor, th.Tensor, list[int], list[tuple[int, ...]]]:
        """Indices (n, width of the epoch) of all rows in the flattened batch, their shares, and sizes of the minibatches."""
        parts = [[np.arange(self._size) if isinstance(part, slice) else part for part in one] for one in epoch]
        counts = [tuple(len(one[k]) if k < len(one) else 0 for one in parts) for k in range(max(map(len, parts)))]
        widths = [max(of_learners) for of_learners in counts]
        index = np.zeros((self._n, sum(widths)), dtype=np.int64)
        shares = np.zeros(index.shape)
        for i, one in enumerate(parts):
            if all(of_learners[i] == width for of_learners, width in zip(counts, widths, strict=True)):
                index[i] = np.concatenate(one)
                shares[i] = np.repeat(1.0 / np.array(widths), widths)
                continue
            start = 0
            for k, width in enumerate(widths):
                if k < len(one):
                    index[i, start : start + len(one[k])] = one[k]
                    index[i, start + len(one[k]) : start + width] = one[k][0]
                    shares[i, start : start + len(one[k])] = 1.0 / len(one[k])
                start += width
        index += self._size * np.arange(self._n)[:, None]
        return th.as_tensor(index), th.as_tensor(shares), widths, counts

    def _gather(self, index: th.Tensor) -> StackedBatch:
        flat, n = index.flatten().to(self._features.device), self._n
        return StackedBatch(
            features=th.unflatten(self._features.index_select(0, flat), 0, (n, -1)),
            actions=th.unflatten(self._actions.index_select(0, flat), 0, (n, -1)),
            columns=Columns(*th.unflatten(self._columns.index_select(1, flat), 1, (n, -1))),
            masks=None if self._masks is None else th.unflatten(self._masks.index_select(0, flat), 0, (n, -1)),
            states=None if self._states is None else th.unflatten(self._states.index_select(0, flat), 0, (n, -1)),
        )

    def _minibatch(self, batch: StackedBatch, shares: th.Tensor, counts: _Counts, epoch: int) -> Minibatch:
        if any(self._normalize):
            columns = {**vars(batch.columns), "advantages": self._normalized(batch.columns.advantages, shares, counts)}
            batch = replace(batch, columns=Columns(**columns))
        return Minibatch(batch, shares, counts.rows, epoch)

    def _normalized(self, advantages: th.Tensor, shares: th.Tensor, counts: _Counts) -> th.Tensor:
        """Advantages with mean 0 and standard deviation 1 over each learner's rows, for those that want it and have two."""
        if min(counts.rows) == shares.shape[1] > 1:
            deviation, mean = th.std_mean(advantages, dim=1, keepdim=True)
            normalized = (advantages - mean).div_(deviation.add_(1e-8))
        else:
            mean = (advantages * shares).sum(dim=1, keepdim=True)
            assert counts.sizes is not None
            variance = ((advantages - mean).square() * shares).sum(dim=1, keepdim=True)
            variance = variance * counts.sizes / (counts.sizes - 1.0).clamp(min=1.0)
            normalized = (advantages - mean) / (variance.sqrt() + 1e-8)
        return normalized if counts.wanted is None else th.where(counts.wanted, normalized, advantages)


def _rows(batch: StackedBatch, rows: slice) -> StackedBatch:
    return StackedBatch(
        features=batch.features[:, rows],
        actions=batch.actions[:, rows],
        columns=Columns(*(one[:, rows] for one in vars(batch.columns).values())),
        masks=None if batch.masks is None else batch.masks[:, rows],
        states=None if batch.states is None else batch.states[:, rows],
    )
