"""Forward and backward passes of stacked networks."""

from __future__ import annotations

from collections.abc import Sequence

import torch as th

from sb3_matrl.stacked.storage import Layer, Stack

# From this many rows on, one matrix product per network is faster than one batched product (measured on CPUs).
LOOP_ROWS = 512


class Passes:
    """
    Passes through the networks of a :class:`~sb3_matrl.stacked.storage.Stack`.

    :param stack: layout of the networks
    """

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        aten = th.ops.aten
        self._slope = stack.slope
        self._backward_of = {
            "tanh": aten.tanh_backward,
            "relu": lambda grad, result: aten.threshold_backward(grad, result, 0),
            "leaky_relu": lambda grad, result: aten.leaky_relu_backward(grad, result, self._slope, True),
        }[stack.activation]

    def forward(self, rows: th.Tensor, inputs: th.Tensor, layers: Sequence[Layer] | None = None) -> list[th.Tensor]:
        """
        Outputs of every layer.

        :param rows: parameters of N networks, (N, row size)
        :param inputs: (N, B, n_inputs)
        :param layers: layers of the networks; those of the stack by default
        :return: inputs of every layer, and the networks' outputs (N, B, n_outputs)
        """
        layers = self.stack.layers if layers is None else layers
        values = [inputs]
        for layer in layers[:-1]:
            values.append(self._activate(_affine(values[-1], layer.weights(rows), layer.biases(rows))))
        values.append(_affine(values[-1], layers[-1].weights(rows), layers[-1].biases(rows)))
        return values

    def _activate(self, values: th.Tensor) -> th.Tensor:
        if self.stack.activation == "tanh":
            return values.tanh_()
        if self.stack.activation == "relu":
            return values.relu_()
        return th.nn.functional.leaky_relu_(values, self._slope)

    def backward(self, rows: th.Tensor, values: list[th.Tensor], grad: th.Tensor, out: th.Tensor) -> None:
        """
        Gradients of all weights and biases.

        :param rows: parameters (N, row size)
        :param values: return value of :meth:`forward`
        :param grad: gradient of the loss with respect to the outputs, (N, B, n_outputs)
        :param out: gradients (N, row size), which are overwritten; places of the deviations are left as they are
        """
        for k in reversed(range(len(self.stack.layers))):
            layer = self.stack.layers[k]
            _product(values[k].transpose(1, 2), grad, layer.weights(out))
            th.sum(grad, dim=1, out=layer.biases(out).squeeze(1))
            if k > 0:
                through = _times_transposed(grad, layer.weights(rows))
                grad = self._backward_of(through, values[k])


def _affine(values: th.Tensor, weights: th.Tensor, biases: th.Tensor) -> th.Tensor:
    if values.shape[1] < LOOP_ROWS:
        return th.baddbmm(biases, values, weights)
    out = values.new_empty(*values.shape[:2], weights.shape[2])
    for i in range(len(values)):
        th.addmm(biases[i], values[i], weights[i], out=out[i])
    return out


def _times_transposed(grad: th.Tensor, weights: th.Tensor) -> th.Tensor:
    if grad.shape[1] < LOOP_ROWS:
        return th.bmm(grad, weights.transpose(1, 2))
    out = grad.new_empty(*grad.shape[:2], weights.shape[1])
    for i in range(len(grad)):
        th.mm(grad[i], weights[i].T, out=out[i])
    return out


def _product(left: th.Tensor, right: th.Tensor, out: th.Tensor) -> None:
    if left.shape[2] < LOOP_ROWS:
        out.copy_(th.bmm(left, right))
        return
    for i in range(len(left)):
        th.mm(left[i], right[i], out=out[i])
