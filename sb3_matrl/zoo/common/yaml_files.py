"""YAML files, and ``key:value`` words of the command line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from sb3_matrl.utils.atomic_file import atomic_file


class _StrictLoader(yaml.SafeLoader):
    """
    Safe loader that rejects duplicate keys, of which PyYAML silently keeps the last one.

    It reads ``1e-3``, which is text in YAML 1.1, as a number, and ``None``, as Python and W&B write it, as null.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} is given twice", key.start_mark)
            if key.tag != "tag:yaml.org,2002:merge":
                seen.add(key.value)
        return super().construct_mapping(node, deep)


_EXPONENT = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$")
_StrictLoader.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+.0123456789"))
_StrictLoader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile("None$"), ["N"])


def read_yaml(path: Path) -> dict[str, Any]:
    """
    Read a file that holds one mapping.

    :param path: path of the file
    :raises FileNotFoundError: if there is no such file
    :raises ValueError: if it is not valid YAML or holds something else
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)  # a SafeLoader
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a mapping, not {type(content).__name__}")
    return content


def write_yaml(path: Path, content: Mapping[str, Any]) -> None:
    """Write a mapping atomically, keys in their order."""
    text = yaml.safe_dump(dict(content), sort_keys=False, default_flow_style=None, width=120)
    with atomic_file(path) as file:
        file.write(text.encode())


def parse_pairs(pairs: Iterable[str], flag: str) -> dict[str, Any]:
    """
    Read ``key:value`` words, and words that are whole mappings; values are YAML scalars or flow collections.

    :param pairs: e.g. ``["learning_rate:0.01", "policy_kwargs.net_arch:[64, 64]", "{gamma: 0.9, target_kl: None}"]``
    :param flag: flag of the words, for errors
    :return: key -> value
    :raises ValueError: on a word without a colon, a value that is not YAML, or a key given twice with different values
    """
    parsed: dict[str, Any] = {}
    for pair in pairs:
        for key, value in _read_pair(pair, flag).items():
            if key in parsed and parsed[key] != value:
                raise ValueError(f"{flag}: {key} is given twice, as {parsed[key]!r} and {value!r}: leave one of them out")
            parsed[key] = value
    for key in parsed:
        whole = next((other for other in parsed if key.startswith(f"{other}.")), None)
        if whole is not None:
            raise ValueError(f"{flag}: {whole} and {key} are given, which contradict each other: leave one of them out")
    return parsed


def _read_pair(pair: str, flag: str) -> dict[str, Any]:
    if pair.startswith("{"):
        mapping = _parse_value(pair, f"{flag}:")
        if isinstance(mapping, dict) and all(isinstance(key, str) for key in mapping):
            return mapping
        raise ValueError(f"{flag}: expected key:value or {{key: value}}, got {pair!r}")
    key, colon, text = pair.partition(":")
    if not colon or not key:
        raise ValueError(f"{flag}: expected key:value, got {pair!r}")
    return {key: _parse_value(text, f"{flag}: the value of {key}")}


def _parse_value(text: str, where: str) -> Any:
    try:
        return yaml.load(text, Loader=_StrictLoader)  # a SafeLoader
    except (yaml.YAMLError, ValueError):  # the latter for impossible dates
        raise ValueError(f"{where} is not valid YAML: {text!r}") from None
