"""Numbers of floating-point operations of an iteration."""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.floor import Gemm, Product, Products, Sizes, flops, forward_products, iteration_products, time_product


def counted_by_torch(sizes):
    """Operations of SB3's own networks, in the passes that an iteration needs."""
    box, action = spaces.Box(-1.0, 1.0, (sizes.inputs,), np.float32), spaces.Discrete(sizes.outputs)
    policy = ActorCriticPolicy(box, action, lambda _: 1e-3, net_arch=list(sizes.hidden))
    rows = sizes.n_envs * sizes.n_steps
    observations, actions = th.rand(rows, sizes.inputs), th.zeros(rows)
    with FlopCounterMode(display=False) as counter:
        with th.no_grad():
            for _ in range(sizes.n_steps):
                policy.get_distribution(th.rand(sizes.n_envs, sizes.inputs))
            policy.predict_values(th.rand(rows + sizes.n_envs, sizes.inputs))
            for _ in range(sizes.policy_passes):
                policy.get_distribution(observations)
        for _ in range(sizes.n_epochs):
            for part in th.arange(rows).split(sizes.batch_size):
                values, log_prob, _ = policy.evaluate_actions(observations[part], actions[part])
                (values.sum() + log_prob.sum()).backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("batch_size", [12, 5])
@pytest.mark.parametrize(("hidden", "policy_passes"), [((8, 6), 0), ((7,), 2), ((), 1), ((4, 5, 6), 0)])
def test_operations_are_those_of_sb3_networks(hidden, policy_passes, batch_size):
    sizes = Sizes(3, hidden, 4, n_envs=2, n_steps=6, batch_size=batch_size, n_epochs=3, policy_passes=policy_passes)
    assert flops(iteration_products(sizes)) == counted_by_torch(sizes)


def test_operations_of_an_epoch_of_checkers():
    sizes = {"inputs": 47, "hidden": (128, 128), "outputs": 5, "n_envs": 20, "n_steps": 100, "batch_size": 2000}
    one, two = (flops(iteration_products(Sizes(**sizes, n_epochs=n))) for n in (1, 2))
    policy, critic = 47 * 128 + 128 * 128 + 128 * 5, 47 * 128 + 128 * 128 + 128
    # Two operations per weight, in the pass and in two gradients, except that inputs of the first layer have no gradient.
    assert (two - one) / 2000 == 6 * (policy + critic) - 2 * 2 * 47 * 128 == 249_344


def test_forward_pass_multiplies_layer_by_layer():
    assert forward_products((3, 8, 2), 10) == Products({Product(10, 3, 8): 1, Product(10, 8, 2): 1})


@pytest.mark.parametrize("product", [Product(600, 3, 5), Product(4, 700, 6), Product(2, 3, 1)])
def test_ways_of_a_product_compute_it(product, monkeypatch):
    results = []

    def record(run):
        for out in outs:
            out.zero_()
        run()
        results.extend(out.clone() for out in outs if out.abs().sum() > 0)
        return 1.0

    outs, given = [], []
    empty, rand = th.empty, th.rand
    monkeypatch.setattr("benchmarks.floor._shortest", record)
    monkeypatch.setattr(th, "empty", lambda *shape: outs.append(empty(*shape)) or outs[-1])
    monkeypatch.setattr(th, "rand", lambda *shape: given.append(rand(*shape)) or given[-1])
    assert time_product(product) == 1.0
    expected = given[0] @ given[1]
    assert len(results) == 8
    for result in results:
        same_way_round = result if result.shape == expected.shape else result.T
        th.testing.assert_close(same_way_round, expected)


def test_each_shape_is_timed_once(monkeypatch):
    timed = []
    monkeypatch.setattr("benchmarks.floor.time_product", lambda product: timed.append(product) or 0.5e-9 * product.flops)
    gemm, product = Gemm(), Product(2, 3, 4)
    assert gemm.peak() == 0.0
    assert gemm.seconds(Products({product: 3})) == pytest.approx(3 * 24e-9)
    assert gemm.seconds(Products({product: 1, Product(1, 1, 1): 2})) == pytest.approx(26e-9)
    assert timed == [product, Product(1, 1, 1)]
    assert gemm.peak() == pytest.approx(2.0)
