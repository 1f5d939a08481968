"""Running episodes of all copies, and the statistics that SB3 expects at their ends."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from sb3_matrl.envs.snapshot import Snapshot, check_array, check_keys


class Episodes:
    """
    Statistics of the running episodes.

    - ``returns``: float64 (num_envs, n_agents), undiscounted returns so far
    - ``lengths``: int64 (num_envs,), joint steps so far
    - ``numbers``: int64 (num_envs,), number of the episode since the copy was seeded, from 1
    - ``seeds``: last seed of each copy

    :param num_envs: number of copies
    :param agents: names of the columns
    """

    def __init__(self, num_envs: int, agents: Sequence[str]) -> None:
        self.agents = list(agents)
        self.returns = np.zeros((num_envs, len(agents)))
        self.lengths = np.zeros(num_envs, dtype=np.int64)
        self.numbers = np.zeros(num_envs, dtype=np.int64)
        self.seeds: list[int | None] = [None] * num_envs
        self._created = time.time()

    def begin(self, seeds: Sequence[int | None]) -> None:
        """
        Start an episode in all copies.

        :param seeds: one seed per copy; ``None`` for copies that are not seeded
        """
        for copy, seed in enumerate(seeds):
            if seed is not None:
                self.seeds[copy], self.numbers[copy] = seed, 0
        self.returns[:] = 0.0
        self.lengths[:] = 0
        self.numbers += 1

    def count(self, rewards: np.ndarray) -> None:
        """
        Count a step of all copies.

        :param rewards: (num_envs, n_agents)
        """
        self.returns += rewards
        self.lengths += 1

    def so_far(self, copy: int) -> dict[str, Any]:
        """
        Statistics of a copy's running episode.

        :param copy: index of the copy
        :return: ``"r"``: return summed over agents, ``"l"``: number of steps, ``"t"``: seconds since this object was
            created, ``"agents"``: agent -> return
        """
        returns = self.returns[copy]
        return {
            "r": float(returns.sum()),
            "l": int(self.lengths[copy]),
            "t": time.time() - self._created,
            "agents": dict(zip(self.agents, returns.tolist(), strict=True)),
        }

    def finish(self, copy: int) -> dict[str, Any]:
        """
        Finish a copy's episode and start the next one.

        :param copy: index of the copy
        :return: statistics of the episode, see :meth:`so_far`
        """
        statistics = self.so_far(copy)
        self.returns[copy] = 0.0
        self.lengths[copy] = 0
        self.numbers[copy] += 1
        return statistics

    def moment(self, copy: int) -> str:
        """Step and episode that the copy is in, for messages."""
        return f"step {self.lengths[copy] + 1} of episode {self.numbers[copy]} since seed {self.seeds[copy]}"

    def snapshot(self) -> Snapshot:
        """All statistics, and the time elapsed."""
        return {
            "returns": self.returns.copy(),
            "lengths": self.lengths.copy(),
            "numbers": self.numbers.copy(),
            "seeds": list(self.seeds),
            "elapsed": time.time() - self._created,
        }

    def restore(self, snapshot: Snapshot) -> None:
        """
        Restore a snapshot.

        :param snapshot: return value of :meth:`snapshot`
        :raises ValueError: if the snapshot does not fit; nothing is changed then
        """
        what = "snapshot of the episodes"
        check_keys(what, snapshot, ["returns", "lengths", "numbers", "seeds", "elapsed"])
        for name in ("returns", "lengths", "numbers"):
            check_array(f"{what}: {name!r}", snapshot[name], getattr(self, name))
        check_seeds(f"{what}: 'seeds'", snapshot["seeds"], len(self.seeds))
        if type(snapshot["elapsed"]) not in (int, float):
            raise ValueError(f"{what}: 'elapsed' must be a number of seconds, got {snapshot['elapsed']!r}")
        for name in ("returns", "lengths", "numbers"):
            setattr(self, name, snapshot[name].copy())
        self.seeds = list(snapshot["seeds"])
        self._created = time.time() - snapshot["elapsed"]


def check_seeds(what: str, seeds: Any, num_envs: int) -> None:
    """
    Check the seeds in a snapshot.

    :param what: name of the entry, for the message
    :param seeds: value of the entry
    :param num_envs: number of copies
    :raises ValueError: unless ``seeds`` is a list of non-negative integers or ``None``, one per copy
    """
    good = isinstance(seeds, list) and len(seeds) == num_envs
    if not good or not all(seed is None or (type(seed) is int and seed >= 0) for seed in seeds):
        raise ValueError(f"{what} must be a list of {num_envs} seeds, non-negative integers or None, got {seeds!r}")
