"""
File format: a zip of JSON documents and weights-only tensors, written atomically and read without pickle.

``manifest.json`` holds the format, its version, the versions of the libraries and the SHA-256 of every other member. The
hashes detect damage. As a protection against malicious files, nothing is executed, and memory and time are bounded by the
size of the file.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import PurePosixPath
from typing import Any

import torch as th

from sb3_matrl.files.places import Place, check_exists, name_of, reading, size_of, writing

FORMAT = "sb3-matrl"
# 2: learners that agents share, frozen agents, normalisers, recurrent states. 3: the algorithm's class, several generators.
# Older files are read, too.
FORMAT_VERSION = 3
# Libraries whose versions are stored in the manifest.
_LIBRARIES = ("torch", "stable-baselines3", "sb3-contrib", "gymnasium", "pettingzoo", "numpy")
_MANIFEST = "manifest.json"
# Limit on the nesting of lists and dicts; files written by sb3_matrl have about a dozen levels.
MAX_DEPTH = 100
# Limit on the bytes of a member's tensors, in bytes of the member: SB3's policies name shared layers up to three times.
_TENSOR_BYTES = 8


def write_archive(place: Place, documents: Mapping[str, Any], tensors: Mapping[str, Any] | Iterable[tuple[str, Any]]) -> None:
    """
    Write an archive under a temporary name in the same folder, flush it to disk, and rename it; or write to an open file.

    After an error (a full disk, for example) an existing file is left unchanged, one that is open has part of the archive.
    The members are encoded one after the other.

    :param place: path of the archive, or open binary file
    :param documents: name -> JSON-serialisable value, stored as ``<name>.json``
    :param tensors: name -> state dict (nested dicts and lists of tensors and numbers), stored as ``<name>.pt``; or pairs of
        both, which may be made one by one
    """
    pairs = tensors.items() if isinstance(tensors, Mapping) else tensors
    hashes: dict[str, str] = {}
    with writing(place) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, value in documents.items():
            data = json.dumps(value, indent=1, allow_nan=False).encode()
            _write_member(archive, f"{name}.json", data, hashes)
        for name, value in pairs:
            _write_member(archive, f"{name}.pt", _tensor_bytes(value), hashes)
        manifest = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "versions": {"python": platform.python_version(), **{name: metadata.version(name) for name in _LIBRARIES}},
            "sha256": hashes,
        }
        archive.writestr(_MANIFEST, json.dumps(manifest, indent=1).encode())
        # First in the directory, as in files of earlier versions.
        archive.filelist.insert(0, archive.filelist.pop())


def _write_member(archive: zipfile.ZipFile, name: str, data: bytes, hashes: dict[str, str]) -> None:
    """Write a member and add its hash."""
    hashes[name] = hashlib.sha256(data).hexdigest()
    archive.writestr(name, data)


def read_archive(place: Place) -> tuple[dict[str, Any], dict[str, Any]]:
    """
    Read an archive, and check its format, version and hashes.

    :param place: path of the archive, or open binary file
    :return: documents and tensors (on the CPU), by name
    :raises FileNotFoundError: if the file does not exist
    :raises ValueError: if the file is no archive of sb3_matrl, is damaged, has a newer format, or has content that
        :func:`write_archive` never writes
    """
    check_exists(place, "saved model")
    path = name_of(place)
    try:
        with reading(place) as file, zipfile.ZipFile(file) as archive:
            _check_kind(path, archive.namelist())
            members = _read_members(archive, size_of(place))
    except _ForeignFile as error:
        raise ValueError(str(error)) from None
    except Exception as error:  # damaged files cause many errors: BadZipFile, EOFError, struct.error, ...
        raise ValueError(f"{path} is not a saved model, or it is damaged: {error}") from error
    _check_manifest(path, members)
    documents, tensors = {}, {}
    for name, data in members.items():
        try:
            if name.endswith(".json"):
                documents[name[:-5]] = _document_from_bytes(data)
            elif name.endswith(".pt"):
                tensors[name[:-3]] = _tensors_from_bytes(data)
            else:
                raise ValueError("it is neither .json nor .pt")
        except Exception as error:
            raise ValueError(f"{path} has a member that cannot be read safely: {name}: {error}") from error
    return documents, tensors


def check_archive(place: Place) -> None:
    """
    Check an archive's format, version and hashes without loading its content into memory.

    :param place: path of the archive, or open binary file
    :raises FileNotFoundError: if the file does not exist
    :raises ValueError: if the file is no archive of sb3_matrl, is damaged, or has a newer format
    """
    check_exists(place, "saved file")
    path = name_of(place)
    try:
        with reading(place) as file, zipfile.ZipFile(file) as archive:
            _check_kind(path, archive.namelist())
            _check_members(archive, size_of(place))
            manifest = archive.read(_MANIFEST)
            hashes = {name: _hash_of(archive, name) for name in archive.namelist() if name != _MANIFEST}
    except _ForeignFile as error:
        raise ValueError(str(error)) from None
    except Exception as error:  # damaged files cause many errors
        raise ValueError(f"{path} is not a file of sb3_matrl, or it is damaged: {error}") from error
    _check_hashes(path, manifest, hashes)


def read_documents(place: Place) -> dict[str, Any]:
    """
    Check an archive as :func:`check_archive`, and read its documents alone.

    :param place: path of the archive, or open binary file
    :return: documents by name
    :raises FileNotFoundError: if the file does not exist
    :raises ValueError: if the file is no archive of sb3_matrl, is damaged, or has a newer format
    """
    check_archive(place)
    with reading(place) as file, zipfile.ZipFile(file) as archive:
        names = [name for name in archive.namelist() if name.endswith(".json") and name != _MANIFEST]
        return {name[:-5]: _read_member(name_of(place), archive, name, _document_from_bytes) for name in names}


def read_tensors(place: Place, names: Iterable[str]) -> Iterator[Any]:
    """
    Read tensors of a checked archive, one member after the other.

    :param place: path of the archive, or open binary file
    :param names: names of the members, without ``.pt``
    :raises ValueError: if a member is missing, or has content that :func:`write_archive` never writes
    """
    with reading(place) as file, zipfile.ZipFile(file) as archive:
        known = set(archive.namelist())
        for name in names:
            if f"{name}.pt" not in known:
                raise ValueError(f"{name_of(place)} is damaged: it has no {name}.pt")
            yield _read_member(name_of(place), archive, f"{name}.pt", _tensors_from_bytes)


def _read_member(path: str, archive: zipfile.ZipFile, name: str, convert: Callable[[bytes], Any]) -> Any:
    try:
        return convert(archive.read(name))
    except Exception as error:
        raise ValueError(f"{path} has a member that cannot be read safely: {name}: {error}") from error


def _hash_of(archive: zipfile.ZipFile, name: str) -> str:
    with archive.open(name) as member:
        return hashlib.file_digest(member, "sha256").hexdigest()  # type: ignore[arg-type]  # reads and nothing else


class _ForeignFile(Exception):
    """The zip was not written by sb3_matrl; the message says by what."""


def _check_kind(path: str, names: list[str]) -> None:
    if _MANIFEST not in names:
        kind = "a Stable-Baselines3 file: load it with the class that saved it" if "data" in names else "unknown"
        raise _ForeignFile(f"{path} is not a model saved by sb3_matrl (no {_MANIFEST}); it is {kind}")


def _read_members(archive: zipfile.ZipFile, size: int) -> dict[str, bytes]:
    """
    Read all members of a zip without compression, so that no member can be larger than the file.

    :param archive: open zip
    :param size: size of the file in bytes
    :raises ValueError: as :func:`_check_members`
    """
    _check_members(archive, size)
    return {info.filename: archive.read(info) for info in archive.infolist()}


def _check_members(archive: zipfile.ZipFile, size: int) -> None:
    """
    Check names, sizes and storage of the members of a zip.

    :param archive: open zip
    :param size: size of the file in bytes
    :raises ValueError: if members are compressed, encrypted, repeated or overlapping, as in a zip bomb
    """
    infos = archive.infolist()
    names = [info.filename for info in infos]
    if len(set(names)) < len(names):
        raise ValueError("it has two members of one name")
    for info in infos:
        _check_name(info.filename)
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size or info.flag_bits & 1:
            raise ValueError(f"its member {info.filename} is compressed or encrypted, which sb3_matrl never does")
    if sum(info.file_size for info in infos) > size:
        raise ValueError(f"its members are larger together than the whole file ({size:,} bytes)")


def _check_name(name: str) -> None:
    """Reject names that would be unzipped outside the target folder."""
    path = PurePosixPath(name)
    if str(path) != name or path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name or not name.isprintable():
        raise ValueError(f"its member {name!r} has a name that sb3_matrl never writes")


def _check_manifest(path: str, members: Mapping[str, bytes]) -> None:
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in members.items() if name != _MANIFEST}
    _check_hashes(path, members[_MANIFEST], hashes)


def _check_hashes(path: str, manifest_bytes: bytes, found: Mapping[str, str]) -> None:
    """Check the manifest, and the hashes of all other members against those in it."""
    try:
        manifest = _document_from_bytes(manifest_bytes)
        name, version, hashes = manifest["format"], int(manifest["format_version"]), dict(manifest["sha256"])
        dict(manifest.get("versions", {}))
    except Exception as error:  # damaged JSON causes many errors
        raise ValueError(f"{path}: {_MANIFEST} is damaged: {error!r}") from error
    if name != FORMAT:
        raise ValueError(f"{path} has format {name!r}, expected {FORMAT!r}")
    if version > FORMAT_VERSION:
        raise ValueError(
            f"{path} has format version {version}, newer than the {FORMAT_VERSION} that this sb3_matrl reads: update sb3_matrl"
        )
    if set(hashes) != set(found):
        raise ValueError(f"{path} is damaged: its members are not those that {_MANIFEST} lists")
    for member, digest in hashes.items():
        if found[member] != digest:
            raise ValueError(f"{path} is damaged: the hash of {member} is wrong")


def _document_from_bytes(data: bytes) -> Any:
    document = json.loads(data, parse_constant=_reject_constant)
    _check_tree(document, len(data), _JSON_TYPES)
    return document


def _reject_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _tensor_bytes(value: Any) -> bytes:
    buffer = io.BytesIO()
    th.save(value, buffer)
    data = buffer.getvalue()
    _check_tree(value, len(data), _TENSOR_TYPES)  # reject now what could not be loaded
    return data


def _tensors_from_bytes(data: bytes) -> Any:
    """Load tensors; PyTorch's files are zips too and are checked in the same way."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        _read_members(archive, len(data))
    value = th.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    _check_tree(value, len(data), _TENSOR_TYPES)
    return value


_JSON_TYPES: frozenset[type] = frozenset({dict, list, str, int, float, bool, type(None)})
_TENSOR_TYPES: frozenset[type] = _JSON_TYPES | {tuple, OrderedDict, th.Tensor}


def _check_tree(value: Any, size: int, types: frozenset[type]) -> None:
    """
    Check the types, the depth and the number of values in nested containers.

    Containers that contain themselves, or one another many times, have more values than bytes.

    :param value: value to check
    :param size: number of bytes that it was read from, at least one per value
    :param types: allowed types
    :raises ValueError: if a check fails
    """
    left, tensor_bytes = size, _TENSOR_BYTES * size
    open_values = [(value, 0)]
    while open_values:
        value, depth = open_values.pop()
        left -= 1
        if left < 0:
            raise ValueError("it has more values than bytes")
        if depth > MAX_DEPTH:
            raise ValueError(f"its lists and dicts are nested deeper than {MAX_DEPTH} levels")
        _check_value(value, size, types)
        tensor_bytes -= value.numel() * value.element_size() if isinstance(value, th.Tensor) else 0
        if tensor_bytes < 0:
            raise ValueError("its tensors are larger together than its data: one is stored under many names")
        items = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
        open_values.extend((item, depth + 1) for item in items)


def _check_value(value: Any, size: int, types: frozenset[type]) -> None:
    if type(value) not in types:
        raise ValueError(f"it has a value of type {type(value).__name__}")
    if isinstance(value, dict) and any(type(key) not in (str, int) for key in value):
        raise ValueError("it has a key that is neither a string nor an integer")
    if isinstance(value, th.Tensor):
        if value.layout != th.strided or value.is_meta:
            raise ValueError("it has a tensor without data")
        if value.is_quantized:
            raise ValueError("it has a tensor of quantised numbers")
        if max(value.numel() * value.element_size(), value.untyped_storage().nbytes()) > size:
            raise ValueError(f"it has a tensor of shape {tuple(value.shape)}, larger than its data")
