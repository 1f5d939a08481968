"""Text forms of rl-baselines3-zoo, such as ``"dict(net_arch=[64, 64])"``, read without evaluating them."""

from __future__ import annotations

import ast
from typing import Any

# Longer texts do not occur in hyper-parameter files; Python's parser is not made for hostile ones.
MAX_LENGTH = 2000
# Keys whose values are classes, which are looked up in fixed tables by their names.
_CLASS_KEYS = ("activation_fn", "optimizer_class", "features_extractor_class")


def read_python_text(text: str) -> Any:
    """
    Read a Python literal; ``dict(key=value)`` is a mapping, and class names are kept as text.

    :param text: e.g. ``"dict(ortho_init=False, activation_fn=nn.ReLU, net_arch=dict(pi=[64], vf=[64]))"``
    :return: the value in YAML's types
    :raises ValueError: if the text holds anything else
    """
    if len(text) > MAX_LENGTH:
        raise ValueError(f"a text of {len(text):,} characters is too long: write YAML")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        return _value(tree, "")
    except (SyntaxError, MemoryError, RecursionError) as error:
        raise ValueError(f"{text!r} cannot be read as a Python literal ({error}): write YAML") from None
    except _UnreadableError as error:
        raise ValueError(f"{text!r} is read without evaluating it, so {error} is not possible: write YAML") from None


class _UnreadableError(Exception):
    """Part of a text that is no literal."""


def _value(node: ast.expr, key: str) -> Any:
    """:param key: key of the mapping whose value the node is; ``""`` outside of mappings"""
    if isinstance(node, ast.Constant) and isinstance(node.value, (str, int, float, type(None))):
        return node.value
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_value(item, "") for item in node.elts]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        return _signed(node)
    if isinstance(node, ast.Dict):
        return _mapping(node, [None if name is None else _value(name, "") for name in node.keys], node.values)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict" and not node.args:
        return _mapping(node, [keyword.arg for keyword in node.keywords], [keyword.value for keyword in node.keywords])
    if isinstance(node, (ast.Name, ast.Attribute)) and key in _CLASS_KEYS:
        return _dotted(node)
    raise _UnreadableError(ast.unparse(node))


def _signed(node: ast.UnaryOp) -> float:
    number = _value(node.operand, "")
    if type(number) not in (int, float):
        raise _UnreadableError(ast.unparse(node))
    return -number if isinstance(node.op, ast.USub) else +number  # type: ignore[no-any-return]


def _mapping(node: ast.expr, names: list[Any], values: list[ast.expr]) -> dict[str, Any]:
    if not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise _UnreadableError(ast.unparse(node))
    return {name: _value(value, name) for name, value in zip(names, values, strict=True)}


def _dotted(node: ast.expr) -> str:
    """Name of a class, with its modules."""
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    if isinstance(node, ast.Name):
        return node.id
    raise _UnreadableError(ast.unparse(node))
