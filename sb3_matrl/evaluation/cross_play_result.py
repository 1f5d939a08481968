"""Results of a cross-play: returns of all games, and the tables of means that are made of them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from sb3_matrl.evaluation.cross_play_schedule import Games, Schedule
from sb3_matrl.evaluation.statistics import student_t_quantile

Array = npt.NDArray[np.float64]
_quantile = cache(student_t_quantile)


@dataclass(frozen=True, eq=False)
class CrossPlayResult:
    """
    Returns of the games between players.

    With n roles, K players, B batches of P profiles and m games per cell:

    :param roles: n roles, the agents of the env
    :param players: names of the K players
    :param profiles: player of each role, int (B, P, n)
    :param returns: undiscounted return of each role in each game, (B, P, m, n). Game k of batch b has the same seed in every
        profile
    :param is_full: whether every batch has all K^n profiles, in the order of ``itertools.product``; otherwise each is a Latin
        design, in which every player plays every role once
    """

    roles: tuple[str, ...]
    players: tuple[str, ...]
    profiles: np.ndarray
    returns: Array
    is_full: bool

    @classmethod
    def from_games(
        cls, roles: tuple[str, ...], players: tuple[str, ...], schedule: Schedule, games: Games, batches: int
    ) -> CrossPlayResult:
        """
        Put the games of a schedule together.

        :param roles: n roles
        :param players: names of the players
        :param schedule: the schedule
        :param games: cell -> returns (m, n), at least those of the first ``batches`` batches
        :param batches: number of batches
        """
        cells = [list(schedule.cells(batch)) for batch in range(batches)]
        profiles = np.array([[cell.profile for cell in of_batch] for of_batch in cells], dtype=np.int64)
        returns = np.array([[games[cell] for cell in of_batch] for of_batch in cells], dtype=np.float64)
        return cls(roles, players, profiles, returns, schedule.is_full)

    @property
    def n_games(self) -> int:
        """Number of games of each profile (full design), or of each player in each role (sampled)."""
        return int(self.returns.shape[0] * self.returns.shape[2])

    @cached_property
    def by_game(self) -> Array:
        """
        Returns of the full design, game by game: (G, K, ..., K, n) for G = ``n_games`` independent games.

        :raises ValueError: if the design is sampled
        """
        if not self.is_full:
            raise ValueError("only a full design has all profiles: pass design='full'")
        batches, _, copies, n = self.returns.shape
        return np.moveaxis(self.returns, 2, 1).reshape(batches * copies, *[len(self.players)] * n, n)

    @cached_property
    def payoffs(self) -> Array:
        """
        Mean return of every role in every profile of the full design, (n, K, ..., K), as
        :class:`~sb3_matrl.games.NormalFormGame` takes it.

        :raises ValueError: if the design is sampled
        """
        return np.moveaxis(self.by_game.mean(axis=0), -1, 0)

    @cached_property
    def standard_errors(self) -> Array:
        """
        Standard errors of :attr:`payoffs`, in the same shape.

        :raises ValueError: if the design is sampled
        """
        return np.moveaxis(self.by_game.std(axis=0, ddof=1) / np.sqrt(len(self.by_game)), -1, 0)

    @cached_property
    def of_players(self) -> Array:
        """
        Return of every player in every role, averaged over the profiles: (S, n, K) for S independent samples.

        Samples are games in the full design, whose partners and opponents are fixed, and batches in the sampled design.
        """
        n, count = len(self.roles), len(self.players)
        if self.is_full:
            columns = [
                self.by_game[..., role].mean(axis=tuple(1 + other for other in range(n) if other != role)) for role in range(n)
            ]
            return np.stack(columns, axis=1)
        means = self.returns.mean(axis=2)
        found = np.empty((len(means), n, count))
        for role in range(n):
            np.put_along_axis(found[:, role], self.profiles[..., role], means[..., role], axis=1)
        return found

    @property
    def widest_interval(self) -> float:
        """Width of the widest 95 % interval: of the profiles' means in the full design, of the players' in the sampled one."""
        if self.is_full:
            return float(2.0 * margins(self.by_game).max())
        return float(2.0 * margins(self.of_players).max())

    def pairs_by_game(self, role: int) -> Array:
        """
        Return of a role by its player and by one other player, game by game: :meth:`pair_payoffs` is the mean.

        :param role: number of the role
        :return: (G, K, K): rows are players of the role, columns are others
        :raises ValueError: if the design is sampled, or there is one role only
        """
        others = [other for other in range(len(self.roles)) if other != role]
        if not others:
            raise ValueError("pairs of players need at least two roles")
        found = []
        for other in others:
            rest = tuple(1 + place for place in others if place != other)
            mean = self.by_game[..., role].mean(axis=rest) if rest else self.by_game[..., role]
            found.append(mean if role < other else np.swapaxes(mean, 1, 2))
        return np.asarray(np.mean(found, axis=0))

    def pair_payoffs(self, role: int) -> Array:
        """
        Mean return of a role by its player and by one other player in the game.

        With two roles this is the payoff matrix of the role. With more, the mean is over the other roles that the other player
        may have, and over the profiles.

        :param role: number of the role
        :return: (K, K): rows are players of the role, columns are others; NaN where no such game was played
        """
        count = len(self.players)
        sums, counts = np.zeros((count, count)), np.zeros((count, count))
        values = self.returns[..., role].mean(axis=2)
        for other in range(len(self.roles)):
            if other != role:
                where = self.profiles[..., role], self.profiles[..., other]
                np.add.at(sums, where, values)
                np.add.at(counts, where, 1)
        return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)

    def symmetric_payoffs(self) -> Array:
        """
        Mean return of a player against or with another one, averaged over the roles.

        :return: (K, K): row player's return; NaN where two players have not met in all roles
        """
        return np.asarray(np.mean([self.pair_payoffs(role) for role in range(len(self.roles))], axis=0))

    def margins_by_game(self) -> Array:
        """
        Half of the row player's lead over the column player, averaged over their roles, game by game.

        For two roles it is ((u_1(i, j) - u_2(i, j)) - (u_1(j, i) - u_2(j, i))) / 4, in a zero-sum game the payoff of i against
        j; for more roles the mean over all pairs of them. Antisymmetric in every game.

        :return: (G, K, K)
        :raises ValueError: if the design is sampled, or there is one role only
        """
        n = len(self.roles)
        if n < 2:
            raise ValueError("players are compared within a game: that needs at least two roles")
        found = []
        for one, two in itertools.combinations(range(n), 2):
            lead = self.by_game[..., one] - self.by_game[..., two]
            rest = tuple(1 + role for role in range(n) if role not in (one, two))
            lead = lead.mean(axis=rest) if rest else lead
            found.append((lead - np.swapaxes(lead, 1, 2)) / 4.0)
        return np.asarray(np.mean(found, axis=0))

    def wins(self) -> Array:
        """
        Number of games that the row player won against the column player: its return was larger. A draw counts half.

        :return: (K, K), zeros on the diagonal
        """
        count = len(self.players)
        won = np.zeros((count, count))
        for one, two in itertools.combinations(range(len(self.roles)), 2):
            first, second = self.profiles[..., one], self.profiles[..., two]
            lead = np.sign(self.returns[..., one] - self.returns[..., two])
            np.add.at(won, (first, second), ((1.0 + lead) / 2.0).sum(axis=2))
            np.add.at(won, (second, first), ((1.0 - lead) / 2.0).sum(axis=2))
        np.fill_diagonal(won, 0.0)
        return won

    def rows(self) -> list[dict[str, Any]]:
        """
        Table of the profiles, for a CSV file.

        :return: one row for each profile: the player of each role, the number of games, and for each role the mean return, its
            standard error, and the ends of its 95 % interval
        """
        games: dict[tuple[int, ...], list[Array]] = {}
        for profile, returns in zip(self.profiles.reshape(-1, len(self.roles)), self._cells, strict=True):
            games.setdefault(tuple(profile.tolist()), []).append(returns)
        return [self._row(profile, np.concatenate(parts)) for profile, parts in games.items()]

    @property
    def _cells(self) -> Array:
        """Returns of all cells, (B * P, m, n)."""
        return self.returns.reshape(-1, *self.returns.shape[2:])

    def _row(self, profile: tuple[int, ...], returns: Array) -> dict[str, Any]:
        row: dict[str, Any] = {role: self.players[player] for role, player in zip(self.roles, profile, strict=True)}
        row["games"] = len(returns)
        means, half = returns.mean(axis=0), margins(returns)
        errors = returns.std(axis=0, ddof=1) / np.sqrt(len(returns)) if len(returns) > 1 else np.full(len(means), np.nan)
        for role, mean, error, margin in zip(self.roles, means.tolist(), errors.tolist(), half.tolist(), strict=True):
            row |= {f"{role}_mean": mean, f"{role}_se": error, f"{role}_low": mean - margin, f"{role}_high": mean + margin}
        return row


def margins(samples: Array, level: float = 0.95) -> Array:
    """
    Half widths of the Student-t intervals of means.

    :param samples: independent samples, (S, ...)
    :param level: confidence level, in (0, 1)
    :return: (...); infinite for a single sample
    """
    count = len(samples)
    if count < 2:
        return np.full(samples.shape[1:], np.inf)
    return np.asarray(_quantile(level, count - 1) * samples.std(axis=0, ddof=1) / np.sqrt(count))
