"""
The games of a cross-play: which players meet, and how often.

Games come in batches. All cells of a batch begin with the same seeds, so that players are compared on the same games (a paired
design). In the full design every batch has all profiles, and its games are independent of each other. In the sampled design,
for many players or roles, a batch is a random Latin design: as many profiles as there are players, in which every player plays
every role once, with partners and opponents drawn afresh in every batch.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from sb3_matrl.utils.suggest import unknown

DESIGNS = ("auto", "full", "sampled")
#: Largest number of profiles for which the design is full by default.
MAX_PROFILES = 1000
#: Largest number of games that are played at once.
MAX_COPIES = 64


@dataclass(frozen=True)
class Cell:
    """
    Games of one profile in one batch.

    :param profile: player of each role, as numbers
    :param batch: number of the batch, which the seeds depend on
    """

    profile: tuple[int, ...]
    batch: int


@dataclass(frozen=True)
class Schedule:
    """
    The games of a cross-play.

    :param n_players: number of players K
    :param n_roles: number of roles n
    :param n_games: games of every profile (full design), or of every player in every role (sampled), rounded up to whole
        batches
    :param seed: seed of the games and of the sampled profiles
    :param design: ``"full"``: all K^n profiles; ``"sampled"``: Latin designs of K profiles; ``"auto"``: full up to
        ``MAX_PROFILES`` profiles
    :param copies: games of a cell, which are played at once; ``None`` divides ``n_games`` evenly
    :param interval_width: batches are added until no 95 % interval of a mean is wider than this; ``None``: ``n_games`` only
    :param max_games: largest number of games in place of ``n_games``; counts with ``interval_width`` only
    :raises ValueError: if an argument is out of range
    """

    n_players: int
    n_roles: int
    n_games: int = 100
    seed: int = 0
    design: str = "auto"
    copies: int | None = None
    interval_width: float | None = None
    max_games: int = 10_000

    def __post_init__(self) -> None:
        if self.design not in DESIGNS:
            raise ValueError(unknown("design", self.design, DESIGNS))
        if self.n_players < 1 or self.n_roles < 1:
            raise ValueError("a cross-play needs at least one player and one role")
        if self.n_games < 2:
            raise ValueError(f"n_games must be at least 2, which intervals need, got {self.n_games}")
        if self.interval_width is not None and not self.interval_width > 0.0:
            raise ValueError(f"interval_width must be positive, got {self.interval_width}")
        if self.interval_width is not None and self.max_games < self.n_games:
            raise ValueError(f"max_games must be at least n_games, got {self.max_games} and {self.n_games}")

    @property
    def is_full(self) -> bool:
        """Whether all profiles are played."""
        return self.design == "full" or (self.design == "auto" and self.n_players**self.n_roles <= MAX_PROFILES)

    @property
    def games_per_cell(self) -> int:
        """Games of a cell. A few in the sampled design, in which the batches are what is independent."""
        if self.copies is not None:
            return self.copies
        most = MAX_COPIES if self.is_full else max(1, MAX_COPIES // 8)
        return math.ceil(self.n_games / math.ceil(self.n_games / most))

    @property
    def first_batches(self) -> int:
        """Number of batches that are always played; at least two in the sampled design, for intervals."""
        return max(math.ceil(self.n_games / self.games_per_cell), 1 if self.is_full else 2)

    @property
    def cells_per_batch(self) -> int:
        """Number of profiles in a batch."""
        return self.n_players**self.n_roles if self.is_full else self.n_players

    def cells(self, batch: int) -> Iterator[Cell]:
        """
        The cells of a batch, in a fixed order.

        :param batch: number of the batch, from 0
        """
        if self.is_full:
            yield from (Cell(profile, batch) for profile in itertools.product(range(self.n_players), repeat=self.n_roles))
            return
        generator = np.random.default_rng([self.seed, batch])
        columns = [generator.permutation(self.n_players).tolist() for _ in range(self.n_roles)]
        yield from (Cell(profile, batch) for profile in zip(*columns, strict=True))

    def seed_of(self, batch: int) -> int:
        """Seed of the games of a batch, the same for all its cells."""
        return int(np.random.SeedSequence([self.seed, batch, 1]).generate_state(1)[0])

    def batches_for(self, batches: int, widest: float) -> int:
        """
        Number of batches after which intervals should be narrow enough: their width falls with the root of the number.

        :param batches: number of batches so far
        :param widest: width of the widest interval after these
        :return: at least ``batches``; equal if they suffice, or no more are allowed
        """
        most = max(self.max_games // self.games_per_cell, self.first_batches)
        if self.interval_width is None or not widest > self.interval_width:
            return batches
        # Intervals of a few samples are much too wide: no more than four times as many at once.
        needed = math.ceil(batches * min((widest / self.interval_width) ** 2, 4.0))
        return min(max(needed, batches + 1), max(most, batches))


Games = dict[Cell, np.ndarray]
PlayCells = Callable[[Sequence[Cell]], Iterable[tuple[Cell, np.ndarray]]]


def run_schedule(schedule: Schedule, play: PlayCells, games: Games, widest: Callable[[Games, int], float]) -> int:
    """
    Play everything that has not been played.

    :param schedule: the games
    :param play: plays cells, in any order; yields each with its returns, (games, n)
    :param games: cell -> returns, of cells that were played before; the others are added
    :param widest: width of the widest interval after a number of batches
    :return: number of batches
    """
    batches = schedule.first_batches
    while True:
        missing = [cell for batch in range(batches) for cell in schedule.cells(batch) if cell not in games]
        games.update(play(missing))
        following = schedule.batches_for(batches, widest(games, batches)) if schedule.interval_width is not None else batches
        if following == batches:
            return batches
        batches = following
