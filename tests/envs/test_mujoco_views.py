"""What probing finds out about the robots' observations."""

from types import SimpleNamespace

import numpy as np
import pytest

from sb3_matrl.envs import make
from sb3_matrl.envs.mujoco_views import NotSelectedError, Row, _probed, find_selections

DATA = SimpleNamespace(qpos=np.zeros(5), qvel=np.zeros(4), cfrc_ext=np.zeros((3, 6)))
NAMES = ("qpos", "qvel", "cfrc_ext")


def probed(view):
    return _probed("agent_0", Row(DATA, NAMES), view)


def test_positions_and_limits_are_found():
    def view(data):
        return np.array(
            [data.qvel[-1], *np.clip(data.cfrc_ext[2, :2], -1, 3), data.qpos[0], min(data.qpos[4], 7), data.qpos[0]]
        )

    found = probed(view)
    assert found.index.tolist() == [8, 21, 22, 0, 4, 0]
    assert found.low.tolist() == [-np.inf, -1, -1, -np.inf, -np.inf, -np.inf]
    assert found.high.tolist() == [np.inf, 3, 3, np.inf, 7, np.inf]
    rows = 10 * np.random.default_rng(0).standard_normal((4, 27))
    np.testing.assert_array_equal(found(rows), [view(Row(DATA, NAMES).data(row)) for row in rows])


def test_constants_are_limited_on_both_sides():
    found = probed(lambda data: np.array([2.5, data.qvel[0]]))
    assert found(np.arange(27.0)[None]).tolist() == [[2.5, 5.0]]


@pytest.mark.parametrize(
    ("view", "message"),
    [
        (lambda data: np.sin(data.qpos), "the numbers that agent_0 observes are computed"),
        (lambda data: -data.qpos, "the numbers that agent_0 observes are computed"),
        (lambda data: np.array([data.qpos[0] + data.qvel[0]]), "the numbers that agent_0 observes are computed"),
        (lambda data: np.abs(data.qvel), "the numbers that agent_0 observes are computed"),
        (lambda data: np.round(data.qpos), "the numbers that agent_0 observes are computed"),
        (lambda data: data.xpos[1], r"agent_0 observes more than qpos, .* \('.*' object has no attribute 'xpos'\)"),
        (lambda data: data.body("torso").xpos, "agent_0 observes more than qpos"),
    ],
)
def test_other_functions_are_recognised(view, message):
    with pytest.raises(NotSelectedError, match=message):
        probed(view)


@pytest.mark.parametrize("env_id", ["reacher_2x1", "pusher_3p"])
def test_robots_that_observe_computed_numbers_are_recognised(env_id):
    with pytest.raises(NotSelectedError):
        find_selections(make(env_id)._library, ["qpos", "qvel"])


def test_rows_hold_only_what_is_observed():
    names, views, state = find_selections(make("hopper_3x1")._library, ["qpos", "qvel"])
    assert names == ["qpos", "qvel"] and list(views) == ["agent_0", "agent_1", "agent_2"]
    assert state.index.tolist() == list(range(1, 12))
    assert state.high.tolist() == [np.inf] * 5 + [10.0] * 6
    names, *_ = find_selections(make("humanoid_9|8")._library, ["qpos", "qvel"])
    assert names == ["qpos", "qvel", "qfrc_actuator", "cfrc_ext", "cvel", "cinert"]
