"""
Files of replay buffers: the safe archive, with the arrays in pieces, so that a large buffer needs little memory beside itself.

What a file says decides nothing about the memory that is taken: the arrays are those of a buffer that the model makes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces

from sb3_matrl.files.archive import read_documents, read_tensors, write_archive
from sb3_matrl.files.model_files import zip_path
from sb3_matrl.files.space_codec import space_to_json
from sb3_matrl.off_policy.replay import JointReplayBuffer
from sb3_matrl.vec_env.masks import options_of

# Bytes of a member of the archive; a row that is larger is a member by itself.
_PIECE_BYTES = 2**26
_DOCUMENT = "replay"


def save_replay(path: str | Path, buffer: JointReplayBuffer) -> None:
    """
    Write a replay buffer atomically.

    :param path: path of the file; ``.zip`` is added if it has no suffix
    :param buffer: buffer with its transitions
    """
    document = {
        **_description(buffer),
        "added": buffer.added,
        "masked": [agent for agent in buffer.agents if agent in buffer.moments.masks],
        "final_rows": len(buffer.final_places()),
    }
    arrays = buffer.stored_arrays()
    pieces = ((f"{_DOCUMENT}/{i}", piece) for i, piece in enumerate(_pieces(arrays)))
    write_archive(zip_path(path), {_DOCUMENT: document}, pieces)


def _description(buffer: JointReplayBuffer) -> dict[str, Any]:
    """What a file and a model must agree upon."""
    return {
        "buffer_size": buffer.buffer_size,
        "n_envs": buffer.n_envs,
        "agents": buffer.agents,
        "observation_spaces": [space_to_json(space) for space in buffer.observation_spaces.values()],
        "action_spaces": [space_to_json(space) for space in buffer.action_spaces.values()],
        "state_size": buffer.state_size,
    }


def _pieces(arrays: list[np.ndarray]) -> Iterator[th.Tensor]:
    """Copies of parts of the arrays, none for empty arrays."""
    for array in arrays:
        for rows in _parts(array):
            yield th.from_numpy(np.array(array[rows]))


def _parts(array: np.ndarray) -> list[slice]:
    step = max(_PIECE_BYTES // max(array[:1].nbytes, 1), 1)
    return [slice(start, min(start + step, len(array))) for start in range(0, len(array), step)]


def load_replay(path: str | Path, make: Callable[[], JointReplayBuffer]) -> JointReplayBuffer:
    """
    Read a replay buffer; nothing in the file is executed.

    :param path: path of the file, with or without ``.zip``
    :param make: function that makes an empty buffer of the model
    :return: buffer with the transitions of the file
    :raises FileNotFoundError: if there is no such file
    :raises ValueError: if the file is no replay buffer, is damaged, or does not fit the model
    """
    path = zip_path(path)
    document = read_documents(path).get(_DOCUMENT)
    if not isinstance(document, dict):
        raise ValueError(f"{path} holds no replay buffer")
    buffer = make()
    _check_description(path, document, _description(buffer))
    try:
        _read_into(path, document, buffer)
    except (TypeError, KeyError) as error:
        raise ValueError(f"{path} is damaged: {error!r}") from error
    return buffer


def _check_description(path: Path, document: dict[str, Any], expected: dict[str, Any]) -> None:
    sizes = {"buffer_size": "rows per copy", "n_envs": "copies"}
    for name, own in expected.items():
        if document.get(name) == own:
            continue
        if name in sizes:
            raise ValueError(
                f"{path} is a replay buffer of {document.get(name)!r:.50} {sizes[name]}, the model's has {own}: pass "
                "buffer_size and n_envs to load()"
            )
        raise ValueError(
            f"{path} is the replay buffer of another environment or algorithm: its {name} differ from the model's"
        )


def _read_into(path: Path, document: dict[str, Any], buffer: JointReplayBuffer) -> None:
    added, masked, final_rows = document["added"], document["masked"], document["final_rows"]
    most = buffer.buffer_size * buffer.n_envs
    if type(added) is not int or not 0 <= added < 2**62 or type(final_rows) is not int or not 0 <= final_rows <= most:
        raise ValueError(f"{path} is damaged: it has {added!r:.50} steps and {final_rows!r:.50} final rows")
    if not isinstance(masked, list) or not set(masked) <= set(buffer.agents):
        raise ValueError(f"{path} is damaged: masks of {masked!r:.100}")
    arrays = buffer.prepare(added, {agent: int(options_of(buffer.action_spaces[agent]).sum()) for agent in masked}, final_rows)
    places = [(array, rows) for array in arrays for rows in _parts(array)]
    names = [f"{_DOCUMENT}/{i}" for i in range(len(places))]
    for (array, rows), name, piece in zip(places, names, read_tensors(path, names), strict=True):
        _check_piece(path, name, piece, array[rows])
        array[rows] = piece.numpy()
    try:
        check_values(buffer, final_rows)
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def _check_piece(path: Path, name: str, piece: Any, place: np.ndarray) -> None:
    if not isinstance(piece, th.Tensor) or piece.shape != place.shape or piece.numpy().dtype != place.dtype:
        raise ValueError(f"{path} is damaged: {name} should be an array {place.shape} of {place.dtype}")
    if piece.is_floating_point() and not bool(th.isfinite(piece).all()):
        raise ValueError(f"{path} is damaged: {name} has numbers that are NaN or infinite")


def check_values(buffer: JointReplayBuffer, final_rows: int) -> None:
    """
    Check the content of a buffer that came from a file.

    :param buffer: buffer
    :param final_rows: number of its final moments
    :raises ValueError: if an action is outside its space, a mask has no legal action, or final moments are used twice
    """
    for agent, actions in buffer.actions.items():
        space = buffer.action_spaces[agent]
        if isinstance(space, spaces.Discrete) and actions.size and int(actions.max()) >= space.n:
            raise ValueError(f"an action of {agent} is outside its space")
        if isinstance(space, spaces.Box) and actions.size and float(np.abs(actions).max()) > 1.0:
            raise ValueError(f"an action of {agent} is outside [-1, 1]")
    for agent, masks in buffer.moments.masks.items():
        if not masks.any(axis=-1).all():
            raise ValueError(f"a mask of {agent} leaves no legal action")
    places = buffer.final_places()
    if not np.array_equal(np.sort(places), np.arange(final_rows)):
        raise ValueError("the places of final moments are not those of its rows")
