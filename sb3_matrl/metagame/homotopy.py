"""Homotopy path from the centre to an equilibrium, for games in which local methods stall."""

import math
from typing import Protocol

import numpy as np

from sb3_matrl.metagame.game import Payoffs
from sb3_matrl.metagame.incentives import Array

_FIRST_STEP = 0.05
_LONGEST_STEP = 0.4
_FASTEST_GROWTH = 2.0
_SHORTEST_STEP = 1e-9
_CORRECTIONS = 5
_ACCURACY = 1e-6
#: The path ends when t is this close to 1.
_ARRIVED = 1e-9
#: Target angle between successive tangents, and the cosine below which a step is rejected.
_TURN = 0.3
_STRAIGHT = 0.8


class Curve(Protocol):
    """Polynomial system F(x, t) = 0 whose solutions form a curve from t = 0 to an equilibrium at t = 1."""

    def start(self) -> tuple[Array, Array]:
        """
        :return: (d + 1,) solution at t = 0 with t as last entry, and the curve's direction there, of any length
        """
        ...

    def system(self, point: Array) -> Array:
        """
        :param point: (d + 1,)
        :return: (d,) F
        """
        ...

    def jacobian(self, point: Array) -> Array:
        """
        :param point: (d + 1,)
        :return: (d, d + 1) derivative of F
        """
        ...

    def inside(self, point: Array) -> bool:
        """
        :param point: (d + 1,)
        :return: whether the point belongs to a profile in which every strategy has a positive weight
        """
        ...


def follow(curve: Curve, max_steps: int) -> Array:
    """
    Follow a curve from t = 0 to t = 1.

    t may decrease along the curve, so it is followed by arc length: second-order predictor from the last two tangents, Newton
    corrector on the hyperplane, one Jacobian per step.

    :param curve: the system
    :param max_steps: largest number of predictor steps
    :return: (d + 1,) the end of the curve, to be polished; an intermediate point if ``max_steps`` was too small
    """
    point, tangent = curve.start()
    tangent = tangent / np.linalg.norm(tangent)
    step, bend = _FIRST_STEP, np.zeros(len(point))
    for _ in range(max_steps):
        with np.errstate(over="ignore", invalid="ignore"):  # a corrector may go far; such points are rejected
            moved = _advance(curve, point, tangent, bend, step)
        if moved is None:
            step *= 0.4
            if step < _SHORTEST_STEP:
                break
            continue
        reached = moved[0][-1]
        if reached > 1.0 + _ARRIVED:
            # Past the end: shorten the step by the secant rule until it ends there.
            step *= (1.0 - point[-1]) / (reached - point[-1])
            continue
        bend, angle = (moved[1] - tangent) / step, math.acos(min(float(moved[1] @ tangent), 1.0))
        point, tangent = moved
        if point[-1] >= 1.0 - _ARRIVED:
            break
        step = min(step * min(_TURN / max(angle, 0.1 * _TURN), _FASTEST_GROWTH), _LONGEST_STEP)
    return point


def _advance(curve: Curve, point: Array, tangent: Array, bend: Array, step: float) -> tuple[Array, Array] | None:
    """Next point on the curve and the tangent there; ``None`` if the step is too long."""
    trial = point + step * tangent + 0.5 * step**2 * bend
    bordered = np.vstack([curve.jacobian(trial), tangent])
    last_row = np.zeros(len(point))
    last_row[-1] = 1.0
    try:
        inverse = np.linalg.inv(bordered)
    except np.linalg.LinAlgError:
        return None
    following = inverse @ last_row
    following /= np.linalg.norm(following)
    if following @ tangent < _STRAIGHT:
        return None
    for _ in range(_CORRECTIONS):
        value = np.append(curve.system(trial), 0.0)
        if np.abs(value).max() <= _ACCURACY:
            break
        trial = trial - inverse @ value
    else:
        return None
    inside = curve.inside(trial) or trial[-1] >= 1.0
    near = np.linalg.norm(trial - point) <= 2.0 * step
    return (trial, following) if inside and near else None


def trace(payoffs: Payoffs, max_steps: int) -> Array:
    """
    Follow the equilibria of barrier-perturbed games from the centre to an equilibrium.

    :param payoffs: normalised payoffs of any number of agents with two strategies
    :param max_steps: largest number of predictor steps
    :return: (n,) weights on current at the end of the curve; an intermediate point if ``max_steps`` was too small
    """
    return np.asarray(np.clip(follow(_CubePath(payoffs), max_steps)[:-1], 0.0, 1.0))


class _CubePath:
    """
    Barrier-perturbed games of two strategies.

    Agent i's payoff plus mu (log rho_i + log(1 - rho_i)) has its maximum where gradient_i + mu (1/rho_i - 1/(1-rho_i)) = 0.
    With mu = (1-t)/t and multiplied out this is the polynomial system

        F(rho, t) = t rho (1-rho) gradient(rho) + (1-t) (1 - 2 rho) = 0.

    At t = 0 its only solution is the centre; for a generic game the curve through it stays inside the cube and ends at t = 1
    in an equilibrium.

    :param payoffs: normalised payoffs of n agents
    """

    def __init__(self, payoffs: Payoffs) -> None:
        self._payoffs = payoffs

    def start(self) -> tuple[Array, Array]:
        centre = np.full(self._payoffs.n_agents, 0.5)
        # At t = 0: dF = -2 d rho + gradient / 4 dt = 0.
        return np.append(centre, 0.0), np.append(self._payoffs.gradient(centre[None])[0] / 8.0, 1.0)

    def system(self, point: Array) -> Array:
        rho, t = point[:-1], point[-1]
        return np.asarray(t * rho * (1.0 - rho) * self._payoffs.gradient(rho[None])[0] + (1.0 - t) * (1.0 - 2.0 * rho))

    def jacobian(self, point: Array) -> Array:
        rho, t = point[:-1], point[-1]
        gradient, hessian = self._payoffs.linearised(rho)
        barrier = rho * (1.0 - rho)
        in_rho = t * barrier[:, None] * hessian + np.diag(t * (1.0 - 2.0 * rho) * gradient - 2.0 * (1.0 - t))
        return np.column_stack([in_rho, barrier * gradient - (1.0 - 2.0 * rho)])

    def inside(self, point: Array) -> bool:
        return bool(np.all((point[:-1] > 0.0) & (point[:-1] < 1.0)))
