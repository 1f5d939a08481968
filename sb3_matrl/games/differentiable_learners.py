"""Learners for differentiable games: gradient methods that see the exact game, and MATRL with an exact meta-game."""

from __future__ import annotations

import inspect
import itertools
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import numpy.typing as npt

from sb3_matrl.games.differentiable import Array, DifferentiableGame
from sb3_matrl.metagame import METHODS, SELECTIONS, MetaGame, solve
from sb3_matrl.utils.suggest import unknown

#: A run whose largest |coordinate| exceeds this has diverged.
DIVERGED = 1e12


class DifferentiableLearner(ABC):
    """
    All players' strategies move along one direction: w <- w - learning_rate * direction(w).

    Call :meth:`reset` with a game, then :meth:`step` again and again.

    :param learning_rate: step size of all players, > 0
    :raises ValueError: on a step size that is not a positive number
    """

    def __init__(self, learning_rate: float = 0.02) -> None:
        self.learning_rate = _positive(learning_rate, "learning_rate")
        self._game: DifferentiableGame | None = None

    @property
    def game(self) -> DifferentiableGame:
        """The game being played."""
        if self._game is None:
            raise ValueError("this learner has no game yet; call reset(game) before step(strategies)")
        return self._game

    def reset(self, game: DifferentiableGame) -> None:
        """
        Start on a game and forget the past.

        :param game: the game to play
        """
        self._game = game

    def step(self, strategies: npt.ArrayLike) -> Array:
        """
        :param strategies: (d,) joint strategy
        :return: (d,) the next one
        :raises ValueError: on a wrong shape, non-finite entries, or before :meth:`reset`
        """
        joint = self.game.joint(strategies)
        return np.asarray(joint - self.learning_rate * self.direction(joint))

    @abstractmethod
    def direction(self, joint: Array) -> Array:
        """
        :param joint: (d,) joint strategy
        :return: (d,) what is subtracted, before the step size
        """


class GradientDescent(DifferentiableLearner):
    """Simultaneous gradient descent: direction xi."""

    def direction(self, joint: Array) -> Array:
        """:return: (d,) xi(w)"""
        return self.game.gradient(joint)


class Extragradient(DifferentiableLearner):
    """
    Extragradient (Korpelevich 1976): direction xi(w - look_ahead xi(w)).

    :param learning_rate: step size, > 0
    :param look_ahead: size of the forecast step; ``None``: the learning rate
    """

    def __init__(self, learning_rate: float = 0.02, look_ahead: float | None = None) -> None:
        super().__init__(learning_rate)
        self.look_ahead = _positive_or(look_ahead, self.learning_rate, "look_ahead")

    def direction(self, joint: Array) -> Array:
        """:return: (d,) the gradient at the forecast"""
        return self.game.gradient(joint - self.look_ahead * self.game.gradient(joint))


class OptimisticGradient(DifferentiableLearner):
    """Optimistic gradient descent (Daskalakis et al. 2018): direction 2 xi_t - xi_{t-1}; the first step is plain descent."""

    def __init__(self, learning_rate: float = 0.02) -> None:
        super().__init__(learning_rate)
        self._previous: Array | None = None

    def reset(self, game: DifferentiableGame) -> None:
        """Start on a game and forget the last gradient."""
        super().reset(game)
        self._previous = None

    def direction(self, joint: Array) -> Array:
        """:return: (d,) the extrapolated gradient"""
        gradient = self.game.gradient(joint)
        previous = gradient if self._previous is None else self._previous
        self._previous = gradient
        return np.asarray(2.0 * gradient - previous)


class LookAhead(DifferentiableLearner):
    """
    LookAhead (Zhang and Lesser 2010; Letcher et al. 2019): direction (I - look_ahead Ho) xi.

    :param learning_rate: step size, > 0
    :param look_ahead: the opponents' anticipated step size; ``None``: the learning rate
    """

    def __init__(self, learning_rate: float = 0.02, look_ahead: float | None = None) -> None:
        super().__init__(learning_rate)
        self.look_ahead = _positive_or(look_ahead, self.learning_rate, "look_ahead")

    def direction(self, joint: Array) -> Array:
        """:return: (d,)"""
        gradient = self.game.gradient(joint)
        return np.asarray(gradient - self.look_ahead * self.game.off_diagonal(self.game.jacobian(joint)) @ gradient)

    def shaping(self, joint: Array) -> Array:
        """
        LOLA's shaping term chi = diag(Ho^T grad L): chi_i = sum_{j != i} (d xi_j / d w_i)^T dL_i / dw_j, which takes into
        account how the opponents' steps change with player i's strategy.

        :param joint: (d,)
        :return: (d,)
        """
        mixed = self.game.off_diagonal(self.game.jacobian(joint))
        products = self.game.loss_gradients(joint) @ mixed
        return np.asarray(products[self.game.owner, np.arange(self.game.size)])


class Lola(LookAhead):
    """
    LOLA (Foerster et al. 2018): direction (I - look_ahead Ho) xi - look_ahead chi.

    :param learning_rate: step size, > 0
    :param look_ahead: the opponents' anticipated step size; ``None``: the learning rate
    """

    def direction(self, joint: Array) -> Array:
        """:return: (d,)"""
        return np.asarray(super().direction(joint) - self.look_ahead * self.shaping(joint))


class StableOpponentShaping(LookAhead):
    """
    SOS (Letcher et al. 2019): LookAhead's direction minus p * look_ahead * chi with p = min(p1, p2): p1 keeps the angle to
    LookAhead's direction below 90 degrees, p2 removes the shaping near fixed points.

    :param learning_rate: step size, > 0
    :param look_ahead: the opponents' anticipated step size; ``None``: the learning rate
    :param a: share of LookAhead's direction that shaping must leave, in (0, 1)
    :param b: where |xi| is below it, p <= |xi|^2, in (0, 1)
    """

    def __init__(self, learning_rate: float = 0.02, look_ahead: float | None = None, a: float = 0.5, b: float = 0.1) -> None:
        super().__init__(learning_rate, look_ahead)
        for name, value in (("a", a), ("b", b)):
            if not 0.0 < value < 1.0:
                raise ValueError(f"{name} must lie strictly between 0 and 1, got {value}")
        self.a, self.b = a, b

    def direction(self, joint: Array) -> Array:
        """:return: (d,)"""
        stable = super().direction(joint)
        shaping = -self.look_ahead * self.shaping(joint)
        product = float(shaping @ stable)
        alignment = 1.0 if product >= 0.0 else min(1.0, -self.a * float(stable @ stable) / product)
        squared = float(np.sum(self.game.gradient(joint) ** 2))
        nearness = squared if squared < self.b**2 else 1.0
        return np.asarray(stable + min(alignment, nearness) * shaping)


class SymplecticGradientAdjustment(DifferentiableLearner):
    """
    SGA (Balduzzi et al. 2018): direction xi + s adjustment A^T xi, A = (H - H^T) / 2, with the sign s by alignment:
    s = sign(<xi, H^T xi> <A^T xi, H^T xi> / d + 0.1), and s = 1 for ``align=False``.

    The authors' weight is 1, made for H of order one and small steps: with learning rate 0.02 it diverges on the rotational
    game, where |A|^2 = 100. The default is therefore the learning rate, with which the adjustment is as long as LookAhead's.

    :param learning_rate: step size, > 0
    :param adjustment: |lambda|, the weight of the adjustment, > 0; ``None``: the learning rate
    :param align: choose the sign by alignment
    """

    def __init__(self, learning_rate: float = 0.02, adjustment: float | None = None, align: bool = True) -> None:
        super().__init__(learning_rate)
        self.adjustment = _positive_or(adjustment, self.learning_rate, "adjustment")
        self.align = align

    def direction(self, joint: Array) -> Array:
        """:return: (d,)"""
        gradient, jacobian = self.game.gradient(joint), self.game.jacobian(joint)
        adjusted = 0.5 * (jacobian.T - jacobian) @ gradient
        descent = jacobian.T @ gradient
        alignment = float(gradient @ descent) * float(adjusted @ descent) / len(joint)
        sign = -1.0 if self.align and alignment + 0.1 < 0.0 else 1.0
        return np.asarray(gradient + sign * self.adjustment * adjusted)


class ConsensusOptimization(DifferentiableLearner):
    """
    Consensus optimisation (Mescheder et al. 2017): direction xi + gamma H^T xi, the second term descends |xi|^2 / 2.

    :param learning_rate: step size, > 0
    :param gamma: weight of the consensus term, > 0; ``None``: the learning rate (see
        :class:`SymplecticGradientAdjustment`; the weight 1 diverges on the rotational game with learning rate 0.02)
    """

    def __init__(self, learning_rate: float = 0.02, gamma: float | None = None) -> None:
        super().__init__(learning_rate)
        self.gamma = _positive_or(gamma, self.learning_rate, "gamma")

    def direction(self, joint: Array) -> Array:
        """:return: (d,)"""
        gradient = self.game.gradient(joint)
        return np.asarray(gradient + self.gamma * self.game.jacobian(joint).T @ gradient)


class Matrl(DifferentiableLearner):
    """
    MATRL with exact gains (Sec. 2): every player predicts its own descent against the others' current strategies; the
    meta-game between current and predicted is solved; strategies are mixed linearly; every player makes a gradient step from
    its CURRENT strategy against the others' mixed ones (Theorem 2's iteration).

    At most 12 players (the meta-game's table has 2^n profiles).

    :param learning_rate: step size of the best response, > 0
    :param predicted_learning_rate: step size of the prediction, > 0; ``None``: the learning rate
    :param predicted_steps: number of descent steps of the prediction, >= 1
    :param solver: a method of :func:`sb3_matrl.metagame.solve`
    :param selection: which of several equilibria: ``random``, ``welfare`` or ``progress``
    :param seed: of the draws among equilibria; the same after every :meth:`reset`
    """

    def __init__(
        self,
        learning_rate: float = 0.02,
        predicted_learning_rate: float | None = None,
        predicted_steps: int = 1,
        solver: str = "auto",
        selection: str = "random",
        seed: int = 0,
    ) -> None:
        super().__init__(learning_rate)
        self.predicted_learning_rate = _positive_or(predicted_learning_rate, self.learning_rate, "predicted_learning_rate")
        if int(predicted_steps) != predicted_steps or predicted_steps < 1:
            raise ValueError(f"predicted_steps must be a whole number >= 1, got {predicted_steps}")
        self.predicted_steps = int(predicted_steps)
        for kind, value, known in (("solver", solver, METHODS), ("selection", selection, SELECTIONS)):
            if value not in known:
                raise ValueError(unknown(kind, value, known))
        self.solver, self.selection, self.seed = solver, selection, seed
        self._rng = np.random.default_rng(seed)
        #: (n,) the last meta-game's equilibrium: weights on the current strategies
        self.rho: Array | None = None

    def reset(self, game: DifferentiableGame) -> None:
        """Start on a game; draws begin anew."""
        super().reset(game)
        self._rng = np.random.default_rng(self.seed)
        self.rho = None

    def direction(self, joint: Array) -> Array:
        """:return: (d,) each player's own gradient at its current strategy against the others' mixed strategies"""
        return _own_gradients(self.game, joint, self.mixed(joint))

    def mixed(self, joint: Array) -> Array:
        """
        Predict, solve the meta-game and mix.

        :param joint: (d,)
        :return: (d,) every player's mixed strategy
        """
        predicted = self.predict(joint)
        meta = MetaGame.from_payoffs(meta_payoffs(self.game, joint, predicted))
        self.rho = solve(meta, self.solver, self.selection, self._rng).rho
        weight = self.rho[self.game.owner]
        return np.asarray(weight * joint + (1.0 - weight) * predicted)

    def predict(self, joint: Array) -> Array:
        """
        Every player descends alone, the others stay.

        :param joint: (d,)
        :return: (d,) the predicted strategies
        """
        predicted = joint
        for k in range(self.predicted_steps):
            gradient = self.game.gradient(joint) if k == 0 else _own_gradients(self.game, predicted, joint)
            predicted = predicted - self.predicted_learning_rate * gradient
        return predicted


class TrustRegionMatrl(Matrl):
    """
    MATRL with steps measured from the game, so that nothing is tuned per game.

    - Predicted step: tau = ``look_ahead`` / L, L = |xi(w - tau xi(w)) - xi(w)| / |tau xi(w)| being the Lipschitz constant of
      the gradient over the very step that is predicted. It is found by backtracking (Khobotov 1987): the first candidate is
      ten times the last step (``learning_rate`` at first), every further one what the L just measured allows.
    - Best-response step: tau / (1 + look_ahead^2), which contracts a rotation the most after such a prediction; see
      :class:`~sb3_matrl.games.matrl.TrustRegionMATRL` for the reasons and the sources.

    L is measured along the gradient only. Where L differs much between directions (ill-conditioned losses), steps that fit
    the present direction are now and then too long for another one, as with Barzilai-Borwein steps.

    :param learning_rate: first candidate of the predicted step, > 0
    :param look_ahead: predicted step in units of 1 / L, > 0
    :param metagame: ``False`` answers the predicted strategies
    :param best_response: ``False`` ends with the mixed strategies
    :param solver: see :class:`Matrl`
    :param selection: see :class:`Matrl`
    :param seed: see :class:`Matrl`
    """

    def __init__(
        self,
        learning_rate: float = 0.02,
        look_ahead: float = 1.5,
        metagame: bool = True,
        best_response: bool = True,
        solver: str = "auto",
        selection: str = "random",
        seed: int = 0,
    ) -> None:
        super().__init__(learning_rate, solver=solver, selection=selection, seed=seed)
        self.look_ahead = _positive(look_ahead, "look_ahead")
        self.metagame, self.best_response = metagame, best_response
        self._candidate = self.learning_rate

    def reset(self, game: DifferentiableGame) -> None:
        """Start on a game with the first step."""
        super().reset(game)
        self._candidate = self.predicted_learning_rate = self.learning_rate

    def step(self, strategies: npt.ArrayLike) -> Array:
        """
        :param strategies: (d,) joint strategy
        :return: (d,) the next one
        :raises ValueError: on a wrong shape, non-finite entries, or before :meth:`reset`
        """
        joint = self.game.joint(strategies)
        gradient = self.game.gradient(joint)
        if not gradient.any():
            return joint  # Nothing measures a step here; candidates would grow without end.
        self.predicted_learning_rate = self._trusted_step(joint, gradient)
        self._candidate = 10.0 * self.predicted_learning_rate
        mixed = self.mixed(joint) if self.metagame else self.predict(joint)
        if not self.best_response:
            return mixed
        length = self.predicted_learning_rate / (1.0 + self.look_ahead**2)
        return np.asarray(joint - length * _own_gradients(self.game, joint, mixed))

    def _trusted_step(self, joint: Array, gradient: Array) -> float:
        """:return: tau; every candidate refused is at least a tenth longer than the next one, so the search ends"""
        tau = self._candidate
        while tau * (lipschitz := self._lipschitz(joint, gradient, tau)) > 1.1 * self.look_ahead:
            tau = self.look_ahead / lipschitz if lipschitz < np.inf else 0.1 * tau
        return tau

    def _lipschitz(self, joint: Array, gradient: Array, tau: float) -> float:
        """:return: L over the step tau along the gradient; infinite where the gradient overflows there, 0 without a move"""
        predicted = joint - tau * gradient
        moved = float(np.linalg.norm(predicted - joint))
        change = float(np.linalg.norm(self.game.gradient(predicted) - gradient))
        if not np.isfinite(change):
            return float("inf")
        return change / moved if moved > 0.0 else 0.0


def meta_payoffs(game: DifferentiableGame, current: Array, predicted: Array) -> Array:
    """
    Exact gains of Eq. 3: how far each player's loss falls when some players switch to their predicted strategies.

    :param game: the game
    :param current: (d,)
    :param predicted: (d,)
    :return: (n, 2, ..., 2); index 0 is current, 1 is predicted; all-current is 0
    :raises ValueError: above 12 players
    """
    n = game.n_players
    if n > 12:
        raise ValueError(f"the meta-game of {n} players has 2^{n} profiles; its table is built up to 12 players")
    table = np.zeros((*(2,) * n, n))
    losses = game.losses(current)
    for profile in itertools.product((0, 1), repeat=n):
        if any(profile):
            switched = np.where(np.array(profile)[game.owner] == 1, predicted, current)
            table[profile] = losses - game.losses(switched)
    return np.moveaxis(table, -1, 0)


def _own_gradients(game: DifferentiableGame, own: Array, others: Array) -> Array:
    """:return: (d,) player i's gradient where i plays its part of ``own`` and the rest play theirs of ``others``"""
    gradient = np.empty(game.size)
    for i in range(game.n_players):
        mine = game.owner == i
        gradient[mine] = game.gradient(np.where(mine, own, others))[mine]
    return gradient


#: The learners by name.
DIFFERENTIABLE_LEARNERS: dict[str, type[DifferentiableLearner]] = {
    "gd": GradientDescent,
    "extragradient": Extragradient,
    "optimistic": OptimisticGradient,
    "lookahead": LookAhead,
    "lola": Lola,
    "sos": StableOpponentShaping,
    "sga": SymplecticGradientAdjustment,
    "consensus": ConsensusOptimization,
    "matrl": Matrl,
    "matrl-tr": TrustRegionMatrl,
}


def make_differentiable_learner(name: str, **options: Any) -> DifferentiableLearner:
    """
    A learner by name.

    :param name: ``gd``, ``extragradient``, ``optimistic``, ``lookahead``, ``lola``, ``sos``, ``sga``, ``consensus``,
        ``matrl`` or ``matrl-tr``
    :param options: of that learner's class, e.g. ``learning_rate``
    :return: the learner
    :raises ValueError: on an unknown name or option, or an option out of range
    """
    if name not in DIFFERENTIABLE_LEARNERS:
        raise ValueError(unknown("differentiable learner", name, DIFFERENTIABLE_LEARNERS))
    learner = DIFFERENTIABLE_LEARNERS[name]
    known = list(inspect.signature(learner).parameters)
    for option in options:
        if option not in known:
            raise ValueError(unknown(f"option of learner {name!r}:", option, known))
    return learner(**options)


def run_differentiable(learner: DifferentiableLearner, game: DifferentiableGame, start: npt.ArrayLike, steps: int) -> Array:
    """
    Play a game from a start; the learner is reset first.

    :param learner: the learner
    :param game: the game
    :param start: (d,) joint strategy
    :param steps: number of steps, >= 0
    :return: (steps + 1, d) trajectory, the start first; NaN from the step on at which a coordinate exceeded 1e12 (diverged)
    :raises ValueError: on a start of wrong shape or non-finite, or a negative number of steps
    """
    if int(steps) != steps or steps < 0:
        raise ValueError(f"steps must be a whole number >= 0, got {steps}")
    joint = game.joint(start, "start")
    learner.reset(game)
    trajectory = np.full((int(steps) + 1, game.size), np.nan)
    trajectory[0] = joint
    for k in range(1, len(trajectory)):
        with np.errstate(over="ignore", invalid="ignore"):
            joint = learner.step(joint)
        if not np.all(np.abs(joint) <= DIVERGED):
            break
        trajectory[k] = joint
    return trajectory


def steps_to_tolerance(trajectory: npt.ArrayLike, target: npt.ArrayLike = 0.0, tolerance: float = 1e-3) -> int | None:
    """
    :param trajectory: (steps + 1, d) of :func:`run_differentiable`
    :param target: (d,) or one number, the fixed point
    :param tolerance: of every coordinate, > 0
    :return: the first step with max |w - target| < tolerance (0 is the start); ``None``: never
    :raises ValueError: on wrong shapes or a tolerance that is not a positive number
    """
    path, goal = np.asarray(trajectory, dtype=np.float64), np.asarray(target, dtype=np.float64)
    if path.ndim != 2 or goal.shape not in ((), path.shape[1:]):
        raise ValueError(f"expected a trajectory (steps + 1, d) and a target (d,), got shapes {path.shape} and {goal.shape}")
    limit = _positive(tolerance, "tolerance")
    reached = np.abs(path - goal).max(axis=1) < limit
    return int(reached.argmax()) if reached.any() else None


def _positive(value: float, name: str) -> float:
    number = float(value)
    if not 0.0 < number < np.inf:
        raise ValueError(f"{name} must be a positive number, got {value}")
    return number


def _positive_or(value: float | None, default: float, name: str) -> float:
    return default if value is None else _positive(value, name)
