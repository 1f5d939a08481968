"""Checks of optimiser states that came from a file; PyTorch accepts almost anything and fails in the next update."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Iterable
from typing import Any

import torch as th


def check_optimizers(optimizers: Iterable[th.optim.Optimizer]) -> None:
    """
    Check that optimisers can continue from their states.

    :param optimizers: optimisers whose states were loaded
    :raises ValueError: if an option or an entry of a state has another form than the optimiser itself gives it
    """
    for optimizer in optimizers:
        _check_optimizer(optimizer)


def _check_optimizer(optimizer: th.optim.Optimizer) -> None:
    for group in optimizer.param_groups:
        for name, default in optimizer.defaults.items():
            if name not in group or not _same_kind(default, group[name]):
                raise ValueError(
                    f"its optimiser has the option {name} = {group.get(name)!r:.100}, expected one like {default!r}"
                )
    expected = _first_state(optimizer)
    if optimizer.state:
        _check_state(optimizer, expected)
    if expected is not None:
        _check_step(optimizer)


def _first_state(optimizer: th.optim.Optimizer) -> dict[str, Any] | None:
    """State of such an optimiser for a parameter of shape (2, 3), after one step; ``None`` if it cannot make one by itself."""
    try:
        probe = _like(optimizer, [th.zeros(2, 3)])
        probe.step()
    except Exception:  # LBFGS, for example, needs a function
        return None
    return dict(probe.state[probe.param_groups[0]["params"][0]])


def _like(optimizer: th.optim.Optimizer, values: Iterable[th.Tensor]) -> th.optim.Optimizer:
    """An optimiser of the same class with its defaults, for copies of the values, with gradients of 0."""
    known = inspect.signature(type(optimizer)).parameters
    parameters = [th.nn.Parameter(value.detach().clone()) for value in values]
    for parameter in parameters:
        parameter.grad = th.zeros_like(parameter)
    return type(optimizer)(parameters, **{name: value for name, value in optimizer.defaults.items() if name in known})


def _check_step(optimizer: th.optim.Optimizer) -> None:
    """
    Take a step on copies of the parameters.

    :raises ValueError: if the optimiser fails
    """
    for group in optimizer.param_groups:
        probe = _like(optimizer, group["params"])
        probe.param_groups[0].update({name: value for name, value in group.items() if name != "params"})
        for parameter, original in zip(probe.param_groups[0]["params"], group["params"], strict=True):
            if original in optimizer.state:
                probe.state[parameter] = copy.deepcopy(optimizer.state[original])
        try:
            probe.step()
        except Exception as error:
            raise ValueError(f"its optimiser cannot take a step from its state: {error}") from error


def _check_state(optimizer: th.optim.Optimizer, expected: dict[str, Any] | None) -> None:
    known = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    for parameter, state in optimizer.state.items():
        if id(parameter) not in known:
            raise ValueError("its optimiser has a state for a parameter that does not exist")
        if expected is not None and (not isinstance(state, dict) or set(state) != set(expected)):
            raise ValueError(f"its optimiser has the entries {list(state)!r:.100}, expected {list(expected)}")
        for name, wanted in (expected or {}).items():
            if not _fits(state[name], wanted, parameter.shape):
                raise ValueError(f"its optimiser has {name} of another form than its parameter {tuple(parameter.shape)} needs")


def _fits(value: Any, wanted: Any, shape: th.Size) -> bool:
    """Whether an entry of a state has the form of ``wanted``, which belongs to a parameter of shape (2, 3)."""
    if isinstance(wanted, th.Tensor) and wanted.shape == (2, 3):
        return isinstance(value, th.Tensor) and value.shape == shape
    return _is_number(value) if _is_number(wanted) else type(value) is type(wanted)


def _same_kind(default: Any, value: Any) -> bool:
    """Whether an option is a switch, a number or several numbers, as its default is."""
    if default is None or isinstance(default, bool):
        return value is None or isinstance(value, bool)
    if isinstance(default, (tuple, list)):
        return isinstance(value, (tuple, list)) and len(value) == len(default) and all(map(_is_number, value))
    return _is_number(value) if _is_number(default) else isinstance(value, type(default))


def _is_number(value: Any) -> bool:
    if isinstance(value, th.Tensor):
        return value.numel() == 1 and not value.is_complex() and bool(th.isfinite(value))
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
