"""Directions against formulas written out by hand, step counts of the rotational game, MATRL's meta-game, and messages."""

import numpy as np
import pytest
import torch

from sb3_matrl.games import DifferentiableGame, differentiable_game, learner_names, make_learner, run, steps_to_tolerance
from sb3_matrl.games.exact_matrl import MATRLIteration
from sb3_matrl.games.exact_metagames import DifferentiableMetaGame, metagame_payoffs
from sb3_matrl.games.gradient_views import FreeView
from sb3_matrl.metagame import MetaGame

LR = 0.02


def random_game(seed: int) -> tuple[DifferentiableGame, np.ndarray]:
    """Three players with vectors of lengths 2, 1, 2 and non-symmetric random quadratic losses; a random point."""
    rng = np.random.default_rng(seed)
    return DifferentiableGame.quadratic((2, 1, 2), rng.normal(size=(3, 5, 5)), rng.normal(size=(3, 5))), rng.normal(size=5)


def direction(name: str, game: DifferentiableGame, joint: np.ndarray, **options) -> np.ndarray:
    return (joint - make_learner(name, DifferentiableGame, **options).start(game, joint).step(joint)) / LR


def steps(name: str, horizon: int = 250, **options) -> int | None:
    learner = make_learner(name, DifferentiableGame, **options)
    return steps_to_tolerance(run(learner, differentiable_game("rotational"), [1.0, 1.0], horizon))


def blocks(game: DifferentiableGame) -> list[slice]:
    ends = np.cumsum(game.dims)
    return [slice(end - k, end) for end, k in zip(ends, game.dims, strict=True)]


def torch_anticipation(game: DifferentiableGame, joint: np.ndarray, detach_steps: bool) -> np.ndarray:
    """
    Differentiate sum_{j != i} <dL_i/dw_j, xi_j> in w_i: LOLA's term with both factors live; LookAhead's with xi_j constant.
    """
    quadratic = [torch.tensor(_hessian(game, i)) for i in range(game.n_players)]
    offset = torch.tensor(game.loss_gradients(np.zeros(game.size)))
    w = torch.tensor(joint, requires_grad=True)
    full = [q @ w + c for q, c in zip(quadratic, offset, strict=True)]
    result = torch.zeros_like(w)
    for i, mine in enumerate(blocks(game)):
        own_steps = [full[j][part].detach() if detach_steps else full[j][part] for j, part in enumerate(blocks(game))]
        term = sum(full[i][part] @ own_steps[j] for j, part in enumerate(blocks(game)) if j != i)
        result[mine] = torch.autograd.grad(term, w, retain_graph=True)[0][mine]
    return result.detach().numpy()


def _hessian(game: DifferentiableGame, player: int) -> np.ndarray:
    zero = game.loss_gradients(np.zeros(game.size))[player]
    return np.stack([game.loss_gradients(unit)[player] - zero for unit in np.eye(game.size)], axis=1)


@pytest.mark.parametrize("seed", range(5))
def test_first_order_directions(seed: int) -> None:
    game, w = random_game(seed)
    xi = game.gradient(w)
    np.testing.assert_allclose(direction("gd", game, w), xi, atol=1e-10)
    np.testing.assert_allclose(direction("extragradient", game, w), game.gradient(w - LR * xi), atol=1e-10)
    np.testing.assert_allclose(direction("extragradient", game, w, look_ahead=0.5), game.gradient(w - 0.5 * xi), atol=1e-10)
    dynamics = make_learner("optimistic").start(game, w)
    second = dynamics.step(w)
    np.testing.assert_allclose(second, w - LR * xi, atol=1e-12)
    np.testing.assert_allclose(dynamics.step(second), second - LR * (2 * game.gradient(second) - xi), atol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_lookahead_and_lola_differentiate_the_anticipated_losses(seed: int) -> None:
    game, w = random_game(seed)
    xi = game.gradient(w)
    lookahead = xi - LR * torch_anticipation(game, w, detach_steps=True)
    np.testing.assert_allclose(direction("lookahead", game, w), lookahead, atol=1e-10)
    lola = xi - 0.3 * torch_anticipation(game, w, detach_steps=False)
    np.testing.assert_allclose(direction("lola", game, w, look_ahead=0.3), lola, atol=1e-10)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("scale", [1.0, 1e-2])
def test_sos_scales_the_shaping_as_published(seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    game = DifferentiableGame.quadratic((2, 1, 2), rng.normal(size=(3, 5, 5)))
    w, ahead = scale * rng.normal(size=5), 0.3
    live, constant = torch_anticipation(game, w, detach_steps=False), torch_anticipation(game, w, detach_steps=True)
    xi, chi = game.gradient(w), live - constant
    xi0 = xi - ahead * constant
    inner = float(-ahead * chi @ xi0)
    p1 = 1.0 if inner >= 0 else min(1.0, -0.5 * float(xi0 @ xi0) / inner)
    p2 = float(xi @ xi) if np.linalg.norm(xi) < 0.1 else 1.0
    expected = xi0 - min(p1, p2) * ahead * chi
    np.testing.assert_allclose(direction("sos", game, w, look_ahead=ahead), expected, atol=1e-10)


@pytest.mark.parametrize("seed", range(5))
def test_adjusted_directions(seed: int) -> None:
    game, w = random_game(seed)
    xi, h = game.gradient(w), game.jacobian(w)
    np.testing.assert_allclose(direction("consensus", game, w, gamma=0.7), xi + 0.7 * h.T @ xi, atol=1e-10)
    adjustment = ((h - h.T) / 2).T @ xi
    unaligned = direction("sga", game, w, adjustment=0.7, align=False)
    np.testing.assert_allclose(unaligned, xi + 0.7 * adjustment, atol=1e-10)
    sign = np.sign((xi @ h.T @ xi) * (adjustment @ h.T @ xi) / 5 + 0.1)
    np.testing.assert_allclose(direction("sga", game, w, adjustment=0.7), xi + sign * 0.7 * adjustment, atol=1e-10)


@pytest.mark.parametrize("seed", range(5))
def test_meta_payoffs_are_loss_decreases_at_every_profile(seed: int) -> None:
    game, current = random_game(seed)
    predicted = current - 0.1 * game.gradient(current)
    table = metagame_payoffs(game, current, predicted)
    owner = [0, 0, 1, 2, 2]
    for a in (0, 1):
        for b in (0, 1):
            for c in (0, 1):
                mixed = np.array([(current, predicted)[(a, b, c)[owner[k]]][k] for k in range(5)])
                np.testing.assert_allclose(table[:, a, b, c], game.losses(current) - game.losses(mixed), atol=1e-12)
    np.testing.assert_array_equal(table[:, 0, 0, 0], 0.0)


def test_meta_payoffs_of_the_rotational_game_by_hand() -> None:
    game = differentiable_game("rotational")
    # xi(1, 1) = (11, -9), step 0.1: predicted (-0.1, 1.9); losses (10.5, -9.5) at (1, 1).
    table = metagame_payoffs(game, np.array([1.0, 1.0]), np.array([-0.1, 1.9]))
    expected = [
        [[0.0, 10.5 - 19.5], [10.5 + 0.995, 10.5 - (0.005 - 1.9)]],
        [[0.0, -9.5 - (1.805 - 19.0)], [-9.5 - 1.5, -9.5 - (1.805 + 1.9)]],
    ]
    np.testing.assert_allclose(table, expected, atol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_matrl_solves_mixes_and_best_responds_from_current(seed: int) -> None:
    game, w = random_game(seed)
    moved = direction("matrl", game, w, predicted_learning_rate=0.5)
    predicted = w - 0.5 * game.gradient(w)
    rho = DifferentiableMetaGame(game).equilibrium(w, predicted)
    assert MetaGame.from_payoffs(metagame_payoffs(game, w, predicted)).nash_conv(rho) < 1e-6
    for i, mine in enumerate(blocks(game)):
        profile = np.concatenate([r * w[b] + (1 - r) * predicted[b] for r, b in zip(rho, blocks(game), strict=True)])
        profile[mine] = w[mine]
        np.testing.assert_allclose(moved[mine], game.loss_gradients(profile)[i, mine], atol=1e-10)


def test_predicted_steps_keep_the_others_at_current() -> None:
    game, w = random_game(3)
    predicted = MATRLIteration(FreeView(game), metagame=None, predicted_steps=3).predict(w, 0.1)
    for i, mine in enumerate(blocks(game)):
        alone = w.copy()
        for _ in range(3):
            alone[mine] = alone[mine] - 0.1 * game.loss_gradients(alone)[i, mine]
        np.testing.assert_allclose(predicted[mine], alone[mine], atol=1e-12)


# Measured once on an independent implementation: GD never, EG 171, LA 175, MATRL 176, OGD 164, LOLA 87, SOS 112.
@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("gd", {}, None),
        ("extragradient", {}, 171),
        ("extragradient", {"look_ahead": 0.1}, 31),
        ("optimistic", {}, 164),
        ("lookahead", {}, 175),
        ("lookahead", {"look_ahead": 0.1}, 33),
        ("lola", {}, 87),
        ("sos", {}, 112),
        ("sga", {}, 175),
        ("consensus", {}, 179),
        ("matrl", {}, 176),
        ("matrl", {"predicted_learning_rate": 0.1}, 37),
    ],
)
def test_steps_on_the_rotational_game(name: str, options: dict[str, float], expected: int | None) -> None:
    assert steps(name, **options) == expected


def test_trust_region_needs_fewer_steps_than_sos_consensus_and_sga() -> None:
    rivals = [steps(name) for name in ("sos", "consensus", "sga")]
    needed = steps("matrl-tr")
    assert needed is not None and needed < min(count for count in rivals if count is not None)


@pytest.mark.parametrize("factor", [0.01, 100.0])
def test_trust_region_adapts_to_the_scale_of_the_losses(factor: float) -> None:
    quadratic = factor * np.array([[[1.0, 10.0], [10.0, 0.0]], [[0.0, -10.0], [-10.0, 1.0]]])
    game = DifferentiableGame.quadratic((1, 1), quadratic)
    learner = make_learner("matrl-tr", DifferentiableGame)
    assert steps_to_tolerance(run(learner, game, [1.0, 1.0], 150)) is not None


@pytest.mark.parametrize(
    ("name", "total"), [("lookahead", 1.0), ("sos", 1.0), ("matrl", 1.0), ("matrl-tr", 1.0), ("lola", 4 / 3)]
)
def test_only_lola_leaves_the_stable_line_of_the_tandem_game(name: str, total: float) -> None:
    options = {} if name == "matrl-tr" else {"learning_rate": 0.1}
    path = run(make_learner(name, DifferentiableGame, **options), differentiable_game("tandem"), [1.0, 1.0], 80)
    np.testing.assert_allclose(path[-1].sum(), total, atol=1e-6)


def test_trust_region_leaves_the_saddle_of_the_potential_game() -> None:
    path = run(make_learner("matrl-tr", DifferentiableGame), differentiable_game("potential"), [0.1, 0.1], 80)
    np.testing.assert_allclose(path[-1], [np.sqrt(5) / 2, -np.sqrt(5) / 4], atol=1e-6)


@pytest.mark.parametrize("name", learner_names(DifferentiableGame))
def test_every_start_repeats_the_run(name: str) -> None:
    game, w = random_game(1)
    learner = make_learner(name, DifferentiableGame)
    np.testing.assert_array_equal(run(learner, game, w, 4), run(learner, game, w, 4))


def test_a_diverging_run_ends_in_nan() -> None:
    # Weight 1 contracts by |A|^2 = 100 beside the unit contraction: |1 - 0.1 * 101| = 9.1 per step.
    learner = make_learner("sga", adjustment=1.0, learning_rate=0.1)
    trajectory = run(learner, differentiable_game("rotational"), [1, 1], 60)
    assert trajectory.shape == (61, 2) and np.isnan(trajectory[-1]).all() and np.isfinite(trajectory[0]).all()
    assert steps_to_tolerance(trajectory) is None


def test_steps_to_tolerance_counts_from_the_start() -> None:
    path = [[1.0, 1.0], [0.5, 0.1], [0.05, 0.1]]
    assert steps_to_tolerance(path, tolerance=2.0) == 0
    assert steps_to_tolerance(path, tolerance=0.2) == 2
    assert steps_to_tolerance(path, target=[0.5, 0.1], tolerance=0.2) == 1
    assert steps_to_tolerance(path) is None


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("extragradiant", {}, "'extragradiant' is unknown; did you mean 'extragradient'"),
        ("gd", {"learning_rat": 0.1}, "'learning_rat' is unknown; did you mean 'learning_rate'"),
        ("gd", {"learning_rate": 0.0}, "learning_rate must be a finite number above 0, got 0.0"),
        ("gd", {"learning_rate": float("nan")}, "learning_rate must be a finite number above 0, got nan"),
        ("lola", {"look_ahead": -1.0}, "look_ahead must be a finite number above 0"),
        ("sos", {"a": 1.0}, "a must lie strictly between 0 and 1"),
        ("sga", {"adjustment": 0.0}, "adjustment must be a finite number above 0"),
        ("consensus", {"gamma": -0.1}, "gamma must be a finite number above 0"),
        ("matrl", {"predicted_learning_rate": 0.0}, "predicted_learning_rate must be a finite number above 0"),
        ("matrl", {"predicted_steps": 0}, "predicted_steps must be a whole number >= 1"),
        ("matrl", {"solver": "enumerate"}, "'enumerate' is unknown; did you mean 'enumeration'"),
        ("matrl", {"selection": "randm"}, "'randm' is unknown; did you mean 'random'"),
        ("matrl-tr", {"look_ahead": 0.0}, "look_ahead must be a finite number above 0"),
    ],
)
def test_bad_options_are_rejected(name: str, options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_learner(name, DifferentiableGame, **options)


def test_bad_runs_are_rejected() -> None:
    game, learner = differentiable_game("tandem"), make_learner("gd")
    with pytest.raises(ValueError, match=r"start of game 'tandem' .* must have shape \(2,\), not \(3,\)"):
        run(learner, game, [1.0, 1.0, 1.0], 3)
    with pytest.raises(ValueError, match=r"entry \(0,\) is nan"):
        run(learner, game, [np.nan, 1.0], 3)
    with pytest.raises(ValueError, match="tolerance must be a finite number above 0"):
        steps_to_tolerance([[1.0, 1.0]], tolerance=0.0)
    with pytest.raises(ValueError, match="13 players has 2\\^13 profiles"):
        metagame_payoffs(DifferentiableGame.quadratic((1,) * 13, np.zeros((13, 13, 13))), np.zeros(13), np.ones(13))
