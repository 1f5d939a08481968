"""Statistics of normalisers that several workers gather at once, merged exactly once per iteration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from stable_baselines3.common.running_mean_std import RunningMeanStd

from sb3_matrl.common.normalize import Normalizer

# Moments of one running statistic: "mean", "var" and "count" as arrays, as in Normalizer.state().
Moments = Mapping[str, np.ndarray]


class GatheringMeanStd(RunningMeanStd):
    """
    A running statistic that also gathers the moments of what it has seen since :meth:`begin`.

    :param start: statistic to begin with
    """

    def __init__(self, start: RunningMeanStd) -> None:
        super().__init__(shape=start.mean.shape)
        self.mean, self.var, self.count = start.mean, start.var, start.count
        self.begin()

    def begin(self) -> None:
        """Forget what was gathered, but not the statistic."""
        self.gathered = RunningMeanStd(epsilon=0.0, shape=self.mean.shape)

    def update_from_moments(self, batch_mean: np.ndarray, batch_var: np.ndarray, batch_count: float) -> None:
        """As SB3's, and gather the moments of the batch."""
        self.gathered.update_from_moments(batch_mean, batch_var, batch_count)
        super().update_from_moments(batch_mean, batch_var, batch_count)


def gather(normalizer: Normalizer) -> None:
    """
    Make a normaliser gather the moments of what it sees, beside its statistics.

    :param normalizer: normaliser of a worker
    """
    normalizer.observations = {key: GatheringMeanStd(one) for key, one in normalizer.observations.items()}
    normalizer.returns = GatheringMeanStd(normalizer.returns)
    if normalizer.states is not None:
        normalizer.states = GatheringMeanStd(normalizer.states)


def begin_gathering(normalizer: Normalizer) -> None:
    """
    :param normalizer: normaliser that :func:`gather` has changed; it forgets what it gathered
    """
    for statistics in _statistics(normalizer):
        assert isinstance(statistics, GatheringMeanStd)
        statistics.begin()


def gathered_moments(normalizer: Normalizer) -> list[Moments]:
    """
    :param normalizer: normaliser that :func:`gather` has changed
    :return: moments since :func:`begin_gathering`, in the order in which :func:`merge_moments` takes them
    """
    found: list[Moments] = []
    for statistics in _statistics(normalizer):
        assert isinstance(statistics, GatheringMeanStd)
        one = statistics.gathered
        found.append({"mean": one.mean, "var": one.var, "count": np.array(one.count, dtype=np.float64)})
    return found


def merge_moments(normalizer: Normalizer, of_workers: Sequence[Sequence[Moments]]) -> None:
    """
    Add what workers gathered to a normaliser, by the parallel algorithm of Chan et al. (1979).

    :param normalizer: normaliser of the learner, with the statistics that the workers began with
    :param of_workers: return values of :func:`gathered_moments`, in the order of the workers
    """
    for moments in of_workers:
        for statistics, one in zip(_statistics(normalizer), moments, strict=True):
            if one["count"] > 0.0:
                statistics.update_from_moments(one["mean"], one["var"], float(one["count"]))


def _statistics(normalizer: Normalizer) -> list[RunningMeanStd]:
    states = [] if normalizer.states is None else [normalizer.states]
    return [*normalizer.observations.values(), normalizer.returns, *states]


def statistics_of(normalizer: Normalizer) -> dict[str, Any]:
    """
    :param normalizer: normaliser
    :return: its statistics without the running returns of its columns
    """
    return {name: value for name, value in normalizer.state().items() if name != "running"}


def set_statistics(normalizer: Normalizer, statistics: Mapping[str, Any]) -> None:
    """
    :param normalizer: normaliser whose running returns stay as they are
    :param statistics: return value of :func:`statistics_of`
    """
    normalizer.restore(statistics, with_running=False)
