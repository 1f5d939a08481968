"""Records of experiments: JSON files with the machine, the versions and the command."""

from __future__ import annotations

import json
import math
import os
import platform
import shlex
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch as th

from sb3_matrl.utils.atomic_file import atomic_file

PACKAGES = ("sb3-matrl", "torch", "stable-baselines3", "sb3-contrib", "gymnasium", "pettingzoo", "SuperSuit", "numpy", "cma")


def machine() -> dict[str, Any]:
    """
    Hardware, versions, threads and command of this process.

    :return: values in JSON types; ``cuda`` is the name of the first CUDA device, packages that are not installed are left out
    """
    return {
        "system": platform.platform(),
        "processor": _processor(),
        "cpu_count": os.cpu_count(),
        "cuda": th.cuda.get_device_name() if th.cuda.is_available() else None,
        "python": platform.python_version(),
        "versions": _versions(),
        "threads": th.get_num_threads(),
        "command": shlex.join(["python", *sys.orig_argv[1:]]),
    }


def _processor() -> str:
    """Name of the processor, which Python does not know on Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(iter(names), platform.processor() or platform.machine())


def _versions() -> dict[str, str]:
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """
    Write a record as JSON, atomically, with :func:`machine` as its first entry.

    :param path: path of the file, whose folder is created if needed
    :param record: keys and values in JSON's or NumPy's types
    :raises OSError: if the file cannot be written
    """
    write_json(path, {"machine": machine(), **record})


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """
    Write standard JSON, atomically: NumPy's types become JSON's, NaN and infinite numbers become ``null``.

    :param path: path of the file, whose folder is created if needed
    :param content: keys and values in JSON's or NumPy's types
    :raises OSError: if the file cannot be written
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_plain(content), indent=1, allow_nan=False)
    with atomic_file(path) as file:
        file.write(text.encode() + b"\n")


def _plain(value: Any) -> Any:
    """``value`` in JSON's types."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (np.ndarray, np.generic)):
        return _plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value
