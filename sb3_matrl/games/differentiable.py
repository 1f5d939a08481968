"""Differentiable games: n players choose real vectors to MINIMISE their own losses; exact derivatives."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from sb3_matrl.games.payoff_arrays import Array
from sb3_matrl.utils.suggest import unknown


class Form(Protocol):
    """Computation of a game's losses and derivatives at a joint strategy (d,)."""

    def losses(self, joint: Array) -> Array:
        """:return: (n,)"""
        ...

    def loss_gradients(self, joint: Array) -> Array:
        """:return: (n, d); row i is the gradient of player i's loss in all coordinates"""
        ...

    def jacobian(self, joint: Array) -> Array:
        """:return: (d, d) derivative of the simultaneous gradient"""
        ...


class DifferentiableGame:
    """
    A game of n players with strategies in R^d_i and twice differentiable losses, which the players minimise.

    A *joint strategy* is one array of shape (d,), d = sum of d_i: the players' vectors one after the other
    (:meth:`split`, :meth:`join`). Without closed forms the derivatives come from PyTorch's autograd in float64.

    :param dims: (n,) lengths of the players' vectors, each >= 1
    :param losses: function of the sequence of n vectors that returns the n losses. Without closed forms it gets torch tensors
        and must return scalar tensors, built with torch operations; otherwise it gets NumPy arrays
    :param loss_gradients: closed form, a function of the n vectors that returns (n, d): row i is the gradient of loss i in ALL
        coordinates
    :param jacobian: closed form of the derivative of the simultaneous gradient, a function of the n vectors that returns
        (d, d); required with ``loss_gradients``, and only then
    :param name: name for messages
    :raises ValueError: on invalid dims, or if only one of the two closed forms is given
    """

    def __init__(
        self,
        dims: Sequence[int],
        losses: Callable[[Sequence[Any]], Any],
        loss_gradients: Callable[[Sequence[Array]], npt.ArrayLike] | None = None,
        jacobian: Callable[[Sequence[Array]], npt.ArrayLike] | None = None,
        name: str = "custom",
    ) -> None:
        self.dims = _checked_dims(dims)
        self.name = name
        self._bounds = np.cumsum(self.dims)[:-1]
        if (loss_gradients is None) != (jacobian is None):
            raise ValueError("give both closed forms, loss_gradients and jacobian, or neither (then autograd is used)")
        self._form: Form = _AutogradForm(losses, self)
        if loss_gradients is not None and jacobian is not None:
            self._form = _ClosedForm(losses, loss_gradients, jacobian, self)

    @classmethod
    def quadratic(
        cls,
        dims: Sequence[int],
        quadratic: npt.ArrayLike,
        linear: npt.ArrayLike | None = None,
        name: str = "quadratic",
    ) -> DifferentiableGame:
        """
        Make the game of losses L_i(w) = w^T Q_i w / 2 + c_i^T w.

        :param dims: (n,) lengths of the players' vectors
        :param quadratic: (n, d, d) matrices Q_i; only their symmetric parts count
        :param linear: (n, d) vectors c_i; ``None`` means zero
        :param name: name for messages
        :return: game with closed forms
        :raises ValueError: on wrong shapes or non-finite entries
        """
        lengths = _checked_dims(dims)
        n, d = len(lengths), sum(lengths)
        matrices = _finite(quadratic, (n, d, d), "quadratic")
        matrices = 0.5 * (matrices + np.swapaxes(matrices, 1, 2))
        offsets = _finite(np.zeros((n, d)) if linear is None else linear, (n, d), "linear")
        owner = np.repeat(np.arange(n), lengths)
        constant_jacobian = matrices[owner, np.arange(d)]

        def losses(strategies: Sequence[Array]) -> Array:
            joint = np.concatenate(strategies)
            return np.asarray((0.5 * matrices @ joint + offsets) @ joint)

        def loss_gradients(strategies: Sequence[Array]) -> Array:
            return np.asarray(matrices @ np.concatenate(strategies) + offsets)

        return cls(lengths, losses, loss_gradients, lambda _: constant_jacobian, name)

    @property
    def n_players(self) -> int:
        """Number of players."""
        return len(self.dims)

    @property
    def size(self) -> int:
        """Length d of a joint strategy."""
        return sum(self.dims)

    @property
    def owner(self) -> npt.NDArray[np.int64]:
        """(d,) player that each coordinate belongs to."""
        return np.repeat(np.arange(self.n_players), self.dims)

    def split(self, joint: Array) -> list[Array]:
        """
        :param joint: (d,)
        :return: vectors of the n players (views)
        """
        return np.split(joint, self._bounds)

    def join(self, strategies: Sequence[npt.ArrayLike]) -> Array:
        """
        :param strategies: vectors of the n players, of lengths ``dims``
        :return: (d,) joint strategy
        :raises ValueError: on a wrong number, wrong lengths or non-finite entries
        """
        if len(strategies) != self.n_players:
            raise ValueError(f"game {self.name!r} has {self.n_players} players, got {len(strategies)} strategies")
        numbered = enumerate(zip(strategies, self.dims, strict=True))
        return np.concatenate([_finite(part, (k,), f"strategy of player {i}") for i, (part, k) in numbered])

    def joint(self, values: npt.ArrayLike, name: str = "strategies") -> Array:
        """
        Check a joint strategy.

        :param values: (d,)
        :param name: name for messages
        :return: (d,) float64
        :raises ValueError: on a wrong shape or non-finite entries
        """
        return _finite(values, (self.size,), f"{name} of game {self.name!r} (players' dims {self.dims})")

    def losses(self, joint: npt.ArrayLike) -> Array:
        """
        :param joint: (d,)
        :return: (n,) losses of the players
        """
        return self._form.losses(self.joint(joint))

    def loss_gradients(self, joint: npt.ArrayLike) -> Array:
        """
        :param joint: (d,)
        :return: (n, d); row i is the gradient of player i's loss in all coordinates
        """
        return self._form.loss_gradients(self.joint(joint))

    def gradient(self, joint: npt.ArrayLike) -> Array:
        """
        Compute the simultaneous gradient xi: every player's loss differentiated in its own vector.

        :param joint: (d,)
        :return: (d,)
        """
        return np.asarray(self.loss_gradients(joint)[self.owner, np.arange(self.size)])

    def jacobian(self, joint: npt.ArrayLike) -> Array:
        """
        Compute the derivative H of the simultaneous gradient; in general H is not symmetric.

        :param joint: (d,)
        :return: (d, d); entry (k, l) is d xi_k / d w_l
        """
        return self._form.jacobian(self.joint(joint))

    def off_diagonal(self, jacobian: Array) -> Array:
        """
        :param jacobian: (d, d) H
        :return: (d, d) Ho, H with every player's own block set to zero
        """
        owner = self.owner
        return np.where(owner[:, None] == owner[None, :], 0.0, jacobian)


class _ClosedForm:
    """Derivatives from closed forms."""

    def __init__(
        self,
        losses: Callable[[Sequence[Any]], Any],
        loss_gradients: Callable[[Sequence[Array]], npt.ArrayLike],
        jacobian: Callable[[Sequence[Array]], npt.ArrayLike],
        game: DifferentiableGame,
    ) -> None:
        self._losses, self._loss_gradients, self._jacobian = losses, loss_gradients, jacobian
        self._game = game

    def losses(self, joint: Array) -> Array:
        return self._evaluate(self._losses, joint, (self._game.n_players,), "losses")

    def loss_gradients(self, joint: Array) -> Array:
        return self._evaluate(self._loss_gradients, joint, (self._game.n_players, len(joint)), "loss_gradients")

    def jacobian(self, joint: Array) -> Array:
        return self._evaluate(self._jacobian, joint, (len(joint), len(joint)), "jacobian")

    def _evaluate(self, form: Callable[[Sequence[Any]], Any], joint: Array, shape: tuple[int, ...], name: str) -> Array:
        values = np.asarray(form(self._game.split(joint)), dtype=np.float64)
        if values.shape != shape:
            raise ValueError(f"{name} of game {self._game.name!r} must return shape {shape}, got {values.shape}")
        return values


class _AutogradForm:
    """Derivatives by reverse-mode differentiation; torch is imported at the first evaluation."""

    def __init__(self, losses: Callable[[Sequence[Any]], Any], game: DifferentiableGame) -> None:
        self._losses, self._game = losses, game

    def losses(self, joint: Array) -> Array:
        return np.array([loss.item() for loss in self._graph(joint)[1]])

    def loss_gradients(self, joint: Array) -> Array:
        leaf, losses = self._graph(joint)
        return np.stack([_derivative(loss, leaf, keep=False).numpy() for loss in losses])

    def jacobian(self, joint: Array) -> Array:
        leaf, losses = self._graph(joint)
        rows = [_derivative(losses[i], leaf, keep=True) for i in range(self._game.n_players)]
        entries = [rows[i][k] for k, i in enumerate(self._game.owner)]
        return np.stack([_derivative(entry, leaf, keep=False).numpy() for entry in entries])

    def _graph(self, joint: Array) -> tuple[Any, list[Any]]:
        """:return: leaf tensor (d,), and the n scalar losses that depend on it"""
        import torch

        leaf = torch.tensor(joint, dtype=torch.float64, requires_grad=True)
        values = list(self._losses(torch.split(leaf, list(self._game.dims))))
        if len(values) != self._game.n_players:
            raise ValueError(
                f"losses of game {self._game.name!r} must return {self._game.n_players} values, one per player, "
                f"got {len(values)}"
            )
        for i, value in enumerate(values):
            if not isinstance(value, torch.Tensor) or value.numel() != 1:
                raise ValueError(
                    f"the loss of player {i} in game {self._game.name!r} must be a scalar torch tensor (torch operations "
                    f"keep it differentiable), got {type(value).__name__} {tuple(getattr(value, 'shape', ()))}"
                )
        return leaf, [value.reshape(()) for value in values]


def _derivative(value: Any, leaf: Any, keep: bool) -> Any:
    """:return: (d,) derivative of the value, zero if it does not depend on the leaf"""
    import torch

    if not value.requires_grad:
        return torch.zeros_like(leaf)
    (result,) = torch.autograd.grad(value, leaf, retain_graph=True, create_graph=keep, allow_unused=True)
    return torch.zeros_like(leaf) if result is None else result


def _checked_dims(dims: Sequence[int]) -> tuple[int, ...]:
    lengths = tuple(int(k) for k in dims)
    if not lengths or min(lengths) < 1 or any(k != given for k, given in zip(lengths, dims, strict=True)):
        raise ValueError(f"dims must be the players' vector lengths, whole numbers >= 1, got {tuple(dims)}")
    return lengths


def _finite(values: npt.ArrayLike, shape: tuple[int, ...], name: str) -> Array:
    array = np.array(values, dtype=np.float64)
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, not {array.shape}")
    if not np.isfinite(array).all():
        where = tuple(int(k) for k in np.argwhere(~np.isfinite(array))[0])
        raise ValueError(f"{name} must be finite, but entry {where} is {array[where]}")
    return array


def rotational_game(rotation: float = 10.0) -> DifferentiableGame:
    """
    Fig. 3 and footnote 3 (after Balduzzi et al. 2018): L1 = x^2/2 + r xy, L2 = y^2/2 - r xy; stable fixed point at (0, 0).

    :param rotation: r, strength of the rotation beside the unit contraction
    :return: the game
    """
    cross = rotation * np.array([[0.0, 1.0], [1.0, 0.0]])
    own = np.diag([1.0, 0.0]), np.diag([0.0, 1.0])
    return DifferentiableGame.quadratic((1, 1), [own[0] + cross, own[1] - cross], name="rotational")


def bilinear_game(matrix: npt.ArrayLike = ((1.0,),)) -> DifferentiableGame:
    """
    The zero-sum game L1 = x^T M y = -L2: pure rotation; GD spirals outward, fixed point at the origin.

    :param matrix: (d1, d2) M
    :return: the game
    :raises ValueError: if M is not a finite matrix
    """
    m = np.asarray(matrix, dtype=np.float64)
    if m.ndim != 2 or 0 in m.shape:
        raise ValueError(f"matrix must have shape (d1, d2), not {m.shape}")
    rows, columns = m.shape
    cross = np.block([[np.zeros((rows, rows)), m], [m.T, np.zeros((columns, columns))]])
    return DifferentiableGame.quadratic((rows, columns), [cross, -cross], name="bilinear")


def hamiltonian_game(a: float = 1.0, b: float = -1.0) -> DifferentiableGame:
    """
    A Hamiltonian game (antisymmetric Jacobian) that is not zero-sum (Balduzzi et al. 2018): L1 = x (y - b), L2 = -(x - a) y.
    GD circles (in small steps) around the fixed point (a, b).

    :param a: player 1's coordinate of the fixed point
    :param b: player 2's coordinate of the fixed point
    :return: the game
    """
    cross = np.array([[0.0, 1.0], [1.0, 0.0]])
    return DifferentiableGame.quadratic((1, 1), [cross, -cross], [[-b, 0.0], [0.0, a]], name="hamiltonian")


def potential_game() -> DifferentiableGame:
    """
    A potential game (symmetric Jacobian) with common loss x^4/4 - x^2/2 + y^2/2 + xy/2: minima at x = +-sqrt(5)/2, y = -x/2
    and a strict saddle at the origin, which a learner must leave.

    :return: the game
    """

    def losses(strategies: Sequence[Array]) -> list[float]:
        x, y = (float(part[0]) for part in strategies)
        return [x**4 / 4 - x**2 / 2 + y**2 / 2 + x * y / 2] * 2

    def loss_gradients(strategies: Sequence[Array]) -> list[list[float]]:
        x, y = (float(part[0]) for part in strategies)
        return [[x**3 - x + y / 2, y + x / 2]] * 2

    def jacobian(strategies: Sequence[Array]) -> list[list[float]]:
        return [[3 * float(strategies[0][0]) ** 2 - 1, 0.5], [0.5, 1.0]]

    return DifferentiableGame((1, 1), losses, loss_gradients, jacobian, name="potential")


def tandem_game() -> DifferentiableGame:
    """
    The tandem game (Letcher et al. 2019): L1 = (x + y)^2 - 2x, L2 = (x + y)^2 - 2y. All of the line x + y = 1 is stable;
    LOLA overshoots to other sums (arrogance), LookAhead and SOS stay on the line.

    :return: the game
    """
    square = 2.0 * np.ones((2, 2))
    return DifferentiableGame.quadratic((1, 1), [square, square], -2.0 * np.eye(2), name="tandem")


#: The standard games by name.
DIFFERENTIABLE_GAMES: dict[str, Callable[..., DifferentiableGame]] = {
    "rotational": rotational_game,
    "bilinear": bilinear_game,
    "hamiltonian": hamiltonian_game,
    "potential": potential_game,
    "tandem": tandem_game,
}


def differentiable_game(name: str, **options: Any) -> DifferentiableGame:
    """
    Make a standard game.

    :param name: ``rotational`` (option ``rotation``), ``bilinear`` (``matrix``), ``hamiltonian`` (``a``, ``b``), ``potential``
        or ``tandem``
    :param options: options of the game
    :return: the game
    :raises ValueError: on an unknown name or option
    """
    if name not in DIFFERENTIABLE_GAMES:
        raise ValueError(unknown("differentiable game", name, DIFFERENTIABLE_GAMES))
    maker = DIFFERENTIABLE_GAMES[name]
    known = list(inspect.signature(maker).parameters)
    for option in options:
        if option not in known:
            raise ValueError(unknown(f"option of game {name!r}:", option, known))
    return maker(**options)
