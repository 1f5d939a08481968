"""The cross-entropy method: against a grid search, against a slow loop, and row by row."""

from __future__ import annotations

import numpy as np
import pytest
import torch as th

from sb3_matrl.off_policy.cross_entropy import cross_entropy_maximum


def landscape(weights: th.Tensor, actions: th.Tensor) -> th.Tensor:
    """Values of different smooth functions with several maxima, one per row of the weights; actions (..., B, n, size)."""
    waves = (weights[:, None, :] * actions).sum(dim=-1)
    return th.sin(waves) + 0.5 * th.cos(2.3 * waves + weights[:, :1]) - 0.3 * actions.square().sum(dim=-1)


def normals(iterations: int, *shape: int, seed: int = 0) -> th.Tensor:
    return th.randn(iterations, *shape, generator=th.Generator().manual_seed(seed), dtype=th.float64)


def test_value_is_near_that_of_a_grid_search_in_one_dimension() -> None:
    weights = 2.0 * normals(1, 40, 1, seed=1)[0]
    found = cross_entropy_maximum(lambda actions: landscape(weights, actions), normals(2, 40, 64, 1), 6)
    grid = th.linspace(-1, 1, 2001, dtype=th.float64)[None, :, None].expand(40, -1, -1)
    values = landscape(weights, grid)
    best, worst = values.max(dim=1).values, values.min(dim=1).values
    reached = landscape(weights, found[:, None])[:, 0]
    assert (reached <= best + 1e-5).all()
    assert ((best - reached) / (best - worst) < 0.02).all()


def test_more_iterations_find_the_maximum_of_several_dimensions() -> None:
    target = th.tensor([0.5, -0.7, 0.1, 0.9], dtype=th.float64)
    found = cross_entropy_maximum(lambda actions: -(actions - target).square().sum(dim=-1), normals(30, 3, 64, 4), 6)
    assert found.numpy() == pytest.approx(target.expand(3, -1).numpy(), abs=0.02)


def test_equals_a_slow_loop() -> None:
    weights, draws = normals(1, 5, 3, seed=2)[0], normals(3, 5, 16, 3, seed=3)
    found = cross_entropy_maximum(lambda actions: landscape(weights, actions), draws, 4)
    for row in range(5):
        mean, deviation = np.zeros(3), np.ones(3)
        for k in range(3):
            samples = mean + deviation * draws[k, row].numpy()
            values = landscape(weights[row : row + 1], th.from_numpy(np.tanh(samples))[None])[0].numpy()
            order = np.argsort(-values)
            mean, deviation = samples[order[:4]].mean(axis=0), samples[order[:4]].std(axis=0, ddof=1)
        assert found[row].numpy() == pytest.approx(np.tanh(samples[order[0]]), abs=1e-12)


def test_rows_do_not_influence_each_other() -> None:
    weights, table = normals(1, 50, 2, seed=4)[0], normals(2, 64, 2, seed=5)

    def maximum(chosen: th.Tensor) -> th.Tensor:
        shared = table[:, None].expand(-1, len(chosen), -1, -1)
        return cross_entropy_maximum(lambda actions: landscape(chosen, actions), shared, 6)

    together = maximum(weights)
    alone = th.cat([maximum(weights[row : row + 1]) for row in range(50)])
    assert th.equal(together, alone)


def test_actions_are_within_their_bounds_and_without_gradient() -> None:
    network = th.nn.Linear(2, 1)
    found = cross_entropy_maximum(lambda actions: network(actions).squeeze(-1), normals(2, 7, 64, 2).float(), 6)
    assert found.shape == (7, 2) and not found.requires_grad
    assert (found.abs() <= 1.0).all()
