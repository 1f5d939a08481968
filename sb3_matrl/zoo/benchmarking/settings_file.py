"""Settings files: named settings of a benchmark, or a whole benchmark with a key for each flag."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import yaml

from sb3_matrl.utils.suggest import unknown

# Keys of flags that take several values.
LISTS = ("algos", "envs", "seed_list", "tasks", "methods")
# Keys whose values are mappings, and the flags of their entries.
_NAMED = {"settings": "--setting", "env_kwargs": "--env-kwargs", "bounds": "--bounds"}


def flag_words(content: Mapping[str, Any], flags: Iterable[str]) -> list[str]:
    """
    The flags that stand for a settings file.

    A file of settings maps names to hyper-parameters. A file of a whole benchmark has the names of flags as keys, with
    underscores, and its settings below ``settings``.

    :param content: content of the file
    :param flags: all flags of the command line, with their dashes
    :return: words for the parser
    :raises ValueError: if a key is no flag, or its value has the wrong type
    """
    keys = {flag[2:].replace("-", "_") for flag in flags if flag.startswith("--")} - {"help", "setting", "trust"}
    if not keys & content.keys():
        return _entries("settings", content)
    return [word for key, value in content.items() for word in _words(str(key), value, keys)]


def _words(key: str, value: Any, keys: Collection[str]) -> list[str]:
    if key not in keys:
        raise ValueError(unknown("key", key, sorted(keys)))
    flag = f"--{key.replace('_', '-')}"
    if key in _NAMED:
        return _entries(key, value)
    if key == "hyperparams":
        return [flag, *pairs(_mapping(key, value))] if value else []
    if isinstance(value, bool):
        return [flag] if value else []
    if isinstance(value, list):
        if key not in LISTS:
            advice = "; seed_list takes several" if key == "seeds" else ""
            raise ValueError(f"{key}: expected one value, got {value!r}{advice}")
        return [flag, *map(str, value)]
    return [] if value is None else [f"{flag}={value}"]


def _entries(key: str, value: Any) -> list[str]:
    named = _mapping(key, value)
    return (
        [_NAMED[key], *(flow({name: one}).removeprefix("{").removesuffix("}") for name, one in named.items())] if named else []
    )


def _mapping(key: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{key}: expected a mapping, got {value!r}")
    return value


def pairs(values: Mapping[str, Any]) -> list[str]:
    """
    ``key:value`` words as the command lines read them.

    :param values: key -> value in YAML's types
    """
    return [f"{key}:{flow(value)}" for key, value in values.items()]


def flow(value: Any) -> str:
    """
    YAML on one line.

    :param value: value in YAML's types
    """
    # PyYAML ends plain scalars with a line of three dots.
    return yaml.safe_dump(value, default_flow_style=True, width=math.inf, sort_keys=False).strip().removesuffix("\n...")
