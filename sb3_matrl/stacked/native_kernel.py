"""Gradient steps of learners in C++ (``kernel.cpp``), one learner after the other: the ``native`` backend."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Sequence
from ctypes import POINTER, Structure, byref, c_double, c_int64, c_void_p
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch as th

from sb3_matrl.stacked.lockstep import StepRecord, StepSettings, make_head
from sb3_matrl.stacked.minibatches import Epoch, StackedBatch
from sb3_matrl.stacked.storage import Stack, after_step, before_step

_ACTIVATIONS = ("tanh", "relu", "leaky_relu")  # in the order of kernel.cpp
_INFINITE = float("inf")
_n_threads: int | None = None


def set_kernel_threads(count: int | None) -> None:
    """
    Set the number of threads that update learners in parallel, in this process.

    The kernel's threads sleep when they have no work. PyTorch's own do not, and slow down a busy machine.

    :param count: number of threads; -1 for one per core, ``None`` for as many as PyTorch uses
    """
    global _n_threads
    _n_threads = _cores() if count == -1 else count


def kernel_threads() -> int:
    """:return: the number of threads that update learners in parallel"""
    return th.get_num_threads() if _n_threads is None else _n_threads


def _cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _fields(kind: Any, names: str) -> list[tuple[str, Any]]:
    return [(name, kind) for name in names.split()]


class _Layer(Structure):
    """``Layer`` of kernel.cpp."""

    _fields_ = _fields(c_int64, "inputs outputs weights biases stride")


class _Learner(Structure):
    """``Learner`` of kernel.cpp, which documents the fields."""

    _fields_ = (
        _fields(POINTER(_Layer), "actor critic")
        + _fields(c_int64, "n_layers n_parameters log_std n_choices")
        + [("choices", c_void_p), ("activation", c_int64), ("slope", c_double)]
        + _fields(c_void_p, "parameters first second")
        + [("steps", c_double)]
        + _fields(c_int64, "n_rows feature_stride state_stride action_stride mask_stride")
        + _fields(c_void_p, "features states actions old_log_prob old_values advantages returns weights masks")
        + [("n_minibatches", c_int64)]
        + _fields(c_void_p, "index starts counts")
        + _fields(
            c_double, "learning_rate beta1 beta2 eps clip_range clip_range_vf ent_coef vf_coef kl_coef max_grad_norm target_kl"
        )
        + [("normalize_advantage", c_int64), ("losses", c_void_p)]
        + _fields(c_int64, "evaluated stopped error")
    )


class _Call(Structure):
    """``Call`` of kernel.cpp."""

    _fields_ = [("learners", c_void_p), *_fields(c_int64, "n_learners n_threads"), *_fields(c_void_p, "sgemm set_threads")]


@dataclass(frozen=True)
class _Library:
    """
    Functions of the native backend.

    :param update: ``update`` of kernel.cpp
    :param sgemm: address of BLAS's matrix product
    :param set_threads: address of the function that sets the number of its threads; ``None`` if there is none
    """

    update: Callable[..., None]
    sgemm: int
    set_threads: int | None


@cache
def _library() -> _Library:
    """
    :raises OSError: if the compiled kernel or a matrix product is missing
    """
    spec = find_spec("sb3_matrl.stacked._kernel")
    if spec is None or spec.origin is None:
        raise OSError("it was not compiled: install a C++ compiler and run pip install --no-build-isolation -e . again")
    library = ctypes.CDLL(spec.origin)
    size = getattr(library, "sb3_matrl_learner_size", None)
    if size is None or size() != ctypes.sizeof(_Learner):
        raise OSError("it was compiled for another version: run pip install --no-build-isolation -e . again")
    library.sb3_matrl_update.argtypes, library.sb3_matrl_update.restype = [POINTER(_Call)], None
    return _Library(library.sb3_matrl_update, *_matrix_product())


def _matrix_product() -> tuple[int, int | None]:
    """Addresses of ``sgemm`` and of the function that sets its threads, from torch's library or else from SciPy's."""
    name = {"darwin": "libtorch_cpu.dylib", "win32": "torch_cpu.dll"}.get(sys.platform, "libtorch_cpu.so")
    try:
        library = ctypes.CDLL(str(Path(th.__file__).parent / "lib" / name))
        sgemm = ctypes.cast(library.sgemm_, c_void_p).value
    except (OSError, AttributeError):
        return _product_of_scipy(), None
    assert sgemm is not None
    setter = getattr(library, "MKL_Set_Num_Threads_Local", None)
    return sgemm, None if setter is None else ctypes.cast(setter, c_void_p).value


def _product_of_scipy() -> int:
    try:
        capsule = import_module("scipy.linalg.cython_blas").__pyx_capi__["sgemm"]
    except ImportError:
        raise OSError("torch's library exports no matrix product, and SciPy is not installed: pip install scipy") from None
    signature = _capsule_function("PyCapsule_GetName", ctypes.c_char_p, [ctypes.py_object])(capsule)
    if b"int *" not in signature or b"int64" in signature:
        raise OSError(f"the matrix product of SciPy takes other arguments: {signature.decode()}")
    address: int = _capsule_function("PyCapsule_GetPointer", c_void_p, [ctypes.py_object, ctypes.c_char_p])(capsule, signature)
    return address


def _capsule_function(name: str, result: Any, arguments: list[Any]) -> Any:
    return ctypes.PYFUNCTYPE(result, *arguments)((name, ctypes.pythonapi))


def native_obstacle() -> str | None:
    """
    Reason why the ``native`` backend is not available in this installation.

    :return: the reason, or ``None`` if it is available
    """
    try:
        _library()
    except OSError as error:
        return str(error)
    return None


def native_stack_obstacle(stack: Stack) -> str | None:
    """
    Reason why the ``native`` backend cannot update a stack.

    :param stack: layout of the networks
    :return: the reason, or ``None`` if it can
    """
    if stack.dtype != th.float32 or stack.device.type != "cpu":
        return f"its parameters are {stack.dtype} on {stack.device}, the native backend updates torch.float32 on the CPU"
    reason = native_obstacle()
    return None if reason is None else f"the native kernel is not available: {reason}"


class NativeKernel:
    """
    Gradient steps of all learners of a stack, as :class:`~sb3_matrl.stacked.lockstep.Lockstep` takes them.

    Learners are updated in parallel by as many threads as torch uses, or as :func:`set_kernel_threads` says. With the matrix
    product of torch's MKL, a learner's result depends neither on their number nor on the other learners.

    :param stack: layout of the networks, float32 on the CPU
    :raises ValueError: if the stack's type or device is another one, or if the kernel is not available
    """

    def __init__(self, stack: Stack) -> None:
        reason = native_stack_obstacle(stack)
        if reason is not None:
            raise ValueError(reason)
        self.stack = stack
        self.head = make_head(stack)
        # The parameters and moments of one policy without the padding that the others need.
        self._alone = [Stack([policy]) for policy in stack.policies]

    def update(
        self,
        optimizers: Sequence[th.optim.Optimizer],
        batch: StackedBatch,
        epochs: Sequence[Sequence[Epoch]],
        settings: Sequence[StepSettings],
    ) -> list[StepRecord]:
        """
        Take the steps of all epochs; the policies and their optimisers are changed in place, or none of them if it fails.
        Hooks that watch the optimisers' steps are called once, before the first and after the last step.

        :param optimizers: Adam optimiser of each policy
        :param batch: rollouts of the learners
        :param epochs: learner -> minibatches of each of its epochs
        :param settings: settings of each learner
        :raises ValueError: if a minibatch has rows that do not exist, or a row has an action that does not exist
        :raises MemoryError: if there is not enough memory
        """
        tasks = [
            _Task(alone, optimizer, batch, i, epochs[i], settings[i])
            for i, (alone, optimizer) in enumerate(zip(self._alone, optimizers, strict=True))
        ]
        before_step(optimizers)
        library = _library()
        learners = (_Learner * len(tasks))(*(task.learner for task in tasks))
        n_threads = min(kernel_threads(), len(tasks)) if library.set_threads else 1
        call = _Call(ctypes.addressof(learners), len(tasks), n_threads, library.sgemm, library.set_threads)
        library.update(byref(call))
        for i, learner in enumerate(learners):
            _check(learner.error, i)
        records = [task.finish(learner) for task, learner in zip(tasks, learners, strict=True)]
        after_step(optimizers)
        return records


def _check(error: int, i: int) -> None:
    if error == 1:
        raise MemoryError(f"not enough memory for the update of learner {i}")
    if error == 2:
        raise ValueError(f"the rollout of learner {i} has an action that does not exist, or that is not a number")


class _Task:
    """
    Steps of one learner: arrays that the kernel reads and writes.

    :param stack: layout of the learner's networks
    :param optimizer: its optimiser
    :param batch: rollouts of all learners
    :param i: index of the learner
    :param epochs: its minibatches
    :param settings: its settings
    """

    def __init__(
        self,
        stack: Stack,
        optimizer: th.optim.Optimizer,
        batch: StackedBatch,
        i: int,
        epochs: Sequence[Epoch],
        settings: StepSettings,
    ) -> None:
        self.stack, self.optimizer = stack, optimizer
        self.parameters = stack.parameters()
        self.first, self.second, (steps,) = stack.moments([optimizer])
        self.learner = _Learner(steps=steps)
        self._alive: list[Any] = []  # what the kernel's pointers point to
        self._describe_networks()
        self._describe_batch(batch, i)
        self._describe_minibatches(epochs, batch.features.shape[1])
        self._describe_settings(settings)

    def finish(self, learner: _Learner) -> StepRecord:
        """
        Write the results into the policy and its optimiser.

        :param learner: the structure that the kernel has changed
        :return: what happened
        """
        self.stack.write_parameters(self.parameters)
        self.stack.write_moments([self.optimizer], self.first, self.second, [learner.steps])
        losses, n = self.losses, learner.evaluated
        evaluated = np.flatnonzero(self.counts)[:n]
        objective, value_loss, entropy, clip_fraction, approx_kl = losses[:n].T.copy()
        return StepRecord(
            -objective, value_loss, entropy, clip_fraction, approx_kl, self.epochs[evaluated], bool(learner.stopped)
        )

    def _tensor(self, name: str, tensor: th.Tensor, dtype: th.dtype = th.float32) -> th.Tensor:
        tensor = tensor.to(dtype).contiguous()
        self._alive.append(tensor)
        setattr(self.learner, name, tensor.data_ptr())
        return tensor

    def _array(self, name: str, array: np.ndarray) -> np.ndarray:
        self._alive.append(array)
        setattr(self.learner, name, array.ctypes.data)
        return array

    def _describe_networks(self) -> None:
        learner, stack, (shape,) = self.learner, self.stack, self.stack.shapes
        actor, critic = [shape.inputs, *shape.actor, sum(shape.outputs)], [shape.critic_inputs, *shape.critic, 1]
        for row, (name, widths) in enumerate((("actor", actor), ("critic", critic))):
            start = row * stack.row_size
            layers = [
                _Layer(*sizes, start + layer.start, start + layer.bias, layer.inputs if layer.last else layer.outputs)
                for layer, *sizes in zip(stack.layers, widths, widths[1:], strict=False)
            ]
            array = (_Layer * len(layers))(*layers)
            self._alive.append(array)
            setattr(learner, name, array)
        learner.n_layers, learner.n_parameters = len(stack.layers), 2 * stack.row_size
        learner.log_std = stack.log_std.start
        learner.n_choices = len(shape.outputs) if shape.discrete else 0
        self._array("choices", np.array(shape.outputs, dtype=np.int64))
        learner.activation, learner.slope = _ACTIVATIONS.index(shape.activation), shape.slope
        for name in ("parameters", "first", "second"):
            self._tensor(name, getattr(self, name))

    def _describe_batch(self, batch: StackedBatch, i: int) -> None:
        learner = self.learner
        learner.n_rows = batch.features.shape[1]
        learner.feature_stride = self._tensor("features", batch.features[i]).shape[1]
        learner.action_stride = self._tensor("actions", batch.actions[i]).shape[1]
        for name, column in vars(batch.columns).items():
            self._tensor(name, column[i])
        if batch.states is not None:
            learner.state_stride = self._tensor("states", batch.states[i]).shape[1]
        if batch.masks is not None:
            learner.mask_stride = self._tensor("masks", batch.masks[i], th.bool).shape[1]

    def _describe_minibatches(self, epochs: Sequence[Epoch], n_rows: int) -> None:
        parts = [part for epoch in epochs for part in epoch]
        indices = [part for part in parts if not isinstance(part, slice)]
        index = self._array("index", np.concatenate([np.zeros(0, dtype=np.int64), *indices]).astype(np.int64))
        if len(index) and not 0 <= index.min() <= index.max() < n_rows:
            raise ValueError(f"a minibatch has rows {index.min()} to {index.max()}, the rollout has {n_rows}")
        self.counts = self._array(
            "counts", np.array([n_rows if isinstance(part, slice) else len(part) for part in parts], dtype=np.int64)
        )
        given = np.array([not isinstance(part, slice) for part in parts], dtype=bool)
        ends = np.cumsum(self.counts * given)
        self._array("starts", np.where(given, ends - self.counts, -1))
        self.epochs = np.repeat(np.arange(len(epochs)), [len(epoch) for epoch in epochs])
        self.losses = self._array("losses", np.zeros((len(parts), 5)))
        self.learner.n_minibatches = len(parts)

    def _describe_settings(self, settings: StepSettings) -> None:
        learner = self.learner
        for name in ("learning_rate", "eps", "clip_range", "ent_coef", "vf_coef", "kl_coef", "max_grad_norm"):
            setattr(learner, name, getattr(settings, name))
        learner.beta1, learner.beta2 = settings.betas
        learner.clip_range_vf = _INFINITE if settings.clip_range_vf is None else settings.clip_range_vf
        learner.target_kl = _INFINITE if settings.target_kl is None else settings.target_kl
        learner.normalize_advantage = settings.normalize_advantage
