"""Homotopy path from the centre to an equilibrium, for games in which local methods stall."""

import math

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


def trace(payoffs: Payoffs, max_steps: int) -> Array:
    """
    Follow the equilibria of barrier-perturbed games from the centre to an equilibrium.

    Agent i's payoff plus mu (log rho_i + log(1 - rho_i)) has its maximum where gradient_i + mu (1/rho_i - 1/(1-rho_i)) = 0.
    With mu = (1-t)/t and multiplied out this is the polynomial system

        F(rho, t) = t rho (1-rho) gradient(rho) + (1-t) (1 - 2 rho) = 0.

    At t = 0 its only solution is the centre; for a generic game the curve through it stays inside the cube and ends at t = 1
    in an equilibrium. t may decrease along the curve, so it is followed by arc length: second-order predictor from the last
    two tangents, Newton corrector on the hyperplane, one Jacobian per step.

    :param payoffs: normalised payoffs of any number of agents
    :param max_steps: largest number of predictor steps
    :return: (n,) the end of the curve, to be polished; an intermediate point if ``max_steps`` was too small
    """
    n = payoffs.n_agents
    centre = np.full(n, 0.5)
    # At t = 0: dF = -2 d rho + gradient / 4 dt = 0.
    tangent = np.append(payoffs.gradient(centre[None])[0] / 8.0, 1.0)
    point, tangent = np.append(centre, 0.0), tangent / np.linalg.norm(tangent)
    step, bend = _FIRST_STEP, np.zeros(n + 1)
    for _ in range(max_steps):
        moved = _advance(payoffs, point, tangent, bend, step)
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
    return np.asarray(np.clip(point[:-1], 0.0, 1.0))


def _advance(payoffs: Payoffs, point: Array, tangent: Array, bend: Array, step: float) -> tuple[Array, Array] | None:
    """Next point on the curve and the tangent there; ``None`` if the step is too long."""
    trial = point + step * tangent + 0.5 * step**2 * bend
    bordered = np.vstack([_jacobian(payoffs, trial), tangent])
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
        value = np.append(_system(payoffs, trial), 0.0)
        if np.abs(value).max() <= _ACCURACY:
            break
        trial = trial - inverse @ value
    else:
        return None
    inside = np.all((trial[:-1] > 0.0) & (trial[:-1] < 1.0)) or trial[-1] >= 1.0
    near = np.linalg.norm(trial - point) <= 2.0 * step
    return (trial, following) if inside and near else None


def _system(payoffs: Payoffs, point: Array) -> Array:
    rho, t = point[:-1], point[-1]
    return np.asarray(t * rho * (1.0 - rho) * payoffs.gradient(rho[None])[0] + (1.0 - t) * (1.0 - 2.0 * rho))


def _jacobian(payoffs: Payoffs, point: Array) -> Array:
    """Derivative (n, n + 1) of the system in rho and t."""
    rho, t = point[:-1], point[-1]
    gradient, hessian = payoffs.linearised(rho)
    barrier = rho * (1.0 - rho)
    in_rho = t * barrier[:, None] * hessian + np.diag(t * (1.0 - 2.0 * rho) * gradient - 2.0 * (1.0 - t))
    return np.column_stack([in_rho, barrier * gradient - (1.0 - 2.0 * rho)])
