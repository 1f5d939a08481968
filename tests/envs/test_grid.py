import numpy as np
import pytest

from sb3_matrl.envs.grid import DOWN, LEFT, NOOP, RIGHT, UP, move_in_turn, next_cells, scaled_positions


def test_next_cells_on_a_small_map():
    table = next_cells((".#", ".."))  # cells 0 1 / 2 3, 1 is a wall
    assert table[DOWN].tolist() == [2, 3, 2, 3]
    assert table[LEFT].tolist() == [0, 0, 2, 2]
    assert table[UP].tolist() == [0, 1, 0, 3]
    assert table[RIGHT].tolist() == [0, 1, 3, 3]
    assert table[NOOP].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("cells", "wanted", "expected"),
    [
        ([0, 1], [1, 0], [0, 1]),  # a swap is impossible
        ([0, 1], [1, 2], [0, 2]),  # the lower id cannot enter a cell that the higher one is about to leave
        ([1, 0], [2, 1], [2, 1]),  # the higher id may enter a cell that the lower one has just left
        ([0, 2], [1, 1], [1, 2]),  # the lower id wins a contested cell
        ([3, 2, 1], [4, 3, 2], [4, 3, 2]),  # a train led by the lowest id
        ([1, 2, 3], [2, 3, 4], [1, 2, 4]),  # and one led by the highest
        ([5, 6], [5, 6], [5, 6]),
    ],
)
def test_conflicts_are_settled_in_id_order(cells, wanted, expected):
    assert move_in_turn(np.array([cells]), np.array([wanted])).tolist() == [expected]


def test_moving_leaves_its_arguments_alone():
    cells, wanted = np.array([[0, 1]]), np.array([[0, 2]])
    move_in_turn(cells, wanted)
    assert cells.tolist() == [[0, 1]] and wanted.tolist() == [[0, 2]]


def test_positions_are_rounded_to_two_decimals():
    positions = scaled_positions(3, 8, row_scale=3, col_scale=7)
    assert positions.dtype == np.float32
    np.testing.assert_array_equal(positions[2 * 8 + 5], np.array([0.67, 0.71], np.float32))
