"""Attribute and method access of SB3's VecEnvs, for PettingZoo envs and their wrappers."""

from __future__ import annotations

from typing import Any

from sb3_matrl.envs.layers import has_own, layers

_MISSING = object()


class EnvAccess:
    """Functions of an env that SB3's VecEnvs offer for each copy."""

    @staticmethod
    def get_attr(env: Any, name: str) -> Any:
        """Read an attribute of the outermost layer that has it."""
        for layer in layers(env):
            if (value := getattr(layer, name, _MISSING)) is not _MISSING:
                return value
        return getattr(env, name)  # raises

    @staticmethod
    def set_attr(env: Any, name: str, value: Any) -> None:
        """Set an attribute in the outermost layer that has it, otherwise in the innermost."""
        chain = list(layers(env))
        setattr(next((layer for layer in chain if has_own(layer, name)), chain[-1]), name, value)

    @staticmethod
    def env_method(env: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a method of the outermost layer that has it."""
        return EnvAccess.get_attr(env, name)(*args, **kwargs)

    @staticmethod
    def env_is_wrapped(env: Any, wrapper_class: type[Any]) -> bool:
        """Whether a layer is an instance of that class."""
        return any(isinstance(layer, wrapper_class) for layer in layers(env))
