"""Images in planes against plain arrays."""

import numpy as np
import pytest

from sb3_matrl.utils import image_planes
from sb3_matrl.utils.image_planes import ImageRows, PlaneStore

HEIGHT, WIDTH = 5, 7  # 35 bytes, no multiple of 8


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(image_planes, "BLOCK_BYTES", 4 * HEIGHT * WIDTH)


@pytest.mark.parametrize("channels_last", [False, True])
def test_random_writes_read_back_like_an_array(channels_last):
    rng = np.random.default_rng(1)
    shape = (HEIGHT, WIDTH, 3) if channels_last else (3, HEIGHT, WIDTH)
    known = rng.integers(256, size=(9, *shape), dtype=np.uint8)
    plain, store = np.zeros((6, 2, *shape), np.uint8), PlaneStore(HEIGHT, WIDTH)
    images = ImageRows((6, 2), shape, channels_last, store)
    for _ in range(200):
        chosen = known[rng.integers(9, size=2)]
        index = [rng.integers(6), (np.array([1, 4]), int(rng.integers(2))), (slice(2, 4), 1)][rng.integers(3)]
        plain[index] = chosen
        images[index] = chosen
    assert images.shape == plain.shape and images.dtype == plain.dtype and np.array_equal(images, plain)
    for index in (np.array([5, 0, 0]), (np.array([3, 2]), np.array([1, 0])), slice(1, 4), 2):
        assert np.array_equal(images[index], plain[index])
        assert images[index].strides == plain[index].strides
        assert np.array_equal(images.part(index), plain[index])
    planes = np.moveaxis(plain, -1, -3) if channels_last else plain
    different = {plane.tobytes() for plane in planes.reshape(-1, HEIGHT, WIDTH)}
    unwritten = (images.places < 0).any()
    assert store.n_planes == len(different) - unwritten


def test_planes_with_the_same_hash_stay_apart(monkeypatch):
    monkeypatch.setattr(PlaneStore, "_hashes", lambda self, planes: np.zeros(len(planes), np.uint64))
    store, rng = PlaneStore(HEIGHT, WIDTH), np.random.default_rng(0)
    planes = rng.integers(256, size=(5, HEIGHT, WIDTH), dtype=np.uint8)
    places = store.add(planes[[0, 1, 0, 2, 3]])
    assert np.array_equal(store.read(places), planes[[0, 1, 0, 2, 3]])
    store.release(places[:1])
    again = store.add(planes[[4, 0]])
    assert np.array_equal(store.read(np.concatenate([places[1:], again])), planes[[1, 0, 2, 3, 4, 0]])
    store.release(np.concatenate([places[1:], again]))
    assert store.n_planes == 0


def test_memory_of_planes_that_are_not_used_is_used_again():
    store, rng = PlaneStore(HEIGHT, WIDTH), np.random.default_rng(0)
    images = ImageRows((4,), (2, HEIGHT, WIDTH), False, store)
    for step in range(100):
        images[step % 4] = rng.integers(256, size=(2, HEIGHT, WIDTH), dtype=np.uint8)
    assert store.n_planes == 8 and len(store._blocks) <= 3
