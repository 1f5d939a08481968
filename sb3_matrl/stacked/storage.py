"""Parameters and Adam moments of several policies in one tensor, copied from the policies and back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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


@dataclass(frozen=True)
class _Slot:
    """
    Place of one parameter in the stack.

    :param policy: index of its policy
    :param parameter: the parameter
    :param offset: position of its first number in the flattened rows
    :param strides: distances between its numbers, per dimension
    """

    policy: int
    parameter: th.Tensor
    offset: int
    strides: tuple[int, ...]


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
        #: Largest numbers of inputs of the actors, of the critics, and of both.
        self.actor_inputs = max(shape.inputs for shape in self.shapes)
        self.critic_inputs = max(shape.critic_inputs for shape in self.shapes)
        self.n_inputs = max(self.actor_inputs, self.critic_inputs)
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
        self._slots = self._find_slots()

    @property
    def device(self) -> th.device:
        """Device of the policies."""
        device: th.device = self.policies[0].action_net.weight.device
        return device

    def is_intact(self, index: int, policy: Any) -> bool:
        """
        Whether a policy still has the parameters that the stack knows, in its dtype, and its optimiser has no others.

        :param index: index of the policy
        :param policy: the learner's policy at present
        """
        known = {id(slot.parameter) for slot in self._slots if slot.policy == index}
        own = list(policy.parameters())
        (group, *_) = policy.optimizer.param_groups
        return {id(one) for one in own} == known == {id(one) for one in group["params"]} and all(
            one.dtype == self.dtype for one in own
        )

    def zeros(self) -> th.Tensor:
        """:return: an empty stack (2 n, row size)"""
        return th.zeros(2 * len(self.policies), self.row_size, dtype=self.dtype, device=self.device)

    def parameters(self) -> th.Tensor:
        """:return: the policies' parameters, (2 n, row size)"""
        rows = self.zeros()
        with th.no_grad():
            th._foreach_copy_(self._places(rows), [slot.parameter for slot in self._slots])
        return rows

    def write_parameters(self, rows: th.Tensor) -> None:
        """
        Copy parameters into the policies.

        :param rows: (2 n, row size), contiguous
        """
        with th.no_grad():
            th._foreach_copy_([slot.parameter for slot in self._slots], self._places(rows))

    def moments(self, optimizers: Sequence[th.optim.Optimizer]) -> tuple[th.Tensor, th.Tensor, list[float]]:
        """
        State of the policies' Adam optimisers.

        :param optimizers: optimiser of each policy, over all its parameters
        :return: first and second moments (2 n, row size), and each policy's number of steps
        """
        first, second = self.zeros(), self.zeros()
        places = zip(self._slots, self._places(first), self._places(second), strict=True)
        steps = [0.0] * len(self.policies)
        copied: list[tuple[th.Tensor, th.Tensor]] = []
        for slot, of_first, of_second in places:
            state = optimizers[slot.policy].state.get(slot.parameter)
            if state:
                steps[slot.policy] = float(state["step"])
                copied += [(of_first, state["exp_avg"]), (of_second, state["exp_avg_sq"])]
        if copied:
            th._foreach_copy_([place for place, _ in copied], [value for _, value in copied])
        return first, second, steps

    def write_moments(
        self, optimizers: Sequence[th.optim.Optimizer], first: th.Tensor, second: th.Tensor, steps: Sequence[float]
    ) -> None:
        """
        Copy moments into the policies' optimisers; an optimiser that has taken no step stays empty.

        :param optimizers: optimiser of each policy
        :param first: first moments (2 n, row size), contiguous
        :param second: second moments (2 n, row size), contiguous
        :param steps: number of steps of each policy's optimiser
        """
        copied: list[tuple[th.Tensor, th.Tensor]] = []
        for slot, of_first, of_second in zip(self._slots, self._places(first), self._places(second), strict=True):
            if not steps[slot.policy]:
                continue
            state = optimizers[slot.policy].state[slot.parameter]
            if not state:
                state["step"] = th.tensor(0.0, dtype=th.float32)
                state["exp_avg"], state["exp_avg_sq"] = th.zeros_like(slot.parameter), th.zeros_like(slot.parameter)
            state["step"].fill_(steps[slot.policy])
            copied += [(state["exp_avg"], of_first), (state["exp_avg_sq"], of_second)]
        if copied:
            th._foreach_copy_([value for value, _ in copied], [place for _, place in copied])

    def _places(self, rows: th.Tensor) -> list[th.Tensor]:
        """Views of contiguous rows (2 n, row size) with the shapes of the policies' parameters."""
        return [rows.as_strided(slot.parameter.shape, slot.strides, slot.offset) for slot in self._slots]

    def _find_slots(self) -> list[_Slot]:
        slots = []
        for i, policy in enumerate(self.policies):
            for row, linears in enumerate(layers_of(policy), start=2 * i):
                for layer, linear in zip(self.layers, linears, strict=True):
                    start = row * self.row_size + layer.start
                    strides = (layer.inputs, 1) if layer.last else (1, layer.outputs)
                    slots.append(_Slot(i, linear.weight, start, strides))
                    slots.append(_Slot(i, linear.bias, row * self.row_size + layer.bias, (1,)))
            if not self.discrete:
                slots.append(_Slot(i, policy.log_std, 2 * i * self.row_size + self.log_std.start, (1,)))
        return slots


def before_step(optimizers: Iterable[th.optim.Optimizer]) -> None:
    """
    Call the hooks that optimisers call before a step; a hook may raise to end the update.

    :param optimizers: optimisers for which a step is about to be taken
    """
    for optimizer in optimizers:
        for hook in list(optimizer._optimizer_step_pre_hooks.values()):
            hook(optimizer, (), {})


def after_step(optimizers: Iterable[th.optim.Optimizer]) -> None:
    """
    Call the hooks that optimisers call after a step.

    :param optimizers: optimisers for which a step was taken
    """
    for optimizer in optimizers:
        for hook in list(optimizer._optimizer_step_post_hooks.values()):
            hook(optimizer, (), {})
