from io import BytesIO
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest

from sb3_matrl.zoo.training.payoff_figures import draw_payoffs, payoff_table

STRATEGIES = ("current", "predicted", "optimistic")


def report(n, k=2, seed=0):
    rng = np.random.default_rng(seed)
    agents = tuple(f"agent_{i}" for i in range(n))
    sigma, payoffs = rng.dirichlet(np.ones(k), size=n), rng.normal(size=(n, *[k] * n))
    return SimpleNamespace(agents=agents, strategies=STRATEGIES[:k], rho=sigma[:, 0], sigma=sigma, payoffs=payoffs)


@pytest.mark.parametrize(("n", "k"), [(1, 2), (2, 2), (3, 2), (4, 2), (1, 3), (3, 3)])
def test_table_has_every_joint_strategy_with_its_probability_and_payoffs(n, k):
    game = report(n, k)
    columns, rows = payoff_table(game)
    assert columns == [*game.agents, "probability", *(f"payoff of {agent}" for agent in game.agents)]
    by_profile = {tuple(row[:n]): row[n:] for row in rows}
    assert len(rows) == len(by_profile) == k**n
    for profile in product(range(k), repeat=n):
        probability, *payoffs = by_profile[tuple(STRATEGIES[choice] for choice in profile)]
        expected = 1.0
        for choice, sigma in zip(profile, game.sigma, strict=True):
            expected *= sigma[choice]
        assert probability == pytest.approx(expected)
        assert payoffs == [game.payoffs[i][profile] for i in range(n)]


@pytest.mark.parametrize(("n", "k", "n_rows"), [(1, 2, 2), (2, 2, 2), (3, 2, 2), (4, 2, 4), (3, 3, 3)])
def test_heatmap_shows_every_payoff_where_its_labels_say(n, k, n_rows):
    game = report(n, k)
    panels = draw_payoffs(game, "title").axes[:n]
    for i, axes in enumerate(panels):
        shown = np.asarray(axes.images[0].get_array())
        assert shown.shape == (n_rows, k**n // n_rows)
        row_labels = [label.get_text() for label in axes.get_yticklabels()]
        column_labels = [label.get_text() for label in axes.get_xticklabels()]
        texts = iter(text.get_text() for text in axes.texts)
        for row, column in product(range(shown.shape[0]), range(shown.shape[1])):
            names = [name for name in f"{row_labels[row]}, {column_labels[column]}".split(", ") if name]
            profile = tuple("cpo".index(name[0]) for name in names)
            assert shown[row, column] == game.payoffs[i][profile]
            assert next(texts) == f"{game.payoffs[i][profile]:.3g}"
        assert axes.get_title() == f"payoff of {game.agents[i]}"


def test_colours_are_symmetric_around_zero_also_when_all_payoffs_are_zero():
    game = report(2)
    image = draw_payoffs(game, "title").axes[0].images[0]
    assert image.get_clim() == (-np.abs(game.payoffs).max(), np.abs(game.payoffs).max())
    game.payoffs = np.zeros((2, 2, 2))
    assert draw_payoffs(game, "title").axes[0].images[0].get_clim() == (-1.0, 1.0)


def test_names_of_agents_are_no_formulas():
    game = report(2)
    game.agents = [r"$\no$", "b"]
    draw_payoffs(game, r"$\title$").savefig(BytesIO())


def test_games_that_are_too_large_are_refused():
    game = SimpleNamespace(agents=tuple("abcde"), rho=np.ones(5), payoffs=None)
    for use in (payoff_table, lambda game: draw_payoffs(game, "title")):
        with pytest.raises(ValueError, match="payoffs of 5 agents are not tabulated"):
            use(game)
