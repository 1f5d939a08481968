"""Normal-form games, single or batched: payoffs, expected payoffs, NashConv and, for 2x2, equilibria and gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_lowercase
from typing import Any

import numpy as np
import numpy.typing as npt

from sb3_matrl.games.equilibria import Equilibria, two_by_two_equilibria
from sb3_matrl.games.payoff_arrays import Array, check_batched_payoffs


class NormalFormGame:
    """
    A batch of normal-form games of the same size, or a single one.

    Entry ``[..., i, a_1, ..., a_n]`` is the payoff of player i if every player j plays a_j.

    :param payoffs: (..., n, A_1, ..., A_n); leading axes are the batch
    :param n_players: n; ``None`` infers it from the shape. A shape such as (3, 2, 2, 2) fits one game of three players and
        three games of two; ``None`` means the former, ``n_players=2`` the latter
    :raises ValueError: if no n fits the shape, or a payoff is NaN or infinite
    """

    def __init__(self, payoffs: npt.ArrayLike, n_players: int | None = None) -> None:
        self.payoffs, self.n_players = check_batched_payoffs(payoffs, n_players)
        self.payoffs.setflags(write=False)
        self.batch_shape = self.payoffs.shape[: -self.n_players - 1]
        self.n_actions = self.payoffs.shape[-self.n_players :]

    def __repr__(self) -> str:
        return f"NormalFormGame(n_players={self.n_players}, n_actions={self.n_actions}, batch_shape={self.batch_shape})"

    def __len__(self) -> int:
        if not self.batch_shape:
            raise TypeError("a single game has no length; only a batch of games does")
        return int(self.batch_shape[0])

    def __getitem__(self, index: Any) -> NormalFormGame:
        """
        :param index: NumPy index into the batch axes
        :return: games at the index
        """
        batch = np.arange(int(np.prod(self.batch_shape))).reshape(self.batch_shape)[index]
        flat = self.payoffs.reshape(-1, *self.payoffs.shape[len(self.batch_shape) :])
        return NormalFormGame(flat[batch], self.n_players)

    def action_payoffs(self, strategies: Sequence[npt.ArrayLike]) -> list[Array]:
        """
        Compute each player's payoff for each of its actions against the others' strategies.

        :param strategies: one array (..., A_i) of probabilities per player; leading axes broadcast against the batch
        :return: one array (..., A_i) per player
        :raises ValueError: if they are not probability vectors of these lengths
        """
        mixed = check_strategies(strategies, self.n_actions)
        letters = ascii_lowercase[: self.n_players]
        values = []
        for player, own in enumerate(letters):
            others = [other for other in range(self.n_players) if other != player]
            terms = ",".join([f"...{letters}", *(f"...{letters[other]}" for other in others)])
            payoffs = np.take(self.payoffs, player, axis=-self.n_players - 1)
            values.append(np.einsum(f"{terms}->...{own}", payoffs, *(mixed[other] for other in others)))
        return values

    def expected_payoffs(self, strategies: Sequence[npt.ArrayLike]) -> Array:
        """
        :param strategies: as in :meth:`action_payoffs`
        :return: (..., n) expected payoffs of the players
        """
        mixed = check_strategies(strategies, self.n_actions)
        values = self.action_payoffs(mixed)
        return _stacked([np.sum(value * own, axis=-1) for value, own in zip(values, mixed, strict=True)])

    def nash_conv(self, strategies: Sequence[npt.ArrayLike]) -> Array:
        """
        Sum the players' best gains from unilateral deviation: sum_i (max_a u_i(a, x_-i) - u_i(x)); 0 exactly at equilibria
        (Lanctot et al. 2017, Sec. 2).

        :param strategies: as in :meth:`action_payoffs`
        :return: (...) NashConv, at least 0 up to rounding
        """
        mixed = check_strategies(strategies, self.n_actions)
        values = self.action_payoffs(mixed)
        gains = [value.max(axis=-1) - np.sum(value * own, axis=-1) for value, own in zip(values, mixed, strict=True)]
        return np.asarray(_stacked(gains).sum(axis=-1))

    def equilibria(self) -> Equilibria:
        """
        Find all Nash equilibria of 2x2 games, exactly; a degenerate family is an interval or a rectangle.

        :return: equilibria in the coordinates of the learners: each player's probability of its action 0
        :raises ValueError: for games of another size
        """
        self.require_two_by_two("equilibria()")
        found = two_by_two_equilibria(self.payoffs.reshape(-1, 2, 2, 2))
        shape = (*self.batch_shape, *found.valid.shape[1:])
        return Equilibria(found.lower.reshape(*shape, 2), found.upper.reshape(*shape, 2), found.valid.reshape(shape))

    def field(self) -> GradientField:
        """
        :return: gradient field of 2x2 games
        :raises ValueError: for games of another size
        """
        self.require_two_by_two("field()")
        first = self.payoffs[..., 0, 0, :] - self.payoffs[..., 0, 1, :]
        second = self.payoffs[..., 1, :, 0] - self.payoffs[..., 1, :, 1]
        cross = (
            self.payoffs[..., 0, :, 0] - self.payoffs[..., 0, :, 1],
            self.payoffs[..., 1, 0, :] - self.payoffs[..., 1, 1, :],
        )
        return GradientField(
            slope=_stacked([first[..., 0] - first[..., 1], second[..., 0] - second[..., 1]]),
            offset=_stacked([first[..., 1], second[..., 1]]),
            external=_stacked([cross[0][..., 1], cross[1][..., 1]]),
        )

    def require_two_by_two(self, what: str) -> None:
        """
        :param what: name of the caller, for the message
        :raises ValueError: if these are not games of two players with two actions each
        """
        if self.n_players != 2 or self.n_actions != (2, 2):
            hint = "; for a batch of 2x2 games pass n_players=2" if self.payoffs.shape[-3:] == (2, 2, 2) else ""
            raise ValueError(
                f"{what} is for two players with two actions each; "
                f"these games have {self.n_players} players with {self.n_actions} actions{hint}"
            )


@dataclass(frozen=True, eq=False)
class GradientField:
    """
    2x2 games as polynomials of p and q, the probabilities of action 0:

        V_1(p, q) = slope_1 p q + offset_1 p + external_1 q + constant, and V_2 likewise with p and q exchanged.

    In the notation of Singh, Kearns and Mansour (2000), slope = u and offset = c.

    :param slope: (..., 2)
    :param offset: (..., 2)
    :param external: (..., 2) contribution of the other's strategy alone
    """

    slope: Array
    offset: Array
    external: Array

    def gradient(self, strategies: Array) -> Array:
        """
        :param strategies: (..., 2) probabilities of action 0
        :return: (..., 2) derivative of each player's payoff in its own probability
        """
        return np.asarray(self.slope * strategies[..., ::-1] + self.offset)

    def advantage(self, strategies: Array, of: Array) -> Array:
        """
        Compute the advantage of one joint strategy over another one, in a form that is exact if they are close.

        :param strategies: (..., 2) joint strategy to compare with
        :param of: (..., 2) joint strategy
        :return: (..., 2) V_i(of) - V_i(strategies)
        """
        moved = of - strategies
        own, other = moved, moved[..., ::-1]
        return np.asarray(own * (self.slope * of[..., ::-1] + self.offset) + other * (self.slope * strategies + self.external))


def both_actions(strategies: npt.ArrayLike) -> list[Array]:
    """
    Convert strategies of players with two actions each to the form that :class:`NormalFormGame` takes.

    :param strategies: (..., n) probabilities of action 0
    :return: n arrays (..., 2) of probabilities of both actions
    """
    chosen = np.asarray(strategies, dtype=np.float64)
    return [np.stack([chosen[..., player], 1.0 - chosen[..., player]], axis=-1) for player in range(chosen.shape[-1])]


def check_strategies(strategies: Sequence[npt.ArrayLike], counts: Sequence[int]) -> list[Array]:
    """
    :param strategies: one array (..., A_i) per player
    :param counts: numbers of actions A_i
    :return: float64 arrays
    :raises ValueError: if there is not one array per player, or one does not hold probabilities
    """
    if len(strategies) != len(counts):
        raise ValueError(f"strategies must be one per player: expected {len(counts)}, got {len(strategies)}")
    mixed = [np.asarray(strategy, dtype=np.float64) for strategy in strategies]
    for player, (strategy, count) in enumerate(zip(mixed, counts, strict=True)):
        is_valid = (
            strategy.shape[-1:] == (count,) and (strategy >= -1e-9).all() and (abs(strategy.sum(axis=-1) - 1) < 1e-6).all()
        )
        if not is_valid:
            raise ValueError(f"strategy of player {player} must be {count} probabilities that sum to 1, got {strategy}")
    return mixed


def _stacked(parts: Sequence[Array]) -> Array:
    return np.stack(parts, axis=-1)
