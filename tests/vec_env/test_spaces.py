"""The byte codec: every value of every space comes back exactly."""

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from sb3_matrl.vec_env.spaces import ByteCodec, mask_rows, row_of
from tests.vec_env.toys import draw

dtypes = st.sampled_from([np.uint8, np.int8, np.int16, np.int32, np.int64, np.float16, np.float32, np.float64])
shapes = st.lists(st.integers(0, 3), max_size=3).map(tuple)


def box(shape, dtype):
    if np.issubdtype(dtype, np.floating):
        return spaces.Box(-100, 100, shape, dtype)
    info = np.iinfo(dtype)
    return spaces.Box(info.min, info.max, shape, dtype)


leaves = st.one_of(
    st.builds(box, shapes, dtypes),
    st.builds(spaces.Discrete, st.integers(1, 9), start=st.integers(-5, 5)),
    st.builds(spaces.MultiDiscrete, st.lists(st.integers(1, 9), min_size=1, max_size=4)),
    st.builds(spaces.MultiBinary, st.integers(1, 5)),
)
any_space = st.one_of(leaves, st.dictionaries(st.sampled_from("zaq"), leaves, min_size=1).map(spaces.Dict))


@given(any_space, st.integers(1, 4), st.integers(0, 9), st.integers(0, 2**32))
def test_what_is_written_is_read(space, batch, padding, seed):
    rng = np.random.default_rng(seed)
    codec = ByteCodec(space)
    values = [draw(space, rng) for _ in range(batch)]
    arrays = [np.stack([v if leaf.key is None else v[leaf.key] for v in values]) for leaf in codec.leaves]
    rows = np.full((batch, codec.size + padding), 7, np.uint8)
    codec.write(arrays, rows)
    assert (rows[:, codec.size :] == 7).all()
    result = codec.read(rows)
    for leaf, array in zip(codec.leaves, arrays, strict=True):
        got = result if leaf.key is None else result[leaf.key]
        assert got.dtype == leaf.space.dtype and got.shape == (batch, *leaf.space.shape)
        np.testing.assert_array_equal(got, array)
        assert not np.shares_memory(got, rows)


@pytest.mark.parametrize("wrap", [lambda array: array, lambda array: {"x": array}])
def test_rows_are_masked_in_place_and_taken_as_copies(wrap):
    array = np.arange(6).reshape(3, 2)
    observation = wrap(array)
    row = row_of(observation, 1)
    mask_rows(observation, np.array([True, False, True]))
    assert array.tolist() == [[0, 1], [0, 0], [4, 5]]
    np.testing.assert_equal(row, wrap(np.array([2, 3])))
