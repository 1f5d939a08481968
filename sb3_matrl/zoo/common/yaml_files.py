"""YAML files, and ``key:value`` words of the command line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from sb3_matrl.utils.atomic_file import atomic_file
from sb3_matrl.utils.one_line import one_line

# Limits that no file of hyper-parameters, options or sweeps comes near.
MAX_BYTES = 2**19
MAX_DEPTH = 100
# Values that aliases may repeat, beside one per character of the text.
_REPEATED_VALUES = 10_000
_TAG = "tag:yaml.org,2002:"


class _StrictLoader(yaml.SafeLoader):
    """
    Safe loader that rejects a key given twice (YAML keeps the last one silently), and content that is nested too deeply.

    It reads ``1e-3`` as a number, which YAML 1.1 takes for text, and ``None``, as Python and W&B write it, as null. Aliases
    count as many values as they repeat, so that a small file cannot stand for a large one.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._left = len(text) + _REPEATED_VALUES
        self._sizes: dict[str, int] = {}  # anchor -> number of values

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        before = self._left
        if isinstance(event, yaml.AliasEvent) and event.anchor is not None:
            # An alias inside of its own anchor has no size yet.
            self._charge(self._sizes.get(event.anchor, self._left + 1 if event.anchor in self.anchors else 1), event)
            return super().compose_node(parent, index)
        self._charge(1, event)
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise yaml.composer.ComposerError(None, None, f"it is nested deeper than {MAX_DEPTH} levels", event.start_mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if event.anchor is not None:
            self._sizes[event.anchor] = before - self._left
        return node

    def _charge(self, values: int, event: Any) -> None:
        self._left -= values
        if self._left < 0:
            raise yaml.composer.ComposerError(None, None, "its aliases repeat too many values", event.start_mark)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key is a list or a mapping", key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} is given twice", key.start_mark)
            if key.tag != f"{_TAG}merge":
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _read_tuple(loader: yaml.SafeLoader, node: Any) -> list[Any]:
    return loader.construct_sequence(node, deep=True)


def _reject_python(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> Any:
    raise yaml.constructor.ConstructorError(
        None, None, f"the Python object !!python/{suffix} is not read: write plain lists and mappings", node.start_mark
    )


_EXPONENT = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$")
_StrictLoader.add_implicit_resolver(f"{_TAG}float", _EXPONENT, list("-+.0123456789"))
_StrictLoader.add_implicit_resolver(f"{_TAG}null", re.compile("None$"), ["N"])
_StrictLoader.add_constructor(f"{_TAG}python/tuple", _read_tuple)
_StrictLoader.add_multi_constructor(f"{_TAG}python/", _reject_python)


def parse_yaml(text: str) -> Any:
    """
    Read YAML; nothing in it is executed.

    :param text: YAML
    :raises ValueError: if it is not valid, or too large, too deep or too often repeated to be a file of settings
    """
    if len(text) > MAX_BYTES:
        raise ValueError(f"it has {len(text):,} characters, expected at most {MAX_BYTES:,}")
    try:
        return yaml.load(text, Loader=_StrictLoader)  # a SafeLoader
    except (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
        # PyYAML itself fails on values that do not fit their tags, such as !!timestamp x.
        raise ValueError(one_line(error) or type(error).__name__) from None


def read_yaml(path: Path) -> dict[str, Any]:
    """
    Read a file that holds one mapping.

    :param path: path of the file
    :raises FileNotFoundError: if there is no such file
    :raises ValueError: if it is not valid YAML or holds something else
    """
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    try:
        content = parse_yaml(data.decode("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from None
    if content is None:
        raise ValueError(f"{path} is empty, expected a mapping")
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
        return parse_yaml(text)
    except ValueError:
        raise ValueError(f"{where} is not valid YAML: {text!r}") from None
