"""Q-DPP's kernel and sampler against explicit determinants and inverses, and the probabilities of all joint actions."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
import torch as th
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from sb3_matrl.off_policy.determinantal import (
    Conditionals,
    DiversityFeatures,
    chosen_features,
    log_det,
    sample_actions,
)

NORMS = ["unit", "learned"]


def random_features(
    generator: th.Generator, rows: int, counts: Sequence[int], dim: int, norm: str = "unit"
) -> list[th.Tensor]:
    """Features in float64, n tensors (rows, A_i, dim)."""
    features = [th.randn(rows, count, dim, generator=generator, dtype=th.float64) for count in counts]
    lengths = [th.rand(rows, count, 1, generator=generator, dtype=th.float64) for count in counts]
    unit = [th.nn.functional.normalize(one, dim=2) for one in features]
    return unit if norm == "unit" else [one * length for one, length in zip(unit, lengths, strict=True)]


def kernel(features: np.ndarray, jitter: float) -> np.ndarray:
    """K of the rows (m, d)."""
    return (1.0 - jitter) * features @ features.T + jitter * np.eye(len(features))


def conditional(chosen: list[np.ndarray], feature: np.ndarray, jitter: float) -> float:
    """s(a) = K_aa - k_a^T K_Y^-1 k_a by an explicit inverse."""
    full = kernel(np.array([*chosen, feature]), jitter)
    return float(full[-1, -1] - full[-1, :-1] @ np.linalg.inv(full[:-1, :-1]) @ full[:-1, -1])


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    n_agents=st.integers(1, 6),
    dim=st.integers(1, 8),
    jitter=st.sampled_from([1e-4, 0.01, 0.5]),
    norm=st.sampled_from(NORMS),
)
def test_log_det_is_that_of_the_present_agents_kernel(seed: int, n_agents: int, dim: int, jitter: float, norm: str) -> None:
    generator = th.Generator().manual_seed(seed)
    features = th.cat(random_features(generator, 8, [1] * n_agents, dim, norm), dim=1)
    present = th.rand(8, n_agents, generator=generator) < 0.7
    values = log_det(features, present, jitter, norm)
    for row in range(8):
        sign, expected = np.linalg.slogdet(kernel(features[row, present[row]].numpy(), jitter))
        assert sign == 1.0
        np.testing.assert_allclose(values[row], expected, rtol=1e-8, atol=1e-9)
    assert (values <= 1e-12).all()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), dim=st.integers(1, 5), jitter=st.sampled_from([1e-4, 0.01]), norm=st.sampled_from(NORMS))
def test_logarithms_of_the_conditional_weights_add_up_to_log_det(seed: int, dim: int, jitter: float, norm: str) -> None:
    generator, counts = th.Generator().manual_seed(seed), [2, 4, 3, 1]
    features = random_features(generator, 5, counts, dim, norm)
    actions = th.stack([th.randint(count, (5,), generator=generator) for count in counts], dim=1)
    present = th.rand(5, len(counts), generator=generator) < 0.8
    conditionals, total = Conditionals(jitter), th.zeros(5, dtype=th.float64)
    for own, action, here in zip(features, actions.unbind(1), present.unbind(1), strict=True):
        weight = conditionals.weights(own, norm)[range(5), action]
        conditionals.choose(own[range(5), action], weight, here)
        total += th.where(here, weight.log(), 0.0)
    th.testing.assert_close(total, log_det(chosen_features(features, actions), present, jitter, norm), rtol=1e-7, atol=1e-8)


def test_orthogonal_features_and_single_agents_give_exactly_zero() -> None:
    present = th.tensor([[True, True, True], [False, True, False]])
    features = th.stack([th.eye(3)[[2, 0, 1]], th.randn(3, 3)])
    assert log_det(features, present, 0.01).tolist() == [0.0, 0.0]


def test_equal_features_are_punished_as_far_as_the_jitter_allows() -> None:
    n, jitter = 5, 0.01
    features = th.nn.functional.normalize(th.ones(1, n, 3, dtype=th.float64), dim=2)
    value = float(log_det(features, th.ones(1, n, dtype=th.bool), jitter))
    assert value == pytest.approx((n - 1) * np.log(jitter) + np.log(jitter + n * (1 - jitter)))


@pytest.mark.parametrize("norm", NORMS)
def test_gradient_of_log_det(norm: str) -> None:
    present = th.tensor([[True, True, True], [True, False, True]])
    features = th.cat(random_features(th.Generator().manual_seed(0), 2, [1] * 3, 4, "learned"), dim=1).requires_grad_()
    assert th.autograd.gradcheck(lambda x: log_det(x, present, 0.05, norm), (features,))


def test_gradients_stay_finite_in_float32_for_twenty_agents_with_equal_features() -> None:
    network = DiversityFeatures([3], [2], 4)
    features = network([th.randn(6, 3)])[0].repeat_interleave(20, dim=1)[:, :20]
    loss = log_det(features, th.ones(6, 20, dtype=th.bool), 1e-4).sum()
    loss.backward()
    assert loss.isfinite() and all(one.grad is not None and one.grad.isfinite().all() for one in network.parameters())


def test_numbers_that_are_not_finite_reach_the_result() -> None:
    features = th.full((1, 2, 3), float("nan"))
    assert log_det(features, th.ones(1, 2, dtype=th.bool), 0.01).isnan().all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("counts", [[5, 5], [5, 2]])
def test_features_have_length_one_or_less(norm: str, counts: list[int]) -> None:
    network = DiversityFeatures([3, 3], counts, 7, norm)
    inputs = [10.0 * th.randn(4, 3) for _ in counts]
    features = network(inputs)
    th.testing.assert_close(network(inputs[1:], [1]), features[1:])
    for count, one in zip(counts, features, strict=True):
        lengths = one.norm(dim=2)
        assert one.shape == (4, count, 7)
        if norm == "unit":
            th.testing.assert_close(lengths, th.ones(4, count))
        else:
            assert (lengths < 1.0).all() and (lengths > 0.0).all() and lengths.std() > 0.0


def test_unknown_norm() -> None:
    with pytest.raises(ValueError, match=r"feature_norm 'l2' is unknown\. Known: unit, learned"):
        DiversityFeatures([3], [5], 7, "l2")


def sequential_law(
    q: Sequence[np.ndarray], features: Sequence[np.ndarray], legal: Sequence[np.ndarray], jitter: float, coef: float, t: float
) -> dict[tuple[int, ...], float]:
    """Probability of every joint action of one row."""
    law: dict[tuple[int, ...], float] = {}
    for actions in itertools.product(*(range(len(values)) for values in q)):
        probability, chosen = 1.0, list[np.ndarray]()
        for i, action in enumerate(actions):
            weights = [conditional(chosen, feature, jitter) ** coef for feature in features[i]]
            weights = np.array(weights) * np.exp(q[i] / t) * legal[i]
            probability *= weights[action] / weights.sum()
            chosen.append(features[i][action])
        law[actions] = probability
    return law


@pytest.mark.parametrize(("coef", "temperature"), [(1.0, 1.0), (2.0, 0.4)])
def test_samples_follow_the_sequential_law(coef: float, temperature: float) -> None:
    generator, draws = th.Generator().manual_seed(5), 20_000
    q = [th.randn(1, 3, generator=generator, dtype=th.float64) * 0.3 for _ in range(2)]
    features = random_features(generator, 1, [3, 3], 2)
    legal = [None, th.tensor([[True, True, False]])]
    masks = [np.ones(3), legal[1][0].numpy()]
    law = sequential_law([one[0].numpy() for one in q], [one[0].numpy() for one in features], masks, 0.01, coef, temperature)
    rows = [[one.expand(draws, *one.shape[1:]) for one in tensors] for tensors in (q, features)]
    present = th.ones(draws, 2, dtype=th.bool)
    masks_of_rows = [None, legal[1].expand(draws, 3)]
    actions = sample_actions(*rows, masks_of_rows, present, 0.01, coef, temperature, generator=generator)
    counts = {joint: 0 for joint in law}
    for joint, count in zip(*np.unique(actions.numpy(), axis=0, return_counts=True), strict=True):
        counts[tuple(joint.tolist())] = int(count)
    possible = [joint for joint, probability in law.items() if probability > 0.0]
    assert sum(counts[joint] for joint in possible) == draws and len(possible) == 6
    assert chisquare([counts[joint] for joint in possible], [draws * law[joint] for joint in possible]).pvalue > 1e-3


def test_flat_values_give_a_uniform_first_draw_and_then_determinants() -> None:
    generator, draws, jitter = th.Generator().manual_seed(1), 30_000, 0.01
    features = random_features(generator, 1, [3, 3], 2)
    rows = [one.expand(draws, 3, 2) for one in features]
    flat = [th.zeros(draws, 3, dtype=th.float64)] * 2
    present = th.ones(draws, 2, dtype=th.bool)
    actions = sample_actions(flat, rows, [None] * 2, present, jitter, temperature=1.0, generator=generator).numpy()
    assert chisquare(np.bincount(actions[:, 0], minlength=3)).pvalue > 1e-3
    for first in range(3):
        pairs = [np.stack([features[0][0, first].numpy(), features[1][0, a].numpy()]) for a in range(3)]
        determinants = np.array([np.linalg.det(kernel(pair, jitter)) for pair in pairs])
        seen = np.bincount(actions[actions[:, 0] == first, 1], minlength=3)
        assert chisquare(seen, seen.sum() * determinants / determinants.sum()).pvalue > 1e-3


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), norm=st.sampled_from(NORMS))
def test_greedy_choice_equals_a_loop_with_absent_agents_and_illegal_actions(seed: int, norm: str) -> None:
    generator, counts, jitter, coef = th.Generator().manual_seed(seed), [3, 2, 4], 0.02, 1.7
    q = [th.randn(4, count, generator=generator, dtype=th.float64) for count in counts]
    features = random_features(generator, 4, counts, 2, norm)
    legal = [None, *(th.rand(4, count, generator=generator) < 0.6 for count in counts[1:])]
    for mask in legal[1:]:
        mask[:, 0] |= ~mask.any(dim=1)
    present = th.rand(4, 3, generator=generator) < 0.7
    actions = sample_actions(q, features, legal, present, jitter, coef, norm=norm)
    for row in range(4):
        chosen: list[np.ndarray] = []
        for i in np.flatnonzero(present[row].numpy()).tolist():
            allowed = [a for a in range(counts[i]) if legal[i] is None or legal[i][row, a]]
            scores = {a: coef * np.log(conditional(chosen, features[i][row, a].numpy(), jitter)) for a in allowed}
            best = max(allowed, key=lambda a: scores[a] + float(q[i][row, a]))
            assert actions[row, i] == best
            chosen.append(features[i][row, best].numpy())


def test_an_absent_agent_without_legal_actions_does_no_harm() -> None:
    present = th.tensor([[True, False]])
    legal = [None, th.zeros(1, 3, dtype=th.bool)]
    features = random_features(th.Generator().manual_seed(0), 1, [3, 3], 2)
    actions = sample_actions([th.zeros(1, 3)] * 2, features, legal, present, 0.01, temperature=1.0)
    assert ((actions >= 0) & (actions < 3)).all()


def test_draws_at_temperature_zero_have_the_largest_value() -> None:
    q = [th.tensor([[0.0, 1.0, 0.5]]).expand(50, 3)] * 2
    features = [one.expand(50, 3, 2).float() for one in random_features(th.Generator().manual_seed(0), 1, [3, 3], 2)]
    present = th.ones(50, 2, dtype=th.bool)
    assert (sample_actions(q, features, [None] * 2, present, 0.01, temperature=0.0) == 1).all()


def test_rows_of_a_batch_do_not_depend_on_each_other() -> None:
    generator = th.Generator().manual_seed(3)
    q = [th.randn(6, 3, generator=generator, dtype=th.float64) for _ in range(3)]
    features, present = random_features(generator, 6, [3] * 3, 2), th.ones(6, 3, dtype=th.bool)
    together = sample_actions(q, features, [None] * 3, present, 0.01)
    for row in range(6):
        one = [[tensor[row : row + 1] for tensor in tensors] for tensors in (q, features)]
        assert th.equal(sample_actions(*one, [None] * 3, present[:1], 0.01)[0], together[row])
