"""
Importance ratios over single steps, over the last steps, or over whole episodes: pure functions of arrays.

The rows of a rollout are copy-major: all steps of the first copy of the environment, then all of the second. A rollout begins
and ends in the middle of episodes; what it holds of an episode is called an episode here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sb3_matrl.utils.suggest import did_you_mean

Array = npt.NDArray[np.float64]

#: Names of scopes; a number of steps is one, too.
SCOPES = ("step", "episode")
#: Limit of log-ratios: products of larger ratios could become inf or nan.
MAX_LOG_RATIO = 20.0


def check_scope(scope: object) -> None:
    """
    :param scope: value of the argument ``ratio_scope``
    :raises ValueError: if it is neither a name of a scope nor a positive whole number
    """
    if isinstance(scope, int) and not isinstance(scope, bool) and scope >= 1:
        return
    if scope not in SCOPES or isinstance(scope, bool):
        hint = did_you_mean(scope, SCOPES) if isinstance(scope, str) else ""
        raise ValueError(f"ratio_scope must be 'step', 'episode' or a number of steps of at least 1, got {scope!r}{hint}")


@dataclass(frozen=True)
class Episodes:
    """
    The episodes in a rollout of B rows.

    :param of_row: int (B,), index of each row's episode
    :param first: int (E,), each episode's first row
    """

    of_row: npt.NDArray[np.int64]
    first: npt.NDArray[np.int64]

    @classmethod
    def of(cls, starts: npt.NDArray[np.bool_]) -> Episodes:
        """
        :param starts: bool (n_steps, n_envs), True where a copy's episode begins; the first row of a rollout counts as such
        """
        opens = starts.copy()
        opens[0] = True
        flat = opens.T.reshape(-1)
        return cls(np.cumsum(flat) - 1, np.flatnonzero(flat))

    def sums(self, values: npt.NDArray[np.generic]) -> Array:
        """
        :param values: (B, ...)
        :return: (E, ...), sum over the rows of each episode
        """
        return np.asarray(np.add.reduceat(values, self.first, axis=0, dtype=np.float64))

    def any(self, values: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """
        :param values: bool (B, ...)
        :return: bool (E, ...), whether any row of the episode is True
        """
        return np.asarray(np.logical_or.reduceat(values, self.first, axis=0))

    def last_sums(self, values: npt.NDArray[np.generic], length: int | None = None) -> Array:
        """
        Sums over each row and the rows before it in the same episode.

        :param values: (B, ...)
        :param length: number of rows, the row itself included; ``None`` for all since the episode's first
        :return: (B, ...)
        """
        after = np.cumsum(values, axis=0, dtype=np.float64)
        before = np.concatenate([np.zeros_like(after[:1]), after[:-1]])
        begin = self.first[self.of_row]
        if length is not None:
            begin = np.maximum(begin, np.arange(len(after)) - (length - 1))
        return np.asarray(after - before[begin])


def scoped_log_ratios(log_ratios: Array, episodes: Episodes, scope: str | int) -> Array:
    """
    Logarithms of the ratios that count at every row.

    ``"step"``: the row's own ratio. ``"episode"``: the product over the whole episode, its past and its future. L steps: the
    product over the last L rows of the episode up to this one. Rows in which the agent did not act have a log-ratio of 0.

    :param log_ratios: (B, ...), 0 where masked
    :param episodes: the rollout's episodes
    :param scope: ``"step"``, ``"episode"`` or a number of steps
    :return: (B, ...), limited to ``MAX_LOG_RATIO`` in each row and again in the sum
    """
    limited = log_ratios.clip(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    if scope == "step":
        return limited
    if scope == "episode":
        sums = episodes.sums(limited)[episodes.of_row]
    else:
        sums = episodes.last_sums(limited, int(scope))
    return np.asarray(sums.clip(-MAX_LOG_RATIO, MAX_LOG_RATIO))


def separately_masked(advantages: Array, mask: npt.NDArray[np.bool_]) -> Array:
    """
    Advantages for a meta-game without a mask, in which an agent's ratio counts in rows where it does not act itself.

    With centred advantages that are 0 where masked, the mean over all rows, times B over the number of live rows, is the mean
    over the live rows.

    :param advantages: (B, n)
    :param mask: bool (B, n), True where the agent acted
    :return: (B, n), with mean 0 and the payoffs of the mean over each agent's live rows
    """
    counts = np.maximum(mask.sum(axis=0), 1)
    live = np.where(mask, advantages, 0.0)
    return np.asarray(np.where(mask, live - live.sum(axis=0) / counts, 0.0) * (len(mask) / counts))
