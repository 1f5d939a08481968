"""
The floor of a learning iteration: the time of its matrix products alone, at the speed that the machine reaches for them.

The products of an iteration follow from the sizes of the networks and of the rollout (:func:`iteration_products`). Every
product is timed alone in several memory layouts, large ones in parts that stay in the cache; its time is the shortest one.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch as th

#: Rows of the parts of large products.
PART = 256
#: Shortest time over which a product is timed, in seconds, and the number of such measurements.
SPAN, REPEATS = 2e-3, 5


@dataclass(frozen=True)
class Product:
    """A matrix product (rows, inner) @ (inner, columns)."""

    rows: int
    inner: int
    columns: int

    @property
    def flops(self) -> int:
        """Floating-point operations, two per multiplication and addition."""
        return 2 * self.rows * self.inner * self.columns


#: Products and how often each is computed.
Products = Counter[Product]


@dataclass(frozen=True)
class Sizes:
    """
    Sizes of one agent's iteration.

    :param inputs: numbers of an observation
    :param hidden: units of the hidden layers, of policy and critic alike
    :param outputs: outputs of the policy
    :param n_envs: copies of the environment
    :param n_steps: steps of a rollout per copy
    :param batch_size: rows of a minibatch
    :param n_epochs: epochs over the rollout, those of the best response included
    :param policy_passes: passes of the whole rollout through the policy beside the epochs
    """

    inputs: int
    hidden: tuple[int, ...]
    outputs: int
    n_envs: int
    n_steps: int
    batch_size: int
    n_epochs: int
    policy_passes: int = 0

    @property
    def policy(self) -> tuple[int, ...]:
        """Widths of the policy, from the inputs to the outputs."""
        return (self.inputs, *self.hidden, self.outputs)

    @property
    def critic(self) -> tuple[int, ...]:
        """Widths of the critic, from the inputs to the value."""
        return (self.inputs, *self.hidden, 1)


def forward_products(widths: Sequence[int], rows: int) -> Products:
    """
    Products of a pass through a network.

    :param widths: units of the layers, inputs first
    :param rows: number of rows
    """
    return Counter(Product(rows, inner, columns) for inner, columns in pairwise(widths))


def backward_products(widths: Sequence[int], rows: int) -> Products:
    """
    Products of a gradient: of the weights of every layer, and of the inputs of every layer but the first.

    :param widths: units of the layers, inputs first
    :param rows: number of rows
    """
    products = Counter(Product(inner, rows, columns) for inner, columns in pairwise(widths))
    products.update(Product(rows, columns, inner) for inner, columns in list(pairwise(widths))[1:])
    return products


def iteration_products(sizes: Sizes) -> Products:
    """
    Products of one agent's iteration.

    The policy acts step by step; the values of the rollout and of its last observations are computed in one pass. Every
    minibatch is a pass through both networks and its gradient.

    :param sizes: sizes of the iteration
    """
    rows = sizes.n_envs * sizes.n_steps
    products: Products = Counter()
    _add(products, forward_products(sizes.policy, sizes.n_envs), sizes.n_steps)
    _add(products, forward_products(sizes.critic, rows + sizes.n_envs), 1)
    _add(products, forward_products(sizes.policy, rows), sizes.policy_passes)
    for size in _minibatches(rows, sizes.batch_size):
        for widths in (sizes.policy, sizes.critic):
            _add(products, forward_products(widths, size), sizes.n_epochs)
            _add(products, backward_products(widths, size), sizes.n_epochs)
    return products


def flops(products: Products) -> int:
    """Floating-point operations of all products."""
    return sum(product.flops * count for product, count in products.items())


def _minibatches(rows: int, batch_size: int) -> Iterator[int]:
    """Sizes of an epoch's minibatches."""
    for start in range(0, rows, batch_size):
        yield min(batch_size, rows - start)


def _add(products: Products, others: Products, times: int) -> None:
    for product, count in others.items():
        if times:
            products[product] += count * times


class Gemm:
    """The machine's speed of matrix products in float32, each shape timed once."""

    def __init__(self) -> None:
        self.seconds_of: dict[Product, float] = {}

    def seconds(self, products: Products) -> float:
        """
        Time of all products.

        :param products: products and how often each is computed
        """
        for product in products.keys() - self.seconds_of.keys():
            self.seconds_of[product] = time_product(product)
        return sum(self.seconds_of[product] * count for product, count in products.items())

    def peak(self) -> float:
        """Highest speed of any shape timed so far, in GFLOP/s."""
        return max((product.flops / seconds / 1e9 for product, seconds in self.seconds_of.items()), default=0.0)


def time_product(product: Product) -> float:
    """
    Shortest time of a product over memory layouts and parts, in seconds.

    :param product: shape of the product
    """
    left, right = th.rand(product.rows, product.inner), th.rand(product.inner, product.columns)
    lefts, rights = (left, left.T.contiguous().T), (right, right.T.contiguous().T)
    outs = (th.empty(product.rows, product.columns), th.empty(product.columns, product.rows).T)
    ways = [_way(product, a, b, out) for a in lefts for b in rights for out in outs]
    return min(_shortest(way) for way in ways)


def _way(product: Product, left: th.Tensor, right: th.Tensor, out: th.Tensor) -> Callable[[], Any]:
    """A function that computes a product, in parts if it is large."""
    if product.rows > PART:
        parts = [(left[part], out[part]) for part in _parts(product.rows)]
        return lambda: [th.mm(one, right, out=result) for one, result in parts]
    if product.inner > PART:
        pairs = [(left[:, part], right[part]) for part in _parts(product.inner)]
        return lambda: [out.addmm_(one, other) for one, other in pairs]
    return lambda: th.mm(left, right, out=out)


def _parts(size: int) -> list[slice]:
    return [slice(start, start + PART) for start in range(0, size, PART)]


def _shortest(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    count = max(1, int(SPAN / max(time.perf_counter() - start, 1e-7)))
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        for _ in range(count):
            run()
        times.append((time.perf_counter() - start) / count)
    return min(times)
