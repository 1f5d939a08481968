"""Forward and backward passes of stacked networks, in parts of rows: on a CPU, parts that stay in a core's cache."""

from __future__ import annotations

from dataclasses import dataclass

import torch as th

from sb3_matrl.stacked.storage import Stack

# Rows of all networks that pass at once (measured on CPUs); a network gets at least _LEAST_ROWS and at most _MOST_ROWS.
_ROWS = 2048
_LEAST_ROWS, _MOST_ROWS = 64, 256
# On other devices large parts are the fastest, and only memory limits them.
_ROWS_ON_GPU = 131_072
# Numbers from which on the logistic function takes less than half the time of tanh on a CPU; equal up to rounding.
_MANY = 16_384


@dataclass(frozen=True)
class _Buffers:
    """
    Values and gradients of every hidden layer for one number of rows, (N, rows, width) each, reused by all passes.

    :param values: outputs of the hidden layers
    :param grads: gradients with respect to the layers' outputs
    """

    values: list[th.Tensor]
    grads: list[th.Tensor]


class Passes:
    """
    Passes through N networks with the layers of a :class:`~sb3_matrl.stacked.storage.Stack`.

    :param stack: layout of the networks
    :param parameters: parameters of the networks, (N, row size); read at every pass
    :param n_inputs: number of inputs that the networks use; all of the stack's if ``None``
    """

    def __init__(self, stack: Stack, parameters: th.Tensor, n_inputs: int | None = None) -> None:
        self.stack = stack
        self._hidden = stack.layers[:-1]
        self._weights = [layer.weights(parameters) for layer in stack.layers]
        if n_inputs is not None:
            first = self._weights[0]
            self._weights[0] = first[:, :n_inputs] if self._hidden else first[:, :, :n_inputs]
        self._biases = [layer.biases(parameters) for layer in stack.layers]
        self._n = len(parameters)
        self._like = parameters
        self._buffers: dict[int, _Buffers] = {}
        # Contiguous blocks, because batched products into parts of rows are slow.
        self._grads = [(th.zeros_like(w, memory_format=th.contiguous_format), b.new_zeros(b.shape)) for w, b in self._pairs()]

    def _pairs(self) -> list[tuple[th.Tensor, th.Tensor]]:
        return list(zip(self._weights, self._biases, strict=True))

    @property
    def chunk_rows(self) -> int:
        """Rows of a network that should pass at once."""
        if not self._like.is_cpu:
            return max(_ROWS_ON_GPU // self._n, _LEAST_ROWS)
        return min(max(_ROWS // self._n, _LEAST_ROWS), _MOST_ROWS)

    def _room(self, n_rows: int) -> _Buffers:
        if n_rows not in self._buffers:
            widths = [layer.outputs for layer in self._hidden]
            made = [[self._like.new_empty(self._n, n_rows, width) for width in widths] for _ in range(2)]
            self._buffers[n_rows] = _Buffers(*made)
        return self._buffers[n_rows]

    def forward(self, inputs: th.Tensor) -> th.Tensor:
        """
        Outputs of the networks; the values of the hidden layers are kept for :meth:`backward`.

        :param inputs: (N, B, n_inputs)
        :return: (N, n_outputs, B): thin products are several times faster this way round
        """
        values = inputs
        room = self._room(inputs.shape[1])
        for k, out in enumerate(room.values):
            th.baddbmm(self._biases[k], values, self._weights[k], out=out)
            values = self._activate(out)
        return th.baddbmm(self._biases[-1].transpose(1, 2), self._weights[-1], values.transpose(1, 2))

    def _activate(self, values: th.Tensor) -> th.Tensor:
        if self.stack.activation == "tanh":
            if values.is_cpu and values.numel() >= _MANY:
                return values.mul_(2).sigmoid_().mul_(2).sub_(1)
            return values.tanh_()
        if self.stack.activation == "relu":
            return values.relu_()
        return th.nn.functional.leaky_relu_(values, self.stack.slope)

    def start_gradients(self) -> None:
        """Set the gradients to zero."""
        for weights, biases in self._grads:
            weights.zero_()
            biases.zero_()

    def backward(self, inputs: th.Tensor, grad: th.Tensor) -> None:
        """
        Add the gradients of all weights and biases for the rows of the last :meth:`forward`.

        :param inputs: inputs of that pass
        :param grad: gradient of the loss with respect to the outputs, (N, n_outputs, B)
        """
        room = self._room(inputs.shape[1])
        values = [inputs, *room.values]
        weights, biases = self._grads[-1]
        th.baddbmm(weights, grad, values[-1], out=weights)
        biases += grad.sum(dim=2).unsqueeze(1)
        through = grad.transpose(1, 2)
        for k in reversed(range(len(self._hidden))):
            out = room.grads[k]
            after = self._weights[k + 1] if k + 1 == len(self._hidden) else self._weights[k + 1].transpose(1, 2)
            th.bmm(through, after, out=out)
            through = self._through_activation(out, values[k + 1])
            weights, biases = self._grads[k]
            th.baddbmm(weights, values[k].transpose(1, 2), through, out=weights)
            biases += through.sum(dim=1, keepdim=True)

    def _through_activation(self, grad: th.Tensor, result: th.Tensor) -> th.Tensor:
        aten = th.ops.aten
        if self.stack.activation == "tanh":
            aten.tanh_backward.grad_input(grad, result, grad_input=grad)
        elif self.stack.activation == "relu":
            aten.threshold_backward.grad_input(grad, result, 0, grad_input=grad)
        else:
            aten.leaky_relu_backward.grad_input(grad, result, self.stack.slope, True, grad_input=grad)
        return grad

    def read_gradients(self, out: th.Tensor) -> None:
        """
        Write the gradients into rows with the layout of the parameters.

        :param out: (N, row size); places of the deviations are left as they are
        """
        for layer, (weights, biases) in zip(self.stack.layers, self._grads, strict=True):
            layer.weights(out).copy_(weights)
            layer.biases(out).copy_(biases)
