"""An environment and the environments that it wraps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pettingzoo.utils.conversions import aec_to_parallel_wrapper, parallel_to_aec_wrapper
from supersuit.generic_wrappers.utils.shared_wrapper_util import shared_wrapper_aec

_CONVERSIONS = (aec_to_parallel_wrapper, parallel_to_aec_wrapper)


def layers(env: Any) -> Iterator[Any]:
    """
    List an environment and all that it wraps, the outermost first, also through PettingZoo's conversions.

    :param env: environment or wrapper
    """
    while env is not None:
        yield env
        own = getattr(env, "__dict__", {})
        env = own.get("env", own.get("aec_env"))


def has_own(layer: Any, name: str) -> bool:
    """Whether an object has an attribute itself or by its class, not from what it wraps; the attribute is not read."""
    return name in getattr(layer, "__dict__", {}) or hasattr(type(layer), name)


def conversion_that_hides(env: Any, name: str) -> Any:
    """
    Find a conversion of PettingZoo that hides an attribute of what it wraps. Some wrappers of SuperSuit convert twice.

    :param env: environment or wrapper
    :param name: name of the attribute
    :return: the outermost conversion, if the attribute is below it and all above it forward attributes; otherwise ``None``
    """
    conversion = None
    for layer in layers(env):
        if has_own(layer, name):
            return conversion
        if isinstance(layer, _CONVERSIONS):
            conversion = conversion or layer
        elif not hasattr(type(layer), "__getattr__"):
            return None  # an environment of its own
    return None


def require_current_observations(env: Any) -> None:
    """
    Check that no wrapper of SuperSuit with a memory, such as ``frame_stack_v1``, is around an AECEnv that takes all actions
    at once: it reads an agent's observation when its turn begins, so that all agents but the first would see older ones.

    :param env: a ParallelEnv
    :raises ValueError: if there is one; the message says what to do
    """
    converted = False
    for layer in layers(env):
        if converted and isinstance(layer, shared_wrapper_aec):
            modifier = layer.modifier_class.__name__
            raise ValueError(
                f"SuperSuit's {modifier} is around an AECEnv whose agents act at the same time, where all but the first would "
                "see old observations: put the wrapper around the ParallelEnv, which parallel_env() makes instead of env()"
            )
        converted = converted or isinstance(layer, aec_to_parallel_wrapper)
