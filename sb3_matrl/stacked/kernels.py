"""Choice of the code that takes the gradient steps of a stack of learners."""

from __future__ import annotations

from sb3_matrl.stacked.lockstep import Lockstep
from sb3_matrl.stacked.native_kernel import NativeKernel, native_stack_obstacle
from sb3_matrl.stacked.storage import Stack
from sb3_matrl.utils.suggest import unknown

Kernel = Lockstep | NativeKernel
KERNELS: dict[str, type[Lockstep] | type[NativeKernel]] = {"torch": Lockstep, "native": NativeKernel}


def make_kernel(stack: Stack, backend: str) -> Kernel:
    """
    Code that takes the gradient steps of a stack.

    :param stack: layout of the networks
    :param backend: ``"torch"``, or ``"native"`` for the compiled kernel (float32 on the CPU)
    :raises ValueError: if the backend is unknown, is not available, or cannot update the stack
    """
    if backend not in KERNELS:
        raise ValueError(unknown("backend", backend, KERNELS))
    return KERNELS[backend](stack)


def choose_kernel(stack: Stack) -> str:
    """
    The fastest available code for a stack.

    :param stack: layout of the networks
    :return: ``"native"`` if it is available and can update the stack, else ``"torch"``
    """
    return "torch" if native_stack_obstacle(stack) is not None else "native"
