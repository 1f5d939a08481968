"""YAML files of users: strict, safe, and bounded in time and memory."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from sb3_matrl.zoo.common.yaml_files import MAX_BYTES, MAX_DEPTH, parse_pairs, parse_yaml, read_yaml

LAUGHS = "\n".join(["a0: &a0 [x, x]", *(f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 10)}]" for k in range(1, 30))])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LAUGHS, "its aliases repeat too many values"),
        ("{" + LAUGHS.replace("\n", ", ") + "}", "its aliases repeat too many values"),
        ("a: &a [*a]", "its aliases repeat too many values"),
        ("a: &a {b: *a}", "its aliases repeat too many values"),
        ("a: " + "[" * 100_000, "nested deeper than 100 levels"),
        ("a: " + "{b: " * 100_000, "nested deeper than 100 levels"),
        ("- " * 100_000, "nested deeper than 100 levels"),
        ("a: b\n" * 200_000, f"expected at most {MAX_BYTES:,}"),
        ("a: *b", "undefined alias"),
        ("a: 1\na: 2", "key 'a' is given twice"),
        ("{[1]: 2}", "a key is a list or a mapping"),
        ("{{a: 1}: 2}", "a key is a list or a mapping"),
        ("a: !!float x", "could not convert string to float"),
        ("a: !!int ''", "is not valid YAML"),
        ("a: !!timestamp x", "is not valid YAML"),
        ("a: !!binary é", "is not valid YAML"),
        ("a: 2020-13-45", "is not valid YAML"),
        (f"a: {'9' * 5000}", "is not valid YAML"),
        ("a: !!python/object/apply:os.system [ls]", "the Python object !!python/object/apply:os.system is not read"),
        ("a: !!python/name:os.system", "the Python object !!python/name:os.system is not read"),
        ("a: !env X", "could not determine a constructor"),
        ("[1, 2]", "must hold a mapping, not list"),
        ("", "is empty, expected a mapping"),
        ("\0", "is not valid YAML"),
    ],
)
def test_wrong_files_are_refused_at_once(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "args.yml"
    path.write_text(text, encoding="utf-8")
    start = time.process_time()
    with pytest.raises(ValueError) as error:
        read_yaml(path)
    assert str(error.value).startswith(f"{path} ") and message in str(error.value) and "\n" not in str(error.value)
    assert time.process_time() - start < 10  # a bomb would take hours


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "args.yml").write_bytes(b"a: \xff\xfe")
    with pytest.raises(ValueError, match=r"args\.yml is not valid YAML"):
        read_yaml(tmp_path / "args.yml")


@pytest.mark.parametrize("text", ["[" * 100_000, "{" + LAUGHS.replace("\n", ", ") + "}"])
def test_command_line_has_the_same_limits(text: str) -> None:
    with pytest.raises(ValueError, match="--hyperparams"):
        parse_pairs([f"a:{text}"], "--hyperparams")


def test_anchors_and_merges_of_hand_written_files_are_read() -> None:
    text = "base: &base {n_steps: 8, policy: MlpPolicy}\nswitch_v0: {<<: *base, n_steps: 16}\nsame: *base"
    base = {"n_steps": 8, "policy": "MlpPolicy"}
    assert parse_yaml(text) == {"base": base, "switch_v0": {**base, "n_steps": 16}, "same": base}


def test_depth_below_the_limit_is_read() -> None:
    value = parse_yaml("[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1))
    for _ in range(MAX_DEPTH - 2):
        (value,) = value
    assert value == []


def test_tuples_and_numbers_of_other_tools_are_read() -> None:
    assert parse_yaml("{a: !!python/tuple [0.9, 0.999], b: !!float 1e6, c: 1e-3, d: None}") == {
        "a": [0.9, 0.999],
        "b": 1e6,
        "c": 1e-3,
        "d": None,
    }
