"""Model files with changed content and right hashes, so that readers meet the content itself."""

from __future__ import annotations

import hashlib
import io
import json
import random
import zipfile
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch as th


class Members(dict[str, bytes]):
    """Name -> content; printed by its size only, because hypothesis prints arguments."""

    def __repr__(self) -> str:
        return f"<{len(self)} members>"


# Values that replace others: wrong types, numbers that overflow, structures.
WRONG: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 7, 2**31, 2**63, 10**30, -(10**30), 0.5, -0.0, 1e308, 1e-300),
    *("", "x", "agent_0", "torch.nn", "\0", "é" * 40, [], {}, [[]], [1, 2], [None], ["x", 1], {"x": 1}, {"0": []}),
    *({"__kind__": "dict", "items": []}, {"__kind__": "tuple", "items": [1]}, {"__kind__": "float", "value": "nan"}),
    *({"__kind__": "class", "module": "torch.nn", "name": "Linear"}, {"__kind__": "unsaved", "text": "<lambda>"}),
    *(
        {"__kind__": "array", "items": [1, 2], "dtype": "float32", "shape": [2]},
        {"__kind__": "linear", "arguments": [1, 0, 1]},
        {"__kind__": "normal_noise", "arguments": [0.0, 0.1], "dtype": "float32"},
    ),
    *({"type": "Discrete", "n": 0, "start": 0}, {"type": "Box", "low": 1, "high": 0, "shape": [2], "dtype": "float32"}),
)
WRONG_TENSORS: tuple[Any, ...] = (
    *(th.zeros(0), th.zeros(()), th.zeros(3, 5), th.full((2,), th.nan), th.zeros(2, dtype=th.complex64), th.zeros(4).bool()),
    *(th.zeros(5056, dtype=th.uint8), th.zeros(2, dtype=th.bfloat16), th.arange(3)),
)


def read_members(path: Path) -> Members:
    """Content of the members, ``manifest.json`` first."""
    with zipfile.ZipFile(path) as archive:
        return Members({name: archive.read(name) for name in archive.namelist()})


def write_members(path: Path, members: Members) -> None:
    """Write an archive with the right hashes, without the checks of ``write_archive``."""
    manifest = json.loads(members["manifest.json"])
    if isinstance(manifest, dict):
        manifest["sha256"] = {
            name: hashlib.sha256(data).hexdigest() for name, data in members.items() if name != "manifest.json"
        }
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("manifest.json", json.dumps(manifest))
        for name, data in members.items():
            if name != "manifest.json":
                archive.writestr(name, data)


def changed_document(members: Members, change: Callable[[Any], Any], name: str = "model.json") -> Members:
    """The members with another JSON document: what ``change`` returns, or the document that it changed in place."""
    document = json.loads(members[name])
    document = document if (changed := change(document)) is None else changed
    return Members({**members, name: json.dumps(document).encode()})


def changed_tensors(members: Members, change: Callable[[Any], Any], name: str = "agents/0.pt") -> Members:
    """The members with other tensors: what ``change`` returns, or the tree that it changed in place."""
    tree = th.load(io.BytesIO(members[name]), weights_only=True)
    tree = tree if (changed := change(tree)) is None else changed
    buffer = io.BytesIO()
    th.save(tree, buffer)
    return Members({**members, name: buffer.getvalue()})


def mutate(tree: Any, rng: random.Random, values: tuple[Any, ...]) -> Any:
    """A copy of nested dicts and lists in which one to three places are replaced, removed, repeated or exchanged."""
    holder = [deepcopy(tree)]
    for _ in range(rng.randint(1, 3)):
        place, key = rng.choice(_places(holder))
        action = rng.choice(("replace", "replace", "remove", "rename", "exchange"))
        if action == "replace" or place is holder:
            place[key] = deepcopy(rng.choice(values))
        elif action == "remove":
            del place[key]
        elif action == "rename" and isinstance(place, dict):
            place[rng.choice(("x", "0", f"{key}x"))] = place.pop(key)
        else:
            other, other_key = rng.choice(_places(holder)[1:] or [(place, key)])
            place[key], other[other_key] = deepcopy(other[other_key]), deepcopy(place[key])
    return holder[0]


def _places(holder: Any) -> list[tuple[Any, Any]]:
    """All containers with their keys or indices, the outermost first."""
    found, open_values = [], [holder]
    while open_values:
        value = open_values.pop()
        keys = list(value) if isinstance(value, dict) else range(len(value))
        found += [(value, key) for key in keys]
        open_values += [value[key] for key in keys if isinstance(value[key], (dict, list))]
    return found
