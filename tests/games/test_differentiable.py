"""Derivatives against autograd and finite differences, the standard games against their papers, and messages."""

import numpy as np
import pytest
import torch

from sb3_matrl.games.differentiable import DIFFERENTIABLE_GAMES, DifferentiableGame, differentiable_game

MATRIX = np.array([[1.0, -2.0, 0.5], [0.0, 3.0, -1.0]])

#: Each standard game's losses once more, as torch functions written from the papers.
TORCH_LOSSES = {
    "rotational": lambda w: [(w[0] ** 2 / 2 + 10 * w[0] * w[1]).sum(), (w[1] ** 2 / 2 - 10 * w[0] * w[1]).sum()],
    "bilinear": lambda w: [w[0] @ torch.tensor(MATRIX) @ w[1], -(w[0] @ torch.tensor(MATRIX) @ w[1])],
    "hamiltonian": lambda w: [(w[0] * (w[1] + 1)).sum(), (-(w[0] - 1) * w[1]).sum()],
    "potential": lambda w: [(w[0] ** 4 / 4 - w[0] ** 2 / 2 + w[1] ** 2 / 2 + w[0] * w[1] / 2).sum()] * 2,
    "tandem": lambda w: [((w[0] + w[1]) ** 2 - 2 * w[0]).sum(), ((w[0] + w[1]) ** 2 - 2 * w[1]).sum()],
}


def standard(name: str) -> DifferentiableGame:
    return differentiable_game(name, **({"matrix": MATRIX} if name == "bilinear" else {}))


def three_players() -> DifferentiableGame:
    """Nonlinear, dims (2, 1, 3), differentiated by autograd."""

    def losses(w):
        x, y, z = w
        return [
            torch.sin(x).sum() * y[0] + (z**2).sum() * x[0],
            (y**4).sum() + y[0] * (x * z[:2]).sum(),
            torch.exp(z).sum() * x[1] - (z**3).sum() * y[0],
        ]

    return DifferentiableGame((2, 1, 3), losses)


def central_differences(function, joint, step=1e-5):
    columns = [(function(joint + step * unit) - function(joint - step * unit)) / (2 * step) for unit in np.eye(len(joint))]
    return np.stack(columns, axis=-1)


@pytest.mark.parametrize("name", DIFFERENTIABLE_GAMES)
def test_closed_forms_of_standard_games_equal_autograd(name: str) -> None:
    game = standard(name)
    reference = DifferentiableGame(game.dims, TORCH_LOSSES[name])
    for seed in range(5):
        joint = np.random.default_rng(seed).normal(size=game.size)
        np.testing.assert_allclose(game.losses(joint), reference.losses(joint), atol=1e-12)
        np.testing.assert_allclose(game.loss_gradients(joint), reference.loss_gradients(joint), atol=1e-12)
        np.testing.assert_allclose(game.gradient(joint), reference.gradient(joint), atol=1e-12)
        np.testing.assert_allclose(game.jacobian(joint), reference.jacobian(joint), atol=1e-12)


@pytest.mark.parametrize("name", [*DIFFERENTIABLE_GAMES, "three players"])
def test_derivatives_equal_finite_differences(name: str) -> None:
    game = three_players() if name == "three players" else standard(name)
    joint = np.random.default_rng(7).normal(size=game.size)
    np.testing.assert_allclose(game.loss_gradients(joint), central_differences(game.losses, joint), atol=1e-7)
    np.testing.assert_allclose(game.jacobian(joint), central_differences(game.gradient, joint), atol=1e-7)


def test_simultaneous_gradient_takes_each_players_own_part() -> None:
    game = three_players()
    joint = np.linspace(-1.0, 1.0, 6)
    full = game.loss_gradients(joint)
    np.testing.assert_array_equal(game.gradient(joint), [full[0, 0], full[0, 1], full[1, 2], *full[2, 3:]])


def test_off_diagonal_drops_the_players_own_blocks() -> None:
    game = three_players()
    kept = game.off_diagonal(np.ones((6, 6)))
    own = [(0, 2), (2, 3), (3, 6)]
    for start, stop in own:
        np.testing.assert_array_equal(kept[start:stop, start:stop], 0.0)
    assert kept.sum() == 36 - (4 + 1 + 9)


def test_jacobian_symmetry_tells_the_game_class() -> None:
    point = np.array([0.3, -0.8])
    hamiltonian, potential = differentiable_game("hamiltonian"), differentiable_game("potential")
    np.testing.assert_array_equal(hamiltonian.jacobian(point), -hamiltonian.jacobian(point).T)
    np.testing.assert_array_equal(potential.jacobian(point), potential.jacobian(point).T)


@pytest.mark.parametrize(
    ("name", "point"),
    [
        ("rotational", (0.0, 0.0)),
        ("hamiltonian", (1.0, -1.0)),
        ("potential", (np.sqrt(5) / 2, -np.sqrt(5) / 4)),
        ("potential", (0.0, 0.0)),
        ("tandem", (-1.5, 2.5)),
    ],
)
def test_documented_fixed_points(name: str, point: tuple[float, float]) -> None:
    np.testing.assert_allclose(differentiable_game(name).gradient(point), 0.0, atol=1e-12)


def test_footnote_three_by_hand() -> None:
    game = differentiable_game("rotational")
    np.testing.assert_allclose(game.losses([1.0, 1.0]), [10.5, -9.5])
    np.testing.assert_allclose(game.gradient([1.0, 1.0]), [11.0, -9.0])
    np.testing.assert_allclose(game.jacobian([1.0, 1.0]), [[1.0, 10.0], [-10.0, 1.0]])


def test_split_and_join_are_inverse() -> None:
    game = three_players()
    joint = np.arange(6.0)
    parts = game.split(joint)
    assert [part.shape for part in parts] == [(2,), (1,), (3,)]
    np.testing.assert_array_equal(game.join(parts), joint)


def test_a_loss_without_dependence_has_zero_derivatives() -> None:
    game = DifferentiableGame((1, 1), lambda w: [w[0].sum(), torch.tensor(3.0, dtype=torch.float64)])
    np.testing.assert_array_equal(game.loss_gradients([1.0, 2.0]), [[1.0, 0.0], [0.0, 0.0]])
    np.testing.assert_array_equal(game.jacobian([1.0, 2.0]), np.zeros((2, 2)))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.0], r"must have shape \(2,\), not \(1,\)"),
        ([[1.0, 2.0]], r"must have shape \(2,\), not \(1, 2\)"),
        ([1.0, np.nan], r"must be finite, but entry \(1,\) is nan"),
        ([np.inf, 1.0], r"must be finite, but entry \(0,\) is inf"),
    ],
)
def test_bad_strategies_are_rejected(values: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        differentiable_game("rotational").losses(values)


def test_bad_names_and_options_are_rejected_with_a_suggestion() -> None:
    with pytest.raises(ValueError, match="'rotatonal' is unknown; did you mean 'rotational'"):
        differentiable_game("rotatonal")
    with pytest.raises(ValueError, match="'rotaton' is unknown; did you mean 'rotation'"):
        differentiable_game("rotational", rotaton=3.0)


def test_bad_games_are_rejected() -> None:
    with pytest.raises(ValueError, match="whole numbers >= 1"):
        DifferentiableGame((1, 0), lambda w: w)
    with pytest.raises(ValueError, match="both closed forms"):
        DifferentiableGame((1, 1), lambda w: [0.0, 0.0], loss_gradients=lambda w: np.zeros((2, 2)))
    with pytest.raises(ValueError, match=r"quadratic must have shape \(2, 2, 2\)"):
        DifferentiableGame.quadratic((1, 1), np.zeros((2, 2)))
    with pytest.raises(ValueError, match="quadratic must be finite"):
        DifferentiableGame.quadratic((1, 1), np.full((2, 2, 2), np.nan))
    with pytest.raises(ValueError, match="has 2 players, got 3 strategies"):
        differentiable_game("tandem").join([[1.0], [1.0], [1.0]])
    with pytest.raises(ValueError, match="strategy of player 1 must have shape"):
        differentiable_game("tandem").join([[1.0], [1.0, 2.0]])


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        (lambda w: [w[0].sum()], "must return 2 values, one per player, got 1"),
        (lambda w: [w[0].sum(), 0.0], "player 1 .* must be a scalar torch tensor .* got float"),
        (lambda w: [torch.cat(list(w)), w[0].sum()], r"player 0 .* must be a scalar torch tensor .* got Tensor \(2,\)"),
    ],
)
def test_losses_that_autograd_cannot_use_are_rejected(losses, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DifferentiableGame((1, 1), losses).gradient([1.0, 1.0])


def test_closed_form_of_wrong_shape_is_rejected() -> None:
    game = DifferentiableGame((1, 1), lambda w: [0.0, 0.0], lambda w: np.zeros(2), lambda w: np.zeros((2, 2)))
    with pytest.raises(ValueError, match=r"loss_gradients of game 'custom' must return shape \(2, 2\), got \(2,\)"):
        game.gradient([1.0, 1.0])
