"""
Images in planes: height x width parts, of which each different one is stored once.

Agents often see the same screen, stacked frames repeat the frames of the steps before, and a plane that only says who observes
never changes. Such images take a fraction of the memory of an array, without any loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

# Bytes of the blocks in which memory for planes is taken.
BLOCK_BYTES = 2**26
# Smaller planes are not worth their entry in a table.
LEAST_PLANE_BYTES = 1024
_UNCOUNTED = -1


class PlaneStore:
    """
    Planes of one size, with the number of their uses; a plane that is used nowhere makes room for another one.

    :param height: rows of a plane
    :param width: columns of a plane
    """

    def __init__(self, height: int, width: int) -> None:
        self.height, self.width = height, width
        self.plane_bytes = height * width
        self._per_block = max(BLOCK_BYTES // self.plane_bytes, 1)
        self._blocks: list[np.ndarray] = []
        # Of each place: number of uses, and the hash under which the plane is found.
        self._uses = np.zeros(0, np.int64)
        self._keys = np.zeros(0, np.uint64)
        self._place_of: dict[int, int] = {}
        self._free: list[int] = []
        # Odd numbers, so that every bit of a plane counts.
        self._factors = np.random.default_rng(0).integers(2**63, size=-(-self.plane_bytes // 8), dtype=np.uint64) * 2 + 1

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy is empty: images are copied with the planes that they use.
        return PlaneStore, (self.height, self.width)

    @property
    def n_planes(self) -> int:
        """Number of different planes."""
        return len(self._uses) - len(self._free)

    @property
    def nbytes(self) -> int:
        """Bytes of the memory that is in use for planes."""
        return self.n_planes * self.plane_bytes

    def add(self, planes: np.ndarray) -> np.ndarray:
        """
        Store planes, each as one more use of an equal one, if there is one.

        :param planes: uint8 (N, height, width)
        :return: int32 (N,), their places
        """
        keys, first, group = np.unique(self._hashes(planes), return_index=True, return_inverse=True)
        places = np.array([self._place_of.get(key, _UNCOUNTED) for key in keys.tolist()], np.int64)
        new = np.flatnonzero(places < 0)
        if len(new):
            places[new] = self._write(planes[first[new]], keys[new])
            self._place_of.update(zip(keys[new].tolist(), places[new].tolist(), strict=True))
        places = places[group.reshape(-1)]
        unlike = np.flatnonzero((self.read(places) != planes).any(axis=(1, 2)))
        if len(unlike):  # another plane with the same hash: kept, but not found again
            places[unlike] = self._write(planes[unlike], self._hashes(planes[unlike]))
        self.use(places)
        return places.astype(np.int32)

    def use(self, places: np.ndarray) -> None:
        """
        Count further uses.

        :param places: int (N,), places of stored planes, each as often as it is used
        """
        np.add.at(self._uses, places, 1)

    def release(self, places: np.ndarray) -> None:
        """
        End uses.

        :param places: int (N,), places, each as often as it is no longer used; places below 0 are none
        """
        places = places[places >= 0]
        np.subtract.at(self._uses, places, 1)
        unused = np.unique(places)
        unused = unused[self._uses[unused] == 0]
        for place, key in zip(unused.tolist(), self._keys[unused].tolist(), strict=True):
            if self._place_of.get(key) == place:
                del self._place_of[key]
        self._free += unused.tolist()

    def read(self, places: np.ndarray) -> np.ndarray:
        """
        :param places: int (N,), places; those below 0 are planes of zeros
        :return: uint8 (N, height, width)
        """
        planes = np.empty((len(places), self.height, self.width), np.uint8)
        if len(self._blocks) == 1 and places.size and places.min() >= 0:
            # Places are valid; with checks, NumPy would write to a buffer first.
            return np.take(self._blocks[0], places, axis=0, out=planes, mode="clip")
        blocks, rows = np.divmod(places, self._per_block)
        for plane, block, row in zip(planes, blocks.tolist(), rows.tolist(), strict=True):
            plane[...] = 0 if block < 0 else self._blocks[block][row]
        return planes

    def _hashes(self, planes: np.ndarray) -> np.ndarray:
        """Hashes uint64 (N,) of the planes' bytes."""
        flat = np.ascontiguousarray(planes).reshape(len(planes), self.plane_bytes)
        if missing := -self.plane_bytes % 8:
            flat = np.pad(flat, ((0, 0), (0, missing)))
        mixed = flat.view(np.uint64) * self._factors
        hashes: np.ndarray = np.bitwise_xor(mixed, mixed >> np.uint64(32)).sum(axis=1, dtype=np.uint64)
        return hashes

    def _write(self, planes: np.ndarray, keys: np.ndarray) -> np.ndarray:
        """Write planes to free places, and return these, (N,)."""
        while len(self._free) < len(planes):
            self._grow()
        places = np.array([self._free.pop() for _ in range(len(planes))], np.int64)
        blocks, rows = np.divmod(places, self._per_block)
        for block in np.unique(blocks).tolist():
            chosen = blocks == block
            self._blocks[block][rows[chosen]] = planes[chosen]
        self._keys[places] = keys
        return places

    def _grow(self) -> None:
        size = len(self._uses)
        self._blocks.append(np.empty((self._per_block, self.height, self.width), np.uint8))
        self._uses = np.concatenate([self._uses, np.zeros(self._per_block, np.int64)])
        self._keys = np.concatenate([self._keys, np.zeros(self._per_block, np.uint64)])
        self._free += range(size + self._per_block - 1, size - 1, -1)


class ImageRows:
    """
    Images of many rows, read and written like a zero-filled array (\\*rows, \\*shape) of uint8.

    Indices are those of NumPy's leading axes; reading gives a copy.

    :param rows: leading axes
    :param shape: shape of an image, channels first or last
    :param channels_last: whether the channels are the last axis
    :param store: store of the planes, which may be that of other images, too
    :param places: int32 (\\*rows, channels), places of the planes, for a view of other rows; ``None`` for new rows
    """

    dtype = np.dtype(np.uint8)

    def __init__(
        self,
        rows: tuple[int, ...],
        shape: Sequence[int],
        channels_last: bool,
        store: PlaneStore,
        places: np.ndarray | None = None,
    ) -> None:
        self._image, self.channels_last, self.store = tuple(shape), channels_last, store
        channels = self._image[-1 if channels_last else 0]
        self.places = np.full((*rows, channels), _UNCOUNTED, np.int32) if places is None else places

    @property
    def shape(self) -> tuple[int, ...]:
        """Leading axes, then the shape of an image."""
        return (*self.places.shape[:-1], *self._image)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the places; those of the planes are their store's."""
        return self.places.nbytes

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: Any) -> np.ndarray:
        places = self.places[index]
        planes = self.store.read(places.reshape(-1)).reshape(*places.shape, self.store.height, self.store.width)
        if not self.channels_last:
            return planes
        return np.ascontiguousarray(np.moveaxis(planes, -3, -1))

    def __setitem__(self, index: Any, images: Any) -> None:
        before = self.places[index]
        images = np.broadcast_to(np.asarray(images, np.uint8), (*before.shape[:-1], *self._image))
        planes = np.moveaxis(images, -1, -3) if self.channels_last else images
        added = self.store.add(planes.reshape(-1, self.store.height, self.store.width))
        released = before.reshape(-1).copy()
        self.places[index] = added.reshape(before.shape)
        self.store.release(released)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("images in planes cannot be read without a copy")
        return np.asarray(self[...], dtype)

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy has the planes of these images only, each once.
        used, numbers = np.unique(self.places, return_inverse=True)
        content = (self.store.read(used), used < 0, numbers.reshape(self.places.shape).astype(np.int32))
        return _copied, (self._image, self.channels_last, *content)

    def clear(self) -> None:
        """Make all images zeros."""
        self.store.release(self.places.reshape(-1))
        self.places[...] = _UNCOUNTED

    def flattened(self) -> ImageRows:
        """:return: the images (n_steps, n_envs, \\*shape) copy by copy, (n_envs * n_steps, \\*shape), in place of these"""
        places = self.places.swapaxes(0, 1).reshape(-1, self.places.shape[-1])
        return ImageRows(places.shape[:-1], self._image, self.channels_last, self.store, places)

    def part(self, index: Any) -> ImageRows:
        """
        Rows that share their planes with these.

        :param index: index of the leading axes; writing to the part is writing to these rows only for slices
        """
        places = self.places[index]
        return ImageRows(places.shape[:-1], self._image, self.channels_last, self.store, places)

    def use(self, places: np.ndarray) -> None:
        """
        Fill all rows, which must be new, with planes that their store holds.

        :param places: int32 (\\*rows, channels), places of the planes; those below 0 are planes of zeros
        """
        self.places[...] = places
        self.store.use(places[places >= 0])

    def move_from(self, other: ImageRows) -> None:
        """
        Take over the images of another object with the same store, for the first rows.

        :param other: shorter rows, which must not be used any more
        """
        self.places[: len(other)] = other.places


def _copied(
    image: tuple[int, ...], channels_last: bool, planes: np.ndarray, unwritten: np.ndarray, numbers: np.ndarray
) -> ImageRows:
    """Images with a store of their own."""
    store = PlaneStore(*planes.shape[1:])
    added = store.add(planes)
    images = ImageRows(numbers.shape[:-1], image, channels_last, store)
    images.use(np.where(unwritten, _UNCOUNTED, added).astype(np.int32)[numbers])
    store.release(added)
    return images


# (height, width) -> planes of that size
Stores = dict[tuple[int, int], PlaneStore]


def image_rows(rows: tuple[int, ...], shape: tuple[int, ...], stores: Stores) -> ImageRows:
    """
    Rows of images, all zero.

    :param rows: leading axes
    :param shape: shape of an image
    :param stores: planes, in which a store for planes of another size is put
    """
    size = plane_size(shape, has_channels_last(shape))
    if size not in stores:
        stores[size] = PlaneStore(*size)
    return ImageRows(rows, shape, has_channels_last(shape), stores[size])


def worth_planes(shape: tuple[int, ...], dtype: Any) -> bool:
    """
    Whether values of a space are images that are large enough to be kept in planes.

    :param shape: shape of a value
    :param dtype: dtype of a value
    """
    if np.dtype(dtype) != np.uint8 or len(shape) != 3:
        return False
    height, width = plane_size(shape, has_channels_last(shape))
    return height * width >= LEAST_PLANE_BYTES


def has_channels_last(shape: Sequence[int]) -> bool:
    """:return: whether the last axis of an image of that shape has its channels, and not the first one"""
    return shape[2] < shape[0]


def plane_size(shape: Sequence[int], channels_last: bool) -> tuple[int, int]:
    """
    :param shape: shape of an image
    :param channels_last: whether the channels are the last axis
    :return: height and width of its planes
    """
    height, width = (shape[0], shape[1]) if channels_last else (shape[1], shape[2])
    return int(height), int(width)
