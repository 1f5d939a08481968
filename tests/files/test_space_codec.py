"""Spaces survive JSON, exactly."""

import json
import math

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sb3_matrl.files.space_codec import space_from_json, space_to_json

FLOATS = [np.float16, np.float32, np.float64]
INTEGERS = [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64]


def round_trip(space):
    return space_from_json(json.loads(json.dumps(space_to_json(space), allow_nan=False)))


def assert_same(space, other):
    """More than ``==``, which for a Box means nearly equal."""
    assert type(space) is type(other) and space == other
    assert space.dtype == other.dtype and space.shape == other.shape
    if isinstance(space, spaces.Box):
        for name in ("low", "high", "bounded_below", "bounded_above"):
            ours, theirs = getattr(space, name), getattr(other, name)
            np.testing.assert_array_equal(ours, theirs, name, strict=True)
    if isinstance(space, spaces.Dict):
        assert list(space.spaces) == list(other.spaces)
        for key in space.spaces:
            assert_same(space[key], other[key])


@st.composite
def boxes(draw):
    dtype = np.dtype(draw(st.sampled_from([*FLOATS, *INTEGERS, np.bool_])))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, max_side=3))
    if dtype.kind == "f":
        elements = st.floats(width=dtype.itemsize * 8, allow_nan=False)
    elif dtype.kind == "b":
        elements = st.booleans()
    else:
        elements = st.integers(int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))
    # As arrays even without axes: gymnasium takes no boolean scalars.
    a, b = (draw(hnp.arrays(dtype, shape, elements=elements)) for _ in range(2))
    low, high = np.asarray(np.minimum(a, b)), np.asarray(np.maximum(a, b))
    if dtype.kind == "f":  # an infinite bound on the wrong side makes no space
        low, high = np.where(low == math.inf, 0, low).astype(dtype), np.where(high == -math.inf, 0, high).astype(dtype)
        low, high = np.asarray(np.minimum(low, high)), np.asarray(np.maximum(low, high))
    return spaces.Box(low, high, shape, dtype)


@st.composite
def multi_discretes(draw):
    shape = draw(hnp.array_shapes(max_dims=2, max_side=3))
    nvec = draw(hnp.arrays(np.int64, shape, elements=st.integers(1, 100)))
    start = draw(hnp.arrays(np.int64, shape, elements=st.integers(-20, 20)))
    return spaces.MultiDiscrete(nvec, start=start, dtype=draw(st.sampled_from([np.int16, np.int32, np.int64])))


leaves = st.one_of(
    boxes(),
    st.builds(spaces.Discrete, st.integers(1, 2**40), start=st.integers(-(2**40), 2**40)),
    multi_discretes(),
    st.builds(spaces.MultiBinary, st.integers(1, 50)),
    st.builds(spaces.MultiBinary, st.lists(st.integers(1, 4), min_size=1, max_size=3)),
)
any_space = st.recursive(
    leaves,
    lambda inner: st.dictionaries(st.text(max_size=5), inner, max_size=4).map(
        lambda entries: spaces.Dict(list(entries.items()))
    ),
    max_leaves=5,
)


@given(any_space)
@settings(deadline=None, max_examples=25)
def test_every_space_survives_json(space):
    assert_same(space, round_trip(space))


@pytest.mark.parametrize("dtype", FLOATS)
def test_infinite_bounds_survive(dtype):
    low, high = np.array([-np.inf, -1, -np.inf], dtype), np.array([np.inf, np.inf, 1], dtype)
    assert_same(spaces.Box(low, high, dtype=dtype), round_trip(spaces.Box(low, high, dtype=dtype)))
    everywhere = spaces.Box(-np.inf, np.inf, (2, 2), dtype)
    assert_same(everywhere, round_trip(everywhere))


@pytest.mark.parametrize(("low", "high"), [(-np.inf, np.inf), (-np.inf, 3), (3, np.inf)])
def test_integers_without_a_bound_stay_without_one(low, high):
    space = spaces.Box(low, high, (2,), np.int32)
    assert_same(space, round_trip(space))
    assert round_trip(space).is_bounded("below") == (low == 3)
    mixed = spaces.Box(np.array([low, 0.0]), np.array([9.0, 9.0]), dtype=np.int32)
    assert_same(mixed, round_trip(mixed))


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.int64])
def test_the_dtype_of_discrete_survives(dtype):
    space = spaces.Discrete(5, start=2, dtype=dtype)
    assert_same(space, round_trip(space))


def test_one_number_and_a_list_of_one_number_stay_different():
    for space in (spaces.MultiBinary(3), spaces.MultiBinary([3]), spaces.MultiBinary((2, 3))):
        assert_same(space, round_trip(space))


def test_an_empty_box_survives():
    assert_same(spaces.Box(0, 1, (0, 3)), round_trip(spaces.Box(0, 1, (0, 3))))


def test_an_image_needs_one_number_per_bound():
    description = space_to_json(spaces.Box(0, 255, (84, 84, 3), np.uint8))
    assert description == {"type": "Box", "low": 0, "high": 255, "shape": [84, 84, 3], "dtype": "uint8"}


def test_entries_keep_an_order_that_sorting_would_change():
    space = spaces.Dict(
        [("z", spaces.Discrete(2)), ("a", spaces.Dict([("y", spaces.MultiBinary(2)), ("b", spaces.Discrete(3))]))]
    )
    assert list(space.spaces) == ["z", "a"]
    assert_same(space, round_trip(space))


@pytest.mark.parametrize("space", [spaces.Tuple([spaces.Discrete(2)]), spaces.Text(3), spaces.Dict(x=spaces.Text(3))])
def test_other_spaces_are_refused(space):
    with pytest.raises(ValueError, match=r"spaces of type (Tuple|Text) are not supported"):
        space_to_json(space)


BOX = space_to_json(spaces.Box(-1, 1, (2,)))


@pytest.mark.parametrize(
    "data",
    [
        None,
        7,
        [],
        {},
        {"type": "Text"},
        {"type": ["Box"]},
        {"type": "Box"},
        BOX | {"dtype": "float33"},
        BOX | {"dtype": "O"},
        BOX | {"shape": [-1]},
        BOX | {"shape": 2},
        BOX | {"shape": [10**6, 10**6]},
        BOX | {"dtype": "(100000,100000)f4"},
        BOX | {"low": [0.0]},
        BOX | {"low": 2},
        BOX | {"low": "minus one"},
        BOX | {"low": None},
        BOX | {"low": "nan"},
        BOX | {"bounded_below": [True]},
        BOX | {"dtype": "uint8"},
        BOX | {"dtype": "uint8", "low": 0, "high": [1, 300]},
        {"type": "Discrete", "n": 0, "start": 0, "dtype": "int64"},
        {"type": "Discrete", "n": math.inf, "start": 0, "dtype": "int64"},
        {"type": "Discrete", "n": 2, "start": 0, "dtype": "float32"},
        {"type": "MultiDiscrete", "nvec": [2], "start": [0, 0], "dtype": "int64"},
        {"type": "MultiDiscrete", "nvec": [0], "start": [0], "dtype": "int64"},
        {"type": "MultiBinary", "n": 0},
        {"type": "MultiBinary", "n": "many"},
        {"type": "MultiBinary"},
        {"type": "Dict", "spaces": [["x"]]},
        {"type": "Dict", "spaces": [["x", {"type": "nothing"}]]},
        {"type": "Dict", "spaces": 3},
    ],
)
def test_what_describes_no_space_is_a_value_error(data):
    with pytest.raises(ValueError, match="not a description of a space"):
        space_from_json(data)
