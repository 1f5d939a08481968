"""Stability of equilibria (Appendix C) and guaranteed improvement (Remark 1 and C.1)."""

from typing import Literal

import numpy as np
import numpy.typing as npt

from sb3_matrl.metagame.face_stability import directions_at, modes, released
from sb3_matrl.metagame.game import MetaGame
from sb3_matrl.metagame.incentives import Array

FixedPointType = Literal["stable", "saddle", "rotational", "unstable", "none"]


def eigenvalues(hessian: npt.ArrayLike) -> npt.NDArray[np.complex128]:
    """
    Eigenvalues of the Hessian, sorted.

    :param hessian: (n, n) from :meth:`MetaGame.hessian`
    :return: (n,) complex, by falling real part, then falling imaginary part
    :raises ValueError: if ``hessian`` is not a finite square matrix
    """
    matrix = _square(hessian)
    values = np.linalg.eigvals(matrix).astype(np.complex128)
    return np.asarray(values[np.lexsort((-values.imag, -values.real))])


def classify(
    hessian: npt.ArrayLike,
    rho: npt.ArrayLike | None = None,
    gradient: npt.ArrayLike | None = None,
    tolerance: float = 1e-6,
) -> FixedPointType:
    """
    Type of a fixed point of simultaneous gradient ASCENT in rho, kept in [0, 1]^n.

    The Hessian of a multilinear game has a zero diagonal, so its eigenvalues sum to zero: at an interior point they are
    never all negative (or all positive), and "all real parts <= 0" means that all of them are zero. Strict stability therefore
    depends on the boundary. Each agent is one of

    - *held*: pure, and its gradient pushes outward (it would lose by deviating);
    - *leaving*: pure, and its gradient pushes inward (it would gain by deviating);
    - *free*: mixing with zero gradient, or pure with zero gradient. A pure one of these is also held if no feasible move of
      the other free agents makes its gradient push inward: with s = +1 at rho = 0 and -1 at rho = 1, s_i H_ij s_j <= 0 for
      pure j and H_ij = 0 for mixing j. (In this sense the paper's "H <= 0, hence stable" holds: entry by entry, over the
      feasible directions. As a definite matrix, a zero-diagonal H is never <= 0 unless it is zero.)

    The type follows from the leaving agents and the eigenvalues of H restricted to the free agents:

    ============== ====================================================================================================
    ``stable``     no agent is leaving and all eigenvalues are zero; in particular every strict pure equilibrium, which is
                   asymptotically stable, and every point of a game that is constant nearby (marginally stable)
    ``rotational`` no agent is leaving, all real parts are zero and some imaginary parts are not (competitive games: the
                   linearised dynamics circle around the point; the paper counts this as a kind of saddle)
    ``unstable``   some leave or grow, and no direction contracts: a strict minimum, possible only at a pure profile
    ``saddle``     some leave or grow, others are held or contract (the mixed equilibrium of a coordination game)
    ``none``       a mixing agent has a nonzero gradient, so this is not a fixed point
    ============== ====================================================================================================

    At a Nash equilibrium no agent is leaving, so with exact payoffs the type is never ``none``, and ``unstable`` only if all
    deviations are ties and joint deviations gain: equilibria are weakly stable, Theorem 1. The type describes the
    linearisation; zero eigenvalues do not determine higher orders.

    :param hessian: (n, n) in units of the payoff scale
    :param rho: (n,) weights on current; ``None``: in the interior
    :param gradient: (n,) current minus predicted, in units of the payoff scale; ``None``: zero
    :param tolerance: largest size of gradients, entries and real or imaginary parts that counts as zero
    :return: type of the fixed point
    :raises ValueError: on wrong shapes
    """
    matrix = _square(hessian)
    n = len(matrix)
    point = _vector(0.5 if rho is None else rho, n, "rho")
    slope = _vector(0.0 if gradient is None else gradient, n, "gradient")
    # +1 at rho = 0, -1 at rho = 1: the feasible direction; 0 for a mixing agent.
    inward = (point <= tolerance).astype(np.float64) - (point >= 1.0 - tolerance)
    pure = inward != 0.0
    if np.any(~pure & (np.abs(slope) > tolerance)):
        return "none"
    leaving = pure & (inward * slope > tolerance)
    free = _released(matrix, inward, ~pure | (np.abs(slope) <= tolerance), tolerance)
    held = ~free & ~leaving
    grows, contracts, turns = _modes(matrix, inward, free, tolerance)
    if leaving.any() or grows:
        return "saddle" if held.any() or contracts else "unstable"
    return "rotational" if turns else "stable"


def _released(matrix: Array, inward: Array, free: npt.NDArray[np.bool_], tolerance: float) -> npt.NDArray[np.bool_]:
    """Free agents (n,) without the pure ones that no move of the others can drive inward."""
    while True:
        drive = inward[:, None] * matrix * np.where(inward == 0.0, 1.0, inward)
        towards = np.where(inward == 0.0, np.abs(drive), drive)
        pushed = np.any(towards[:, free] > tolerance, axis=1)
        remaining = free & ((inward == 0.0) | pushed)
        if np.array_equal(remaining, free):
            return free
        free = remaining


def _modes(matrix: Array, inward: Array, free: npt.NDArray[np.bool_], tolerance: float) -> tuple[bool, bool, bool]:
    """Whether some direction of the free agents grows, contracts, turns."""
    if not free.any():
        return False, False, False
    values = eigenvalues(matrix[np.ix_(free, free)])
    grows, contracts = bool(np.any(values.real > tolerance)), bool(np.any(values.real < -tolerance))
    if np.all(inward[free] != 0.0):
        # At a corner only directions into the cube count; they contract only where an entry pushes back.
        signs = inward[free]
        contracts = bool(np.any(signs[:, None] * matrix[np.ix_(free, free)] * signs < -tolerance))
    return grows, contracts, bool(np.any(np.abs(values.imag) > tolerance))


def classify_strategies(
    hessian: npt.ArrayLike, sigma: npt.ArrayLike, gradient: npt.ArrayLike, tolerance: float = 1e-6
) -> FixedPointType:
    """
    Type of a fixed point of simultaneous gradient ascent over distributions of K strategies.

    The dynamics are sigma_i' = 2 P u_i(. | sigma_-i), P the projection onto the simplex's tangent space: ordinary gradient
    ascent in the tangent coordinates of :meth:`MetaGame.gradient`, and for K = 2 the ascent in rho of :func:`classify`, whose
    types these are. What an agent is there, a direction is here: towards an unused strategy it is *held* if the agent would
    lose, *leaving* if it would gain, and *free* if neither; within the face of the strategies in use all directions are free.
    The eigenvalues are those of the Hessian restricted to the span of the free directions.

    :param hessian: (n (K-1), n (K-1)) in units of the payoff scale
    :param sigma: (n, K)
    :param gradient: (n (K-1),) in units of the payoff scale
    :param tolerance: largest size of weights, gains, entries and real or imaginary parts that counts as zero
    :return: type of the fixed point; ``none`` if an agent's strategies in use differ in payoff
    :raises ValueError: on wrong shapes
    """
    matrix, point = _square(hessian), np.asarray(sigma, dtype=np.float64)
    if point.ndim != 2 or point.shape[0] * (point.shape[1] - 1) != len(matrix):
        raise ValueError(f"sigma of shape (n, K) needs a hessian of n (K-1) rows, got {point.shape} and {matrix.shape}")
    directions = directions_at(point, _vector(gradient, len(matrix), "gradient"), tolerance)
    if np.any(~directions.inward & (np.abs(directions.slopes) > tolerance)):
        return "none"
    leaving = directions.inward & (directions.slopes > tolerance)
    drive = directions.moves @ matrix @ directions.moves.T
    free = released(drive, directions.inward, np.abs(directions.slopes) <= tolerance, tolerance)
    held = ~free & ~leaving
    grows, contracts, turns = modes(matrix, directions, free, tolerance)
    if leaving.any() or grows:
        return "saddle" if held.any() or contracts else "unstable"
    return "rotational" if turns else "stable"


def fixed_point_type(game: MetaGame, profile: npt.ArrayLike, tolerance: float = 1e-6) -> FixedPointType:
    """
    Type of a fixed point of a game; see :func:`classify`, and :func:`classify_strategies` for more than two strategies.

    :param game: meta-game
    :param profile: sigma (n, K), or rho (n,) with two strategies; usually an equilibrium
    :param tolerance: largest size that counts as zero, as a share of the payoff scale
    :return: type of the point; a game whose payoffs are all zero is ``stable`` everywhere
    """
    unit = game.scale if game.scale > 0.0 else 1.0
    hessian, gradient = game.hessian(profile) / unit, game.gradient(profile) / unit
    if game.n_strategies > 2:
        return classify_strategies(hessian, profile, gradient, tolerance)
    point = np.asarray(profile, dtype=np.float64)
    return classify(hessian, point if point.ndim == 1 else point[:, 0], gradient, tolerance)


def improvement_lower_bound(
    expected_payoffs: npt.ArrayLike,
    max_advantage: npt.ArrayLike,
    total_variation: npt.ArrayLike,
    gamma: npt.ArrayLike,
    rho: npt.ArrayLike | None = None,
) -> Array:
    """
    Guaranteed improvement of each agent's return (Remark 1, Eq. 4; with ``rho`` Remark C.1, Eq. 31), for n agents:

        g_i - 4 gamma eps_i / (1 - gamma)^2 * a^2,    a = 1 - prod_j (1 - alpha_j)

    ``a`` bounds the probability that any agent acts differently. The mixture with weight rho_j on the current policy is
    (1 - rho_j) alpha_j coupled to it, which gives the tighter bound.

    :param expected_payoffs: (n,) g_i, at all-predicted (Remark 1) or at ``rho`` (Remark C.1)
    :param max_advantage: (n,) eps_i = max |A_i|, >= 0
    :param total_variation: (n,) alpha_j, the largest total variation distance between current and predicted, in [0, 1]. For a
        mixture of K strategies pass sum_k sigma_jk alpha_jk over the strategies other than current, and leave out ``rho``.
    :param gamma: discount factor in [0, 1], one or (n,); at 1 there is no bound (-inf) unless nothing changes
    :param rho: (n,) weights on current; ``None``: all agents play predicted
    :return: (n,) lower bounds
    :raises ValueError: on wrong shapes or ranges
    """
    payoffs = np.asarray(expected_payoffs, dtype=np.float64)
    if payoffs.ndim != 1 or len(payoffs) == 0:
        raise ValueError(f"expected_payoffs must have shape (n,), not {payoffs.shape}")
    n = len(payoffs)
    epsilon = _vector(max_advantage, n, "max_advantage")
    alpha = _vector(total_variation, n, "total_variation")
    weight = _vector(0.0 if rho is None else rho, n, "rho")
    if not np.all(epsilon >= 0.0):
        raise ValueError("max_advantage is a maximum of absolute values and must be >= 0")
    discount = _vector(gamma, n, "gamma")
    for name, values in (("total_variation", alpha), ("rho", weight), ("gamma", discount)):
        if not np.all((values >= 0.0) & (values <= 1.0)):
            raise ValueError(f"{name} must lie in [0, 1], got {values}")
    change = 1.0 - np.prod(1.0 - (1.0 - weight) * alpha)
    loss = 4.0 * discount * epsilon * change**2
    horizon = np.where(discount < 1.0, 1.0 - discount, 1.0) ** 2
    return np.asarray(payoffs - np.where(discount < 1.0, loss / horizon, np.where(loss > 0.0, np.inf, 0.0)))


def _square(hessian: npt.ArrayLike) -> Array:
    matrix = np.asarray(hessian, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or 0 in matrix.shape or not np.isfinite(matrix).all():
        raise ValueError(f"hessian must be a finite (n, n) matrix, not of shape {matrix.shape}")
    return matrix


def _vector(values: npt.ArrayLike, n: int, name: str) -> Array:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim == 0:
        array = np.full(n, float(array))
    if array.shape != (n,):
        raise ValueError(f"{name} must have shape ({n},), not {array.shape}")
    return array
