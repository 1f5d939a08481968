"""All agents' observations as one vector, against SB3's preprocessing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import preprocess_obs

from sb3_matrl.common.joint_observations import JointObservations
from tests.vec_env.toys import draw

N_ROWS = 5
SPACES: dict[str, spaces.Space[Any]] = {
    "box": spaces.Box(-3, 3, (2, 2), np.float64),
    "count": spaces.Discrete(4),
    "counts": spaces.MultiDiscrete([2, 3]),
    "bits": spaces.MultiBinary(3),
    "dict": spaces.Dict({"x": spaces.Box(-1, 1, (2,), np.float32), "n": spaces.Discrete(3)}),
}
DISCRETE = dict.fromkeys(SPACES, spaces.Discrete(2))


def rows(space: spaces.Space[Any]) -> Any:
    drawn = [draw(space, np.random.default_rng(seed)) for seed in range(N_ROWS)]
    if isinstance(space, spaces.Dict):
        return {key: np.stack([one[key] for one in drawn]) for key in space.spaces}
    return np.stack(drawn)


def preprocessed(space: spaces.Space[Any], values: Any) -> np.ndarray:
    """What SB3's FlattenExtractor and CombinedExtractor make of observations."""
    if isinstance(space, spaces.Dict):
        return np.concatenate([preprocessed(entry, values[key]) for key, entry in space.spaces.items()], axis=1)
    prepared = preprocess_obs(th.as_tensor(values), space)
    assert isinstance(prepared, th.Tensor)
    return prepared.flatten(1).numpy()


def test_the_vector_is_what_sb3_makes_of_every_observation() -> None:
    joint, observations = JointObservations(SPACES, DISCRETE), {agent: rows(space) for agent, space in SPACES.items()}
    everybody = dict.fromkeys(SPACES, np.ones(N_ROWS, dtype=bool))
    expected = [preprocessed(space, observations[agent]) for agent, space in SPACES.items()]
    encoded = joint.encode(observations, everybody)
    assert encoded.dtype == np.float32 and joint.size == encoded.shape[1] == 4 + 4 + 5 + 3 + 5
    np.testing.assert_array_equal(encoded, np.concatenate(expected, axis=1))
    assert list(joint.sizes.values()) == [part.shape[1] for part in expected]


def test_agents_that_are_not_present_are_zeros() -> None:
    joint, observations = JointObservations(SPACES, DISCRETE), {agent: rows(space) for agent, space in SPACES.items()}
    present = {agent: np.arange(N_ROWS) % (k + 2) == 0 for k, agent in enumerate(SPACES)}
    encoded = joint.encode(observations, present)
    start = 0
    for agent, size in joint.sizes.items():
        part, here = encoded[:, start : start + size], present[agent]
        np.testing.assert_array_equal(part[here], preprocessed(SPACES[agent], observations[agent])[here])
        assert not part[~here].any()
        start += size


def test_numbers_of_absent_agents_are_never_read() -> None:
    joint = JointObservations({"a": SPACES["box"]}, {"a": spaces.Discrete(2)})
    encoded = joint.encode({"a": np.full((2, 2, 2), np.nan)}, {"a": np.zeros(2, dtype=bool)})
    np.testing.assert_array_equal(encoded, 0.0)


def test_action_masks_are_left_out() -> None:
    masked = spaces.Dict({"observation": spaces.Box(-1, 1, (3,), np.float32), "action_mask": spaces.MultiBinary(2)})
    joint = JointObservations({"a": masked}, {"a": spaces.Discrete(2)})
    observation = rows(masked)
    encoded = joint.encode({"a": observation}, {"a": np.ones(N_ROWS, dtype=bool)})
    np.testing.assert_array_equal(encoded, observation["observation"])


def test_images_are_rejected() -> None:
    picture = spaces.Box(0, 255, (36, 36, 3), np.uint8)
    with pytest.raises(ValueError, match=r"cannot take images.*'eye'.*of agent 'a': use state='env'"):
        JointObservations({"a": spaces.Dict({"eye": picture})}, {"a": spaces.Discrete(2)})
