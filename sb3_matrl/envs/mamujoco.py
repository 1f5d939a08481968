"""
Multi-agent MuJoCo: one robot whose joints are divided among agents (Peng et al. 2021, "FACMAC"), by gymnasium-robotics.

An id is ``<robot>_<conf>``: ``hopper_3x1`` is the hopper with three agents of one joint each. All agents get the same
reward and end together. The two ``manysegment`` robots grow with their agents: ``manysegmentswimmer_10x2`` has ten agents of
two joints each. gymnasium-robotics' coupled half-cheetah is not supported: it misreads the tendon Jacobians of MuJoCo 4.

Differences from ``gymnasium_robotics.mamujoco_v1``, on which this module is based:

- Observations have the same order in every copy of an environment; in the library's pusher they do not.
- Observations are float32 instead of float64, because SB3 converts them to float32 anyway; the physics uses float64.
- Ant, half-cheetah, hopper, swimmer, walker and the ``manysegment`` robots have a batched core, which ``vec_env="auto"``
  steps: trajectories are equal bit for bit. :attr:`MultiAgentMujoco.core_obstacle` says why an environment has none.
- :meth:`MultiAgentMujoco.snapshot` and :meth:`~MultiAgentMujoco.restore` save and continue an episode bit for bit.
- There is a ``render_mode``. If ``MUJOCO_GL`` is unset and Linux has no display, EGL is used, which needs neither a screen
  nor a GPU; set ``MUJOCO_GL`` to ``osmesa`` or ``glfw`` to override this.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from pettingzoo import AECEnv, ParallelEnv
from pettingzoo.utils.conversions import parallel_to_aec

from sb3_matrl.envs.core import BatchableEnv
from sb3_matrl.envs.mujoco_core import MujocoCore, core_obstacle
from sb3_matrl.envs.mujoco_library import (
    ROBOTS,
    RobotArguments,
    check_id,
    check_snapshot,
    derived,
    make_library,
    physics,
    set_physics,
)
from sb3_matrl.envs.option_checks import check_integer, check_turns
from sb3_matrl.envs.snapshot import Snapshot, restored, saved

__all__ = ["MultiAgentMujoco", "env", "env_ids", "factory", "parallel_env", "robot_names"]


def env_ids() -> list[str]:
    """Ids of all robots with their factorisations, except the ``manysegment`` robots, whose number is unlimited."""
    return [f"{name}_{conf}" for name, robot in ROBOTS.items() for conf in robot.confs]


def robot_names() -> list[str]:
    """Names of all robots: the first parts of their ids."""
    return list(ROBOTS)


def factory(env_id: str) -> Callable[..., MultiAgentMujoco]:
    """
    Look up the function that makes a robot.

    :param env_id: ``<robot>_<conf>``
    :return: :func:`parallel_env` for this robot and factorisation
    :raises ValueError: if the robot or the factorisation does not exist; the message lists those that do
    """
    robot, _, conf = env_id.partition("_")
    check_id(robot, conf, env_id)
    return partial(parallel_env, robot, conf)


class MultiAgentMujoco(ParallelEnv[str, np.ndarray, np.ndarray], BatchableEnv):  # type: ignore[misc]  # PettingZoo: no types
    """
    One robot, controlled by several agents; steps the libraries' environments.

    :param robot: name of the robot, one of :func:`robot_names`
    :param conf: factorisation
    :param render_mode: ``"human"``, ``"rgb_array"``, ``"depth_array"`` or ``None``
    :param max_episode_steps: steps after which an episode is truncated; ``None`` for gymnasium's limit, 1000 for most robots
    :param factorisation: options of gymnasium-robotics, see :func:`parallel_env`
    :param robot_options: options of gymnasium's robot
    :raises ValueError: if an option is invalid
    :raises TypeError: if the robot does not have an option
    :raises ImportError: if gymnasium-robotics is not installed; the message says what to install
    """

    def __init__(
        self,
        robot: str,
        conf: str,
        render_mode: str | None,
        max_episode_steps: int | None,
        factorisation: dict[str, Any],
        robot_options: dict[str, Any],
    ) -> None:
        arguments = RobotArguments(robot, conf, render_mode, max_episode_steps, factorisation, robot_options)
        check_id(robot, conf, str(arguments))
        self._library = make_library(arguments)
        self._robot, self._env = self._library.robot, self._library.env
        self.metadata: dict[str, Any] = self._library.metadata
        self.render_mode = render_mode
        self._elapsed_steps = 0
        self._started = False
        self.possible_agents = list(self._env.possible_agents)
        self.agents: list[str] = []
        self.observation_spaces = self._library.observation_spaces
        self.action_spaces: dict[str, spaces.Box] = dict(self._env.action_spaces)
        self.state_space = self._library.state_space

    @property
    def core_obstacle(self) -> str | None:
        """Reason why :meth:`make_core` does not support this environment; ``None`` if it does."""
        if type(self) is not MultiAgentMujoco:
            return f"{type(self).__name__} may have other rules than MultiAgentMujoco"
        return core_obstacle(self._library)

    def make_core(self, num_envs: int) -> MujocoCore:
        """
        Create a core with this environment's options, which gives the same trajectories.

        :param num_envs: number of copies
        :raises ValueError: if there is a :attr:`core_obstacle`
        """
        return MujocoCore(num_envs, self._library.arguments)

    def observation_space(self, agent: str) -> spaces.Box:
        """Observation space of ``agent``, the same object at every call."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> spaces.Box:
        """Action space of ``agent``, the same object at every call."""
        return self.action_spaces[agent]

    def state(self) -> np.ndarray:
        """Global state, the observation of gymnasium's single agent: float32 (state size,)."""
        return np.asarray(self._env.state(), np.float32)

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, dict[str, Any]]]:
        """
        Start a new episode, near the robot's usual pose.

        :param seed: seed of the environment; ``None`` continues with the current generator
        :param options: ignored, part of PettingZoo's signature
        :return: observations and infos of all agents
        """
        observations, infos = self._env.reset(seed=seed, options=options)
        self._elapsed_steps, self._started = 0, True
        self.agents = list(self.possible_agents)
        return _as_float32(observations), _separate(infos)

    def step(
        self, actions: dict[str, np.ndarray]
    ) -> tuple[dict[str, np.ndarray], dict[str, float], dict[str, bool], dict[str, bool], dict[str, dict[str, Any]]]:
        """
        Move the robot.

        :param actions: agent -> action, for every agent, with the shape of its space
        :return: observations, rewards, terminations, truncations and infos of all agents
        :raises RuntimeError: before the first reset and after the end of the episode
        :raises ValueError: if an agent's action is missing, or an unknown agent has one
        """
        check_turns(self, self.agents, self._started, actions)
        observations, rewards, terminated, _, infos = self._env.step(actions)
        self._elapsed_steps += 1
        truncated = self._elapsed_steps >= self._library.limit
        if truncated or any(terminated.values()):
            self.agents = []
        everyone = self.possible_agents
        return (
            _as_float32(observations),
            {agent: float(rewards[agent]) for agent in everyone},
            {agent: bool(terminated[agent]) for agent in everyone},
            dict.fromkeys(everyone, truncated),
            _separate(infos),
        )

    def snapshot(self) -> Snapshot:
        """
        Save the complete state of the environment.

        :return: physics with the derived quantities of the last step, random generator, step counter, whether an episode is
            running, and whether one has ever begun
        """
        return {
            "physics": physics(self._robot.model, self._robot.data),
            "derived": derived(self._robot.data),
            "generator": saved("np_random", self._robot.np_random),
            "elapsed_steps": self._elapsed_steps,
            "running": bool(self.agents),
            "started": self._started,
        }

    def restore(self, snapshot: Snapshot) -> None:
        """
        Restore a snapshot of an environment with the same options.

        :param snapshot: return value of :meth:`snapshot`; it is copied
        :raises ValueError: if the snapshot does not fit; nothing is changed then
        """
        check_snapshot(f"snapshot of {self}", snapshot, self._robot)
        set_physics(self._robot.model, self._robot.data, snapshot["physics"], snapshot["derived"])
        restored(self._robot.np_random, snapshot["generator"])
        self._elapsed_steps, self._started = snapshot["elapsed_steps"], snapshot["started"]
        self.agents = list(self.possible_agents) if snapshot["running"] else []

    def render(self) -> np.ndarray | None:
        """
        Render the robot in the chosen ``render_mode``.

        :return: uint8 (height, width, 3) for ``"rgb_array"``, float32 (height, width) for ``"depth_array"``, otherwise
            ``None``
        :raises RuntimeError: if there is neither a display nor EGL
        """
        if self.render_mode is None:
            modes = ", ".join(self.metadata["render_modes"])
            gymnasium.logger.warn(f"{self} was made without a render_mode, so nothing is drawn; choose from {modes}")
            return None
        return self._library.render(self.render_mode)

    def close(self) -> None:
        """Free the renderer; further calls do nothing."""
        self._robot.close()

    def __str__(self) -> str:
        return str(self.metadata["name"])

    def __reduce__(self) -> tuple[Any, ...]:
        # MuJoCo's and OpenGL's objects are not copied: a copy creates its own and restores the state.
        return type(self), tuple(vars(self._library.arguments).values()), self.snapshot()

    def __setstate__(self, snapshot: Snapshot) -> None:
        self.restore(snapshot)


def parallel_env(
    robot: str,
    conf: str,
    render_mode: str | None = None,
    max_episode_steps: int | None = None,
    agent_obsk: int | None = 1,
    agent_factorization: dict[str, Any] | None = None,
    local_categories: Sequence[Sequence[str]] | None = None,
    global_categories: Sequence[str] | None = None,
    **robot_options: Any,
) -> MultiAgentMujoco:
    """
    Make a robot with several agents as a PettingZoo parallel environment.

    :param robot: name of the robot, one of :func:`robot_names`
    :param conf: factorisation, e.g. ``"3x1"``
    :param render_mode: ``"human"``, ``"rgb_array"``, ``"depth_array"`` or ``None``
    :param max_episode_steps: steps after which an episode is truncated; ``None`` for gymnasium's limit, 1000 for most robots
    :param agent_obsk: distance, in joints, up to which an agent observes positions, 0 for its own joints only; ``None`` for
        one agent that observes and moves everything
    :param agent_factorization: custom factorisation in gymnasium-robotics' form, instead of ``conf``'s
    :param local_categories: quantities observed at each distance, e.g. ``[["qpos", "qvel"], ["qpos"]]``; ``None`` for
        gymnasium-robotics' default
    :param global_categories: quantities of the whole robot that every agent observes; ``None`` for ``("qpos", "qvel")``
    :param robot_options: options of gymnasium's robot, e.g. ``reset_noise_scale``, ``forward_reward_weight``, ``width``
    :raises ValueError: if an option is invalid; the message says what is valid
    :raises TypeError: if the robot does not have an option
    :raises ImportError: if gymnasium-robotics is not installed; the message says what to install
    """
    if agent_obsk is not None:
        check_integer("agent_obsk", agent_obsk, low=0)
    factorisation = {
        "agent_obsk": agent_obsk,
        "agent_factorization": agent_factorization,
        "local_categories": local_categories,
        "global_categories": global_categories,
    }
    return MultiAgentMujoco(robot, conf, render_mode, max_episode_steps, factorisation, robot_options)


def env(robot: str, conf: str, **options: Any) -> AECEnv[str, np.ndarray, Any]:
    """Make a robot with several agents as a PettingZoo AEC environment; options as for :func:`parallel_env`."""
    return parallel_to_aec(parallel_env(robot, conf, **options))


def _as_float32(observations: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {agent: np.asarray(observation, np.float32) for agent, observation in observations.items()}


def _separate(infos: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Copy the infos, because the library gives all agents the same dict."""
    return {agent: dict(info) for agent, info in infos.items()}
