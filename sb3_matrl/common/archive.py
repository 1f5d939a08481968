"""
The file format: a zip of JSON documents and weights-only tensors, written atomically, read without pickle.

``manifest.json`` names the format, its version, the libraries that wrote it and the SHA-256 of every other member.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import stable_baselines3
import torch as th

FORMAT = "sb3-matrl"
FORMAT_VERSION = 1
_MANIFEST = "manifest.json"


def write_archive(path: Path, documents: Mapping[str, Any], tensors: Mapping[str, Any]) -> None:
    """
    Write an archive under a temporary name in the same folder, flush it to disk, and rename it.

    An existing file is replaced whole or, on any error (a full disk, say), left as it was.

    :param path: of the archive
    :param documents: name -> JSON-serialisable value, stored as ``<name>.json``
    :param tensors: name -> state dict (nested dicts and lists of tensors and numbers), stored as ``<name>.pt``
    """
    members = {f"{name}.json": json.dumps(value, indent=1, allow_nan=False).encode() for name, value in documents.items()}
    members |= {f"{name}.pt": _tensor_bytes(value) for name, value in tensors.items()}
    manifest = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "versions": {
            "python": platform.python_version(),
            "torch": th.__version__,
            "stable_baselines3": stable_baselines3.__version__,
            "numpy": np.__version__,
        },
        "sha256": {name: hashlib.sha256(data).hexdigest() for name, data in members.items()},
    }
    members = {_MANIFEST: json.dumps(manifest, indent=1).encode(), **members}
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def read_archive(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """
    Read what :func:`write_archive` wrote, checking format, version and hashes.

    :param path: of the archive
    :return: documents and tensors (on the CPU), by name
    :raises FileNotFoundError: if there is no such file
    :raises ValueError: if it is no archive of ours, is damaged, or is of a newer format
    """
    if not path.is_file():
        raise FileNotFoundError(f"no saved model at {path}")
    try:
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
    except Exception as error:  # a damaged file has many ways to fail: BadZipFile, zlib.error, EOFError, ...
        raise ValueError(f"{path} is not a saved model, or it is damaged: {error}") from error
    _check_manifest(path, members)
    try:
        documents = {name[:-5]: json.loads(data) for name, data in members.items() if name.endswith(".json")}
        tensors = {name[:-3]: _tensors_from_bytes(data) for name, data in members.items() if name.endswith(".pt")}
    except Exception as error:
        raise ValueError(f"{path} has a member that cannot be read safely: {error}") from error
    return documents, tensors


def _check_manifest(path: Path, members: Mapping[str, bytes]) -> None:
    if _MANIFEST not in members:
        kind = "a Stable-Baselines3 file: load it with the class that saved it" if "data" in members else "unknown"
        raise ValueError(f"{path} is not a model saved by sb3_matrl (no {_MANIFEST}); it is {kind}")
    try:
        manifest = json.loads(members[_MANIFEST])
        name, version, hashes = manifest["format"], int(manifest["format_version"]), dict(manifest["sha256"])
    except (ValueError, KeyError, TypeError, ArithmeticError, RecursionError) as error:
        raise ValueError(f"{path}: {_MANIFEST} is damaged: {error!r}") from error
    if name != FORMAT:
        raise ValueError(f"{path} has format {name!r}, expected {FORMAT!r}")
    if version > FORMAT_VERSION:
        raise ValueError(
            f"{path} has format version {version}, newer than the {FORMAT_VERSION} that this sb3_matrl reads: update sb3_matrl"
        )
    if set(hashes) != set(members) - {_MANIFEST}:
        raise ValueError(f"{path} is damaged: its members are not those that {_MANIFEST} lists")
    for member, digest in hashes.items():
        if hashlib.sha256(members[member]).hexdigest() != digest:
            raise ValueError(f"{path} is damaged: the hash of {member} is wrong")


def _tensor_bytes(value: Any) -> bytes:
    buffer = io.BytesIO()
    th.save(value, buffer)
    return buffer.getvalue()


def _tensors_from_bytes(data: bytes) -> Any:
    return th.load(io.BytesIO(data), map_location="cpu", weights_only=True)


class atomic_file:
    """
    Context manager: a binary file that takes the place of ``path`` only when everything was written.

    Errors of the disk name ``path``.

    :param path: of the finished file
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> io.BufferedRandom:
        handle, name = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.", suffix=".tmp")
        self._temporary = Path(name)
        self._file = os.fdopen(handle, "w+b")
        return self._file

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: Any) -> None:
        if isinstance(error, OSError):
            error.filename = error.filename or str(self.path)
        try:
            self._finish(kind)
        except OSError as failure:
            failure.filename = failure.filename or str(self.path)
            raise

    def _finish(self, kind: type[BaseException] | None) -> None:
        try:
            if kind is None:
                self._file.flush()
                os.fsync(self._file.fileno())
                self._file.close()
                # mkstemp makes files private; give the permissions that open() would have given.
                umask = os.umask(0)
                os.umask(umask)
                self._temporary.chmod(0o666 & ~umask)
                self._temporary.replace(self.path)
        finally:
            try:
                self._file.close()  # writes what is buffered, which fails on a full disk
            finally:
                self._temporary.unlink(missing_ok=True)
