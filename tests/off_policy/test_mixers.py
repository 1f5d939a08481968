"""VDN's and QMIX's mixers: monotone, greedy actions of the team, a slow loop in float64."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch as th
from hypothesis import given, settings
from hypothesis import strategies as st

from sb3_matrl.off_policy.mixers import QMixer, VDNMixer, make_mixer, present_values


def random_mixer(seed: int, n_agents: int, state_size: int = 3, scale: float = 1.0, **kwargs: Any) -> QMixer:
    """A mixer in float64 whose parameters are drawn from Normal(0, scale)."""
    generator = th.Generator().manual_seed(seed)
    mixer = QMixer(n_agents, state_size, **kwargs).double()
    for parameter in mixer.parameters():
        parameter.data = scale * th.randn(parameter.shape, generator=generator, dtype=th.float64)
    return mixer


def slow_qmix(mixer: QMixer, q: np.ndarray, state: np.ndarray) -> float:
    """Q_tot of one row, entry by entry, from the mixer's weights."""
    weights = {name: value.detach().numpy() for name, value in mixer.named_parameters()}

    def network(name: str, x: np.ndarray) -> list[float]:
        for layer in (0, 2):
            if f"{name}.{layer}.weight" not in weights:
                break
            x = np.maximum(x, 0.0) if layer else x
            rows = zip(weights[f"{name}.{layer}.weight"], weights[f"{name}.{layer}.bias"], strict=True)
            x = np.array([sum(w * h for w, h in zip(row, x, strict=True)) + bias for row, bias in rows])
        return list(x)

    w1, w2, (v,) = network("hyper_w1", state), network("hyper_w2", state), network("v", state)
    total = v
    for k in range(mixer.embed_dim):
        z = sum(abs(w1[i * mixer.embed_dim + k]) * q[i] for i in range(len(q)))
        z += sum(weights["b1.weight"][k, j] * state[j] for j in range(len(state))) + weights["b1.bias"][k]
        total += abs(w2[k]) * (z if z > 0 else np.expm1(z))
    return float(total)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("n_agents", [1, 2, 5])
def test_qmix_equals_a_loop_over_rows_and_entries(n_agents: int, layers: int) -> None:
    mixer = random_mixer(n_agents, n_agents, mixing_embed_dim=4, hypernet_layers=layers, hypernet_embed=5)
    q, state = th.randn(6, n_agents, dtype=th.float64), th.randn(6, 3, dtype=th.float64)
    expected = [slow_qmix(mixer, *row) for row in zip(q.numpy(), state.numpy(), strict=True)]
    np.testing.assert_allclose(mixer(q, state).detach().numpy(), expected, rtol=1e-12)


def test_vdn_is_the_sum() -> None:
    q = th.randn(4, 3, dtype=th.float64)
    assert th.equal(VDNMixer()(q, th.zeros(4, 2)), q.sum(dim=1))
    assert th.equal(VDNMixer()(q), q.sum(dim=1))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), n_agents=st.integers(1, 4), scale=st.floats(0.1, 20.0))
def test_qmix_never_falls_in_an_agents_value(seed: int, n_agents: int, scale: float) -> None:
    mixer = random_mixer(seed, n_agents, scale=scale)
    generator = th.Generator().manual_seed(seed + 1)
    q = (scale * th.randn(32, n_agents, generator=generator, dtype=th.float64)).requires_grad_()
    state = scale * th.randn(32, 3, generator=generator, dtype=th.float64)
    (slope,) = th.autograd.grad(mixer(q, state).sum(), q)
    assert (slope >= 0.0).all() and (slope > 0.0).any()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), sizes=st.lists(st.integers(1, 5), min_size=1, max_size=4))
@pytest.mark.parametrize("name", ["vdn", "qmix"])
def test_own_greedy_actions_are_the_best_joint_action(name: str, seed: int, sizes: list[int]) -> None:
    rng = np.random.default_rng(seed)
    tables = [th.as_tensor(rng.normal(scale=3.0, size=size)) for size in sizes]
    mixer = random_mixer(seed, len(sizes)) if name == "qmix" else VDNMixer()
    joint = list(itertools.product(*(range(size) for size in sizes)))
    q = th.stack([th.stack([table[a] for table, a in zip(tables, actions, strict=True)]) for actions in joint])
    totals = mixer(q, th.as_tensor(rng.normal(size=(1, 3))).expand(len(joint), 3))
    greedy = joint.index(tuple(int(table.argmax()) for table in tables))
    assert totals[greedy] >= totals.max() - 1e-5


@pytest.mark.parametrize("layers", [1, 2])
def test_permuted_agents_permute_the_blocks_of_the_first_weights(layers: int) -> None:
    n_agents, embed = 4, 5
    mixer = random_mixer(0, n_agents, mixing_embed_dim=embed, hypernet_layers=layers)
    permuted = QMixer(n_agents, 3, embed, layers).double()
    permuted.load_state_dict(mixer.state_dict())
    order = [2, 0, 3, 1]
    for name in ("weight", "bias"):
        value = getattr(mixer.hyper_w1[-1], name)
        getattr(permuted.hyper_w1[-1], name).data = value.detach().view(n_agents, embed, -1)[order].reshape(value.shape)
    q, state = th.randn(7, n_agents, dtype=th.float64), th.randn(7, 3, dtype=th.float64)
    th.testing.assert_close(permuted(q[:, order], state), mixer(q, state))


def test_networks_are_made_in_the_documented_order_by_pytorchs_initialisation() -> None:
    th.manual_seed(3)
    mixer = QMixer(2, 3, mixing_embed_dim=4, hypernet_embed=6)
    th.manual_seed(3)
    sizes = [(3, 6), (6, 8), (3, 6), (6, 4), (3, 4), (3, 4), (4, 1)]
    expected = [parameter for inputs, outputs in sizes for parameter in th.nn.Linear(inputs, outputs).parameters()]
    assert all(th.equal(*pair) for pair in zip(mixer.parameters(), expected, strict=True))


def test_an_absent_agents_value_counts_as_zero_and_gets_no_gradient() -> None:
    q = th.tensor([[1.0, float("nan")], [2.0, 3.0]], requires_grad=True)
    values = present_values(q, th.tensor([[True, False], [True, True]]))
    values.sum().backward()
    assert values.tolist() == [[1.0, 0.0], [2.0, 3.0]]
    assert q.grad is not None and q.grad.tolist() == [[1.0, 0.0], [1.0, 1.0]]


def test_mixers_by_name() -> None:
    assert isinstance(make_mixer("vdn", 2, 0), VDNMixer)
    mixer = make_mixer("qmix", 2, 3, 8, 1)
    assert isinstance(mixer, QMixer) and mixer.embed_dim == 8 and len(mixer.hyper_w1) == 1
    with pytest.raises(ValueError, match=r"mixer 'qplex' is unknown\. Known: vdn, qmix"):
        make_mixer("qplex", 2, 3)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"mixing_embed_dim": 0}, "mixing_embed_dim must be an integer of at least 1, got 0"),
        ({"state_size": 0}, "state_size must be an integer of at least 1, got 0"),
        ({"hypernet_embed": 2.5}, r"hypernet_embed must be an integer of at least 1, got 2\.5"),
        ({"hypernet_layers": 3}, "hypernet_layers must be 1 or 2, got 3"),
    ],
)
def test_impossible_sizes_are_rejected(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        QMixer(**{"n_agents": 2, "state_size": 3, **kwargs})
