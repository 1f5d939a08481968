"""Parameters and Adam moments of several policies in one tensor, copied from the policies and back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch as th

from sb3_matrl.stacked.perceptrons import Perceptron, describe_perceptron, layers_of


@dataclass(frozen=True)
class Layer:
    """
    Place of one layer in a row of the stack: first the weights, then the biases.

    :param start: position of the first weight
    :param inputs: number of inputs
    :param outputs: number of outputs
    :param last: whether this is the layer of the outputs, whose weights are (outputs, inputs), others' (inputs, outputs)
    """

    start: int
    inputs: int
    outputs: int
    last: bool

    @property
    def bias(self) -> int:
        """Position of the first bias."""
        return self.start + self.inputs * self.outputs

    @property
    def end(self) -> int:
        """Position after the last bias."""
        return self.bias + self.outputs

    def weights(self, rows: th.Tensor) -> th.Tensor:
        """
        View of the weights.

        :param rows: (n_rows, row size)
        :return: (n_rows, inputs, outputs), or (n_rows, outputs, inputs) of the last layer
        """
        shape = (self.outputs, self.inputs) if self.last else (self.inputs, self.outputs)
        return th.unflatten(rows[:, self.start : self.bias], 1, shape)

    def biases(self, rows: th.Tensor) -> th.Tensor:
        """:return: view (n_rows, 1, outputs) of the rows (n_rows, row size)"""
        return rows[:, None, self.bias : self.end]


class Stack:
    """
    Layout of the networks of n policies: two rows per policy, the actor's and the critic's.

    Networks that are smaller than the stack fill it up with zeros: more inputs, wider layers and more outputs. Their
    gradients are zero, because no input and no loss reaches them, so that they stay zero.

    :param policies: SB3 policies with as many layers and the same activation
    """

    def __init__(self, policies: Sequence[Any]) -> None:
        self.policies = list(policies)
        self.shapes: list[Perceptron] = [describe_perceptron(policy) for policy in policies]
        first = self.shapes[0]
        self.activation, self.slope, self.discrete, self.dtype = first.activation, first.slope, first.discrete, first.dtype
        self.n_inputs = max(shape.inputs for shape in self.shapes)
        self.n_outputs = max(sum(shape.outputs) for shape in self.shapes)
        hidden = [max(widths) for widths in zip(*(shape.hidden for shape in self.shapes), strict=True)]
        self.layers: list[Layer] = []
        sizes = [self.n_inputs, *hidden, self.n_outputs]
        start = 0
        for k, (inputs, outputs) in enumerate(pairwise(sizes)):
            self.layers.append(Layer(start, inputs, outputs, last=k == len(hidden)))
            start = self.layers[-1].end
        self.log_std = slice(start, start if self.discrete else start + self.n_outputs)
        self.row_size = self.log_std.stop

    @property
    def device(self) -> th.device:
        """Device of the policies."""
        device: th.device = self.policies[0].action_net.weight.device
        return device

    def zeros(self) -> th.Tensor:
        """:return: an empty stack (2 n, row size)"""
        return th.zeros(2 * len(self.policies), self.row_size, dtype=self.dtype, device=self.device)

    def parameters(self) -> th.Tensor:
        """:return: the policies' parameters, (2 n, row size)"""
        rows = self.zeros()
        with th.no_grad():
            for i in range(len(self.policies)):
                for parameter, place in self._places(rows, i):
                    place.copy_(parameter)
        return rows

    def write_parameters(self, rows: th.Tensor) -> None:
        """
        Copy parameters into the policies.

        :param rows: (2 n, row size)
        """
        with th.no_grad():
            for i in range(len(self.policies)):
                for parameter, place in self._places(rows, i):
                    parameter.copy_(place)

    def moments(self, optimizers: Sequence[th.optim.Optimizer]) -> tuple[th.Tensor, th.Tensor, list[float]]:
        """
        State of the policies' Adam optimisers.

        :param optimizers: optimiser of each policy, over all its parameters
        :return: first and second moments (2 n, row size), and each policy's number of steps
        """
        first, second, steps = self.zeros(), self.zeros(), []
        for i, optimizer in enumerate(optimizers):
            state = optimizer.state.get(self.policies[i].action_net.weight)
            steps.append(float(state["step"]) if state else 0.0)
            if not state:
                continue
            for name, rows in (("exp_avg", first), ("exp_avg_sq", second)):
                for parameter, place in self._places(rows, i):
                    place.copy_(optimizer.state[parameter][name])
        return first, second, steps

    def write_moments(
        self, optimizers: Sequence[th.optim.Optimizer], first: th.Tensor, second: th.Tensor, steps: Sequence[float]
    ) -> None:
        """
        Copy moments into the policies' optimisers; an optimiser that has taken no step stays empty.

        :param optimizers: optimiser of each policy
        :param first: first moments (2 n, row size)
        :param second: second moments (2 n, row size)
        :param steps: number of steps of each policy's optimiser
        """
        for i, optimizer in enumerate(optimizers):
            if not steps[i]:
                continue
            for parameter in self.policies[i].parameters():
                state = optimizer.state[parameter]
                if not state:
                    state["step"] = th.tensor(0.0, dtype=th.float32)
                    state["exp_avg"], state["exp_avg_sq"] = th.zeros_like(parameter), th.zeros_like(parameter)
                state["step"].fill_(steps[i])
            for name, rows in (("exp_avg", first), ("exp_avg_sq", second)):
                for parameter, place in self._places(rows, i):
                    optimizer.state[parameter][name].copy_(place)

    def _places(self, rows: th.Tensor, i: int) -> Iterator[tuple[Any, th.Tensor]]:
        """Parameters of policy ``i``, and views of their places in the stack with the parameters' shapes."""
        policy, discrete = self.policies[i], self.discrete
        for row, linears in zip((rows[2 * i], rows[2 * i + 1]), layers_of(policy), strict=True):
            for layer, linear in zip(self.layers, linears, strict=True):
                weights = layer.weights(row[None])[0]
                weights = weights if layer.last else weights.T
                yield linear.weight, weights[: linear.out_features, : linear.in_features]
                yield linear.bias, row[layer.bias : layer.bias + linear.out_features]
        if not discrete:
            yield policy.log_std, rows[2 * i, self.log_std][: len(policy.log_std)]
