"""
Files of replay buffers: the safe archive, with the arrays in pieces, so that a large buffer needs little memory beside itself.
Images are stored as the buffer has them: each different plane once, and the numbers of the planes of every image.

What a file says decides nothing about the memory that is taken: the arrays are those of a buffer that the model makes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces

from sb3_matrl.files.archive import read_documents, read_tensors, write_archive
from sb3_matrl.files.places import Place, UserFile, name_of, place_of
from sb3_matrl.files.space_codec import space_to_json
from sb3_matrl.off_policy.replay import JointReplayBuffer
from sb3_matrl.utils.image_planes import ImageRows, PlaneStore
from sb3_matrl.vec_env.masks import options_of

# Bytes of a member of the archive; a row that is larger is a member by itself.
_PIECE_BYTES = 2**26
_DOCUMENT = "replay"


def save_replay(path: UserFile, buffer: JointReplayBuffer) -> None:
    """
    Write a replay buffer atomically.

    :param path: path of the file; ``.zip`` is added if it has no suffix; or open binary file
    :param buffer: buffer with its transitions
    """
    document = {
        **_description(buffer),
        "added": buffer.added,
        "masked": [agent for agent in buffer.agents if agent in buffer.moments.masks],
        "final_rows": len(buffer.final_places()),
    }
    arrays, planes = _with_planes_apart(buffer.stored_arrays(), list(buffer.planes.values()))
    document["planes"] = [len(one) for one in planes]
    pieces = ((f"{_DOCUMENT}/{i}", piece) for i, piece in enumerate(_pieces([*arrays, *planes])))
    write_archive(place_of(path), {_DOCUMENT: document}, pieces)


class _KeptPlanes:
    """
    Planes of a store, as an array (N, height, width) that is read in parts.

    :param store: the store
    :param places: int (N,), their places
    """

    def __init__(self, store: PlaneStore, places: np.ndarray) -> None:
        self.store, self.places = store, places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, rows: slice) -> np.ndarray:
        return self.store.read(self.places[rows])


class _NewPlanes:
    """
    Planes that are put into a store, as an array (N, height, width) that is written in parts.

    :param store: the store
    :param n_planes: number of planes
    """

    def __init__(self, store: PlaneStore, n_planes: int) -> None:
        self.store = store
        #: int32 (N,), places of the planes that were written
        self.places = np.full(n_planes, -1, np.int32)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, rows: slice) -> np.ndarray:
        return self.store.read(self.places[rows])

    def __setitem__(self, rows: slice, planes: np.ndarray) -> None:
        self.places[rows] = self.store.add(planes)


def _with_planes_apart(arrays: list[Any], stores: list[PlaneStore]) -> tuple[list[np.ndarray], list[_KeptPlanes]]:
    """Arrays with numbers of planes in place of images, and the planes of each store by number."""
    images = [array for array in arrays if isinstance(array, ImageRows)]
    kept = []
    for store in stores:
        places = [one.places.reshape(-1) for one in images if one.store is store]
        used = np.unique(np.concatenate(places))
        kept.append(_KeptPlanes(store, used[used >= 0]))
    numbers = [_numbers(array, kept) if isinstance(array, ImageRows) else array for array in arrays]
    return numbers, kept


def _numbers(images: ImageRows, kept: list[_KeptPlanes]) -> np.ndarray:
    """Numbers of an image's planes among those that a file holds, int32; -1 for planes of zeros that were never written."""
    (used,) = (one.places for one in kept if one.store is images.store)
    return np.where(images.places < 0, -1, np.searchsorted(used, images.places)).astype(np.int32)


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


def _pieces(arrays: list[Any]) -> Iterator[th.Tensor]:
    """Copies of parts of the arrays, none for empty arrays."""
    for array in arrays:
        for rows in _parts(array):
            yield th.from_numpy(np.array(array[rows]))


def _parts(array: Any) -> list[slice]:
    step = max(_PIECE_BYTES // max(array[:1].nbytes, 1), 1)
    return [slice(start, min(start + step, len(array))) for start in range(0, len(array), step)]


def load_replay(path: UserFile, make: Callable[[], JointReplayBuffer]) -> JointReplayBuffer:
    """
    Read a replay buffer; nothing in the file is executed.

    :param path: path of the file, with or without ``.zip``, or open binary file
    :param make: function that makes an empty buffer of the model
    :return: buffer with the transitions of the file
    :raises FileNotFoundError: if there is no such file
    :raises ValueError: if the file is no replay buffer, is damaged, or does not fit the model
    """
    place = place_of(path)
    document, name = read_documents(place).get(_DOCUMENT), name_of(place)
    if not isinstance(document, dict):
        raise ValueError(f"{name} holds no replay buffer")
    buffer = make()
    _check_description(name, document, _description(buffer))
    try:
        _read_into(place, document, buffer)
    except (TypeError, KeyError) as error:
        raise ValueError(f"{name} is damaged: {error!r}") from error
    return buffer


def _check_description(path: str, document: dict[str, Any], expected: dict[str, Any]) -> None:
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


def _read_into(place: Place, document: dict[str, Any], buffer: JointReplayBuffer) -> None:
    path = name_of(place)
    added, masked, final_rows = document["added"], document["masked"], document["final_rows"]
    most = buffer.buffer_size * buffer.n_envs
    if type(added) is not int or not 0 <= added < 2**62 or type(final_rows) is not int or not 0 <= final_rows <= most:
        raise ValueError(f"{path} is damaged: it has {added!r:.50} steps and {final_rows!r:.50} final rows")
    if not isinstance(masked, list) or not set(masked) <= set(buffer.agents):
        raise ValueError(f"{path} is damaged: masks of {masked!r:.100}")
    arrays = buffer.prepare(added, {agent: int(options_of(buffer.action_spaces[agent]).sum()) for agent in masked}, final_rows)
    apart = _Planes(path, document, buffer, arrays) if "planes" in document else None
    written = arrays if apart is None else apart.arrays
    places = [(array, rows) for array in written for rows in _parts(array)]
    names = [f"{_DOCUMENT}/{i}" for i in range(len(places))]
    for (array, rows), name, piece in zip(places, names, read_tensors(place, names), strict=True):
        _check_piece(path, name, piece, array[rows])
        array[rows] = piece.numpy()
    try:
        if apart is not None:
            apart.put_together()
        check_values(buffer, final_rows)
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error


class _Planes:
    """
    Images of a file in which numbers stand for their planes.

    :param path: name of the file, for errors
    :param document: document of the file
    :param buffer: prepared buffer
    :param arrays: its arrays
    :raises ValueError: if the file has more planes than images can use
    """

    def __init__(self, path: str, document: dict[str, Any], buffer: JointReplayBuffer, arrays: list[Any]) -> None:
        stores, n_planes = list(buffer.planes.values()), document["planes"]
        self.images = [array for array in arrays if isinstance(array, ImageRows)]
        most = [sum(one.places.size for one in self.images if one.store is store) for store in stores]
        if (
            not isinstance(n_planes, list)
            or len(n_planes) != len(most)
            or not all(type(n) is int and 0 <= n <= limit for n, limit in zip(n_planes, most, strict=True))
        ):
            raise ValueError(f"{path} is damaged: it has {n_planes!r:.50} planes of images")
        self.numbers = [np.full(one.places.shape, -1, np.int32) for one in self.images]
        self.planes = [_NewPlanes(store, n) for store, n in zip(stores, n_planes, strict=True)]
        numbers = iter(self.numbers)
        #: arrays into which the content of the file is written
        self.arrays: list[Any] = [next(numbers) if isinstance(one, ImageRows) else one for one in arrays]
        self.arrays += self.planes

    def put_together(self) -> None:
        """
        Fill the images of the buffer.

        :raises ValueError: if a number is not that of a plane
        """
        for images, numbers in zip(self.images, self.numbers, strict=True):
            (planes,) = (one.places for one in self.planes if one.store is images.store)
            if numbers.size and not -1 <= int(numbers.min()) <= int(numbers.max()) < len(planes):
                raise ValueError("an image has a plane that is not there")
            images.use(np.append(planes, np.int32(-1))[numbers])
        for one in self.planes:
            one.store.release(one.places)


def _check_piece(path: str, name: str, piece: Any, place: np.ndarray) -> None:
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
