"""Random numbers of batched cores: one independent stream per copy, drawn for all copies in one array operation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from sb3_matrl.envs.core import BatchedCore

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_SHIFT_30, _SHIFT_27, _SHIFT_31, _SHIFT_11 = (np.uint64(bits) for bits in (30, 27, 31, 11))


def stream_state(seed: int | None) -> np.uint64:
    """
    Compute the first state of a stream.

    :param seed: non-negative integer; ``None`` for a seed from the operating system
    :return: state that NumPy's ``SeedSequence`` derives from the seed
    :raises ValueError: if the seed is negative
    """
    return np.uint64(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0])


def split_mix(states: np.ndarray, count: int) -> np.ndarray:
    """
    Compute the next outputs of SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators").

    The generator is a counter with a hash: the state after k outputs is state + k * gamma, so that all outputs are computed
    at once.

    :param states: uint64 (num_envs,), states of the streams; not changed
    :param count: number of outputs of each stream
    :return: uint64 (num_envs, count)
    """
    values = states[:, None] + _GAMMA * np.arange(1, count + 1, dtype=np.uint64)
    values = (values ^ (values >> _SHIFT_30)) * _MIX_1
    values = (values ^ (values >> _SHIFT_27)) * _MIX_2
    return np.asarray(values ^ (values >> _SHIFT_31))


class SeededCore(BatchedCore):
    """
    Core with one random stream per copy, so that a copy's draws do not depend on the other copies.

    ``streams`` uint64 (num_envs,) are the states of the streams. A subclass adds ``"streams"`` to its ``changing``, and
    calls :meth:`_open_streams` in its constructor.
    """

    changing: ClassVar[tuple[str, ...]] = ("streams",)
    streams: np.ndarray

    def _open_streams(self, num_envs: int) -> None:
        """Start every copy's stream with a seed from the operating system."""
        self.streams = np.array([stream_state(None) for _ in range(num_envs)], dtype=np.uint64)

    def seed(self, seeds: Sequence[int | None]) -> None:
        """
        Seed the copies.

        :param seeds: non-negative integers, one per copy; a copy with ``None`` continues its stream
        :raises ValueError: if a seed is negative
        """
        states = [old if seed is None else stream_state(seed) for old, seed in zip(self.streams, seeds, strict=True)]
        self.streams = np.array(states, dtype=np.uint64)

    def _uniform(self, count: int, copies: np.ndarray) -> np.ndarray:
        """
        Draw from every stream, and advance those of some copies.

        :param count: numbers per copy
        :param copies: bool (num_envs,), copies that use their numbers
        :return: float64 (num_envs, count), uniform in [0, 1)
        """
        bits = split_mix(self.streams, count) >> _SHIFT_11
        step = _GAMMA * np.array([count], dtype=np.uint64)
        self.streams = np.where(copies, self.streams + step, self.streams)
        return bits * 2.0**-53


def nth_true(flags: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """
    Choose one of the true entries of each row, all with the same probability.

    :param flags: bool (rows, n)
    :param uniform: float (rows,), uniform in [0, 1)
    :return: (rows,) index of the chosen entry; 0 where no entry is true
    """
    rank = np.floor(uniform * np.count_nonzero(flags, axis=1))
    return np.asarray(np.argmax(np.cumsum(flags, axis=1) > rank[:, None], axis=1))
