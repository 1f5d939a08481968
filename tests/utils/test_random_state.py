"""Tests of saving and restoring random generators."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sb3_matrl.envs.snapshot import check_saved
from sb3_matrl.utils.random_state import random_generators, restore_random_generators, set_bit_generator


def at_position(kind: type[np.random.BitGenerator], position: Any) -> dict[str, Any]:
    state: dict[str, Any] = dict(kind(0).state)
    if kind is np.random.MT19937:
        state["state"] = state["state"] | {"pos": position}
    else:
        state["buffer_pos"] = position
    return state


def test_restored_generators_repeat_their_numbers() -> None:
    states = random_generators()
    first = np.random.permutation(100)
    restore_random_generators(states)
    assert (np.random.permutation(100) == first).all()


@pytest.mark.parametrize("position", [-1, 625, 2**31 - 1, 3.0, "3", None])
def test_positions_outside_the_table_of_numpys_global_generator_are_refused(position: Any) -> None:
    states = random_generators()
    states["numpy"][2] = position
    with pytest.raises(ValueError, match="position of a MT19937"):
        restore_random_generators(states)


@pytest.mark.parametrize(("kind", "size"), [(np.random.MT19937, 624), (np.random.Philox, 4)])
def test_positions_outside_the_table_of_a_generator_are_refused(kind: type[np.random.BitGenerator], size: int) -> None:
    generator = np.random.Generator(kind(0))
    for position in (-1, size + 1, 2**31 - 1):
        with pytest.raises(ValueError, match=f"position of a {kind.__name__}"):
            set_bit_generator(generator.bit_generator, at_position(kind, position))
        with pytest.raises(ValueError, match=f"position of a {kind.__name__}"):
            check_saved("generator", generator, at_position(kind, position))
    set_bit_generator(generator.bit_generator, at_position(kind, size))
    check_saved("generator", generator, at_position(kind, 0))
