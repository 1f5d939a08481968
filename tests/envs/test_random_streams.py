import numpy as np
import pytest

from sb3_matrl.envs.random_streams import nth_true, split_mix, stream_state
from sb3_matrl.envs.stag_hunt_v0 import StagHuntCore
from tests.envs.random_references import SplitMix


def test_outputs_are_those_of_the_published_generator():
    # The first outputs of the public-domain C code for seed 1234567.
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]
    assert split_mix(np.array([1234567], np.uint64), 5)[0].tolist() == expected


def test_streams_of_copies_are_those_of_a_slow_loop_and_advance_only_where_used():
    core = StagHuntCore(3)
    core.seed([5, 6, 2**70])
    slow = [SplitMix(seed) for seed in (5, 6, 2**70)]
    used = np.array([True, False, True])
    first = core._uniform(2, used)
    second = core._uniform(3, np.ones(3, dtype=bool))
    expected = [[reference.uniform() for _ in range(5)] for reference in slow]
    assert first[used].tolist() == [expected[0][:2], expected[2][:2]]
    assert second.tolist() == [expected[0][2:], expected[1][:3], expected[2][2:]]


def test_a_copy_without_a_seed_continues_its_stream():
    core = StagHuntCore(2)
    core.seed([1, 2])
    core._uniform(4, np.ones(2, dtype=bool))
    state = core.streams[1]
    core.seed([1, None])
    assert core.streams.tolist() == [int(stream_state(1)), int(state)]


def test_unseeded_copies_differ_and_negative_seeds_are_rejected():
    core = StagHuntCore(4)
    assert len(set(core.streams.tolist())) == 4
    with pytest.raises(ValueError, match="non-negative"):
        core.seed([1, 2, 3, -1])


def test_every_true_entry_is_chosen_for_its_share_of_the_numbers():
    flags = np.array([[False, True, True, False, True]] * 6)
    uniform = np.array([0.0, 0.33, 0.34, 0.66, 0.67, 1 - 2**-53])
    assert nth_true(flags, uniform).tolist() == [1, 1, 2, 2, 4, 4]
    assert nth_true(np.zeros((1, 3), dtype=bool), np.array([0.5])).tolist() == [0]


def test_numbers_are_uniform():
    draws = (split_mix(np.arange(100, dtype=np.uint64), 1000) >> np.uint64(11)) * 2.0**-53
    counts = np.bincount((draws.ravel() * 20).astype(int), minlength=20)
    assert ((counts - 5000) ** 2 / 5000).sum() < 45.3  # 99.9 % quantile of chi-square with 19 degrees of freedom is 43.8
    assert abs(np.corrcoef(draws[:, :-1].ravel(), draws[:, 1:].ravel())[0, 1]) < 0.015
