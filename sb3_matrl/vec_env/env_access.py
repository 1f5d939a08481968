"""Attribute and method access of SB3's VecEnvs, for PettingZoo envs and their wrappers."""

from __future__ import annotations

from typing import Any


class EnvAccess:
    """Functions of an env that SB3's VecEnvs offer for each copy."""

    @staticmethod
    def get_attr(env: Any, name: str) -> Any:
        """Read an attribute."""
        return getattr(env, name)

    @staticmethod
    def set_attr(env: Any, name: str, value: Any) -> None:
        """Set an attribute in the outermost layer that has it, otherwise in the innermost."""
        layer = env
        while not (name in vars(layer) or hasattr(type(layer), name)) and "env" in vars(layer):
            layer = layer.env
        setattr(layer, name, value)

    @staticmethod
    def env_method(env: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a method."""
        return getattr(env, name)(*args, **kwargs)

    @staticmethod
    def env_is_wrapped(env: Any, wrapper_class: type[Any]) -> bool:
        """Whether a layer is an instance of that class."""
        layer = env
        while not isinstance(layer, wrapper_class):
            if "env" not in vars(layer):
                return False
            layer = layer.env
        return True
