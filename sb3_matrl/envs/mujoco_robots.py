"""Rewards, ends of episodes and infos of gymnasium's robots (version 5), for many copies at once.

The floating-point operations are gymnasium's, in the same order: results are equal bit for bit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np


@dataclass(frozen=True)
class Motion:
    """
    One step of all copies.

    :param positions: ``qpos`` after the step, float64 (num_envs, nq)
    :param velocities: ``qvel`` after the step, float64 (num_envs, nv)
    :param forces: ``cfrc_ext`` after the step, float64 (num_envs, 6 * bodies); ``None`` for robots that do not need it
    :param before: place of the robot before the step, float64 (num_envs, axes)
    :param after: place of the robot after the step, float64 (num_envs, axes)
    :param controls: action of the whole robot, float (num_envs, actuators)
    """

    positions: np.ndarray
    velocities: np.ndarray
    forces: np.ndarray | None
    before: np.ndarray
    after: np.ndarray
    controls: np.ndarray


@dataclass(frozen=True)
class Outcome:
    """
    What a step led to.

    :param rewards: float64 (num_envs,)
    :param terminated: bool (num_envs,)
    :param infos: name -> (num_envs,)
    """

    rewards: np.ndarray
    terminated: np.ndarray
    infos: dict[str, np.ndarray]


class RobotRules(ABC):
    """
    Rules of one robot.

    ``axes`` is the number of coordinates of its place; ``needs_forces`` tells whether rewards depend on contact forces.

    :param robot: gymnasium's environment, whose options are read
    """

    axes: ClassVar[int]
    needs_forces: ClassVar[bool] = False

    def __init__(self, robot: Any) -> None:
        self._robot = robot
        self._dt = robot.dt

    @property
    def body(self) -> int | None:
        """Body whose ``xpos`` is the robot's place; ``None`` if the first joints' ``qpos`` are."""
        return None

    @abstractmethod
    def outcome(self, motion: Motion) -> Outcome:
        """
        Apply the rules to a step.

        :param motion: the step; the arrays are not kept
        """

    def _velocity(self, motion: Motion) -> np.ndarray:
        """Velocity of the place, (num_envs, axes)."""
        velocity: np.ndarray = (motion.after - motion.before) / self._dt
        return velocity

    def _control_cost(self, motion: Motion) -> np.ndarray:
        cost: np.ndarray = self._robot._ctrl_cost_weight * np.add.reduce(np.square(motion.controls), axis=1)
        return cost


class HalfCheetahRules(RobotRules):
    """Rules of gymnasium's ``HalfCheetah-v5``."""

    axes = 1

    def outcome(self, motion: Motion) -> Outcome:
        """See :meth:`RobotRules.outcome`."""
        x_velocity = self._velocity(motion)[:, 0]
        forward = self._robot._forward_reward_weight * x_velocity
        cost = self._control_cost(motion)
        infos = {"x_position": motion.after[:, 0], "x_velocity": x_velocity, "reward_forward": forward, "reward_ctrl": -cost}
        return Outcome(forward - cost, np.zeros(len(cost), dtype=bool), infos)


class SwimmerRules(RobotRules):
    """Rules of gymnasium's ``Swimmer-v5``."""

    axes = 2

    def outcome(self, motion: Motion) -> Outcome:
        """See :meth:`RobotRules.outcome`."""
        velocity = self._velocity(motion)
        forward = self._robot._forward_reward_weight * velocity[:, 0]
        cost = self._control_cost(motion)
        infos = _plane_infos(motion.after, velocity) | {"reward_forward": forward, "reward_ctrl": -cost}
        return Outcome(forward - cost, np.zeros(len(cost), dtype=bool), infos)


class HopperRules(RobotRules):
    """Rules of gymnasium's ``Hopper-v5``."""

    axes = 1

    def outcome(self, motion: Motion) -> Outcome:
        """See :meth:`RobotRules.outcome`."""
        robot = self._robot
        x_velocity = self._velocity(motion)[:, 0]
        forward = robot._forward_reward_weight * x_velocity
        healthy = self._healthy(motion)
        survive = healthy * robot._healthy_reward
        cost = self._control_cost(motion)
        infos = {
            "x_position": motion.after[:, 0],
            "z_distance_from_origin": motion.positions[:, 1] - robot.init_qpos[1],
            "x_velocity": x_velocity,
            "reward_forward": forward,
            "reward_ctrl": -cost,
            "reward_survive": survive,
        }
        return Outcome(forward + survive - cost, ~healthy & bool(robot._terminate_when_unhealthy), infos)

    def _healthy(self, motion: Motion) -> np.ndarray:
        low, high = self._robot._healthy_state_range
        upright = self._upright(motion)
        for values in (motion.positions[:, 2:], motion.velocities):
            upright &= np.logical_and.reduce((low < values) & (values < high), axis=1)
        return upright

    def _upright(self, motion: Motion) -> np.ndarray:
        (low_z, high_z), (low_angle, high_angle) = self._robot._healthy_z_range, self._robot._healthy_angle_range
        z, angle = motion.positions[:, 1], motion.positions[:, 2]
        upright: np.ndarray = (low_z < z) & (z < high_z) & (low_angle < angle) & (angle < high_angle)
        return upright


class Walker2dRules(HopperRules):
    """Rules of gymnasium's ``Walker2d-v5``: the hopper's, without limits of the other joints."""

    def _healthy(self, motion: Motion) -> np.ndarray:
        return self._upright(motion)


class AntRules(RobotRules):
    """Rules of gymnasium's ``Ant-v5``."""

    axes = 2
    needs_forces = True

    @property
    def body(self) -> int:
        """Body whose ``xpos`` is the robot's place."""
        return int(self._robot.data.body(self._robot._main_body).id)

    def outcome(self, motion: Motion) -> Outcome:
        """See :meth:`RobotRules.outcome`."""
        robot = self._robot
        velocity = self._velocity(motion)
        forward = velocity[:, 0] * robot._forward_reward_weight
        healthy = self._healthy(motion)
        survive = healthy * robot._healthy_reward
        control_cost, contact_cost = self._control_cost(motion), self._contact_cost(motion)
        infos = {
            **_plane_infos(motion.positions[:, :2], velocity),
            "reward_forward": forward,
            "reward_ctrl": -control_cost,
            "reward_contact": -contact_cost,
            "reward_survive": survive,
        }
        rewards = forward + survive - (control_cost + contact_cost)
        return Outcome(rewards, ~healthy & bool(robot._terminate_when_unhealthy), infos)

    def _healthy(self, motion: Motion) -> np.ndarray:
        low, high = self._robot._healthy_z_range
        z = motion.positions[:, 2]
        healthy: np.ndarray = (low <= z) & (z <= high)
        for values in (motion.positions, motion.velocities):
            healthy &= np.logical_and.reduce(np.isfinite(values), axis=1)
        return healthy

    def _contact_cost(self, motion: Motion) -> np.ndarray:
        low, high = self._robot._contact_force_range
        assert motion.forces is not None, "needs_forces asks for them"
        limited = np.clip(motion.forces, low, high)
        cost: np.ndarray = self._robot._contact_cost_weight * np.add.reduce(np.square(limited), axis=1)
        return cost


# Robots that have rules, by the id of gymnasium's environment.
RULES: dict[str, type[RobotRules]] = {
    "Ant-v5": AntRules,
    "HalfCheetah-v5": HalfCheetahRules,
    "Hopper-v5": HopperRules,
    "Swimmer-v5": SwimmerRules,
    "Walker2d-v5": Walker2dRules,
}


def _plane_infos(place: np.ndarray, velocity: np.ndarray) -> dict[str, np.ndarray]:
    """Infos of a robot that moves in a plane."""
    return {
        "x_position": place[:, 0],
        "y_position": place[:, 1],
        # As numpy.linalg.norm: BLAS may round a product of vectors otherwise than NumPy's sum of squares.
        "distance_from_origin": np.sqrt([row.dot(row) for row in place]),
        "x_velocity": velocity[:, 0],
        "y_velocity": velocity[:, 1],
    }
