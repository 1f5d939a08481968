"""
Multi-agent MuJoCo: one robot whose joints are divided among agents (Peng et al. 2021, "FACMAC"), by gymnasium-robotics.

An id is ``<robot>_<conf>``: ``hopper_3x1`` is the hopper with three agents of one joint each. All agents get the same
reward and end together. The two ``manysegment`` robots grow with their agents: ``manysegmentswimmer_10x2`` has ten agents of
two joints each. gymnasium-robotics' coupled half-cheetah is not supported: it misreads the tendon Jacobians of MuJoCo 4.

Differences from ``gymnasium_robotics.mamujoco_v1``, on which this module is based:

- Observations have the same order in every copy of an environment; in the library's pusher they do not.
- Observations are float32 instead of float64, because SB3 converts them to float32 anyway; the physics uses float64.
- :meth:`MultiAgentMujoco.snapshot` and :meth:`~MultiAgentMujoco.restore` save and continue an episode bit for bit.
- There is a ``render_mode``. If ``MUJOCO_GL`` is unset and Linux has no display, EGL is used, which needs neither a screen
  nor a GPU; set ``MUJOCO_GL`` to ``osmesa`` or ``glfw`` to override this.
"""

from __future__ import annotations

import inspect
import io
import logging
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import load_env_creator
from pettingzoo import AECEnv, ParallelEnv
from pettingzoo.utils.conversions import parallel_to_aec

from sb3_matrl.envs.option_checks import check_choice, check_integer, check_turns
from sb3_matrl.envs.optional import import_optional
from sb3_matrl.envs.snapshot import Snapshot, check_array, check_keys, check_saved, restored, saved
from sb3_matrl.utils.suggest import did_you_mean, unknown

__all__ = ["MultiAgentMujoco", "env", "env_ids", "factory", "parallel_env", "robot_names"]


@dataclass(frozen=True)
class _Robot:
    """
    Names of a robot in the libraries.

    :param task: name in gymnasium-robotics
    :param spec: id of gymnasium's environment
    :param confs: factorisations; empty if any ``<agents>x<joints>`` is valid
    :param module: module of gymnasium-robotics that writes the model, if it depends on the factorisation
    """

    task: str
    spec: str
    confs: tuple[str, ...] = ()
    module: str | None = None


# gymnasium-robotics has its factorisations only in code (get_parts_and_edges); a test compares.
_ROBOTS = {
    "ant": _Robot("Ant", "Ant-v5", ("2x4", "2x4d", "4x2")),
    "halfcheetah": _Robot("HalfCheetah", "HalfCheetah-v5", ("2x3", "6x1")),
    "hopper": _Robot("Hopper", "Hopper-v5", ("3x1",)),
    "humanoid": _Robot("Humanoid", "Humanoid-v5", ("9|8",)),
    "humanoidstandup": _Robot("HumanoidStandup", "HumanoidStandup-v5", ("9|8",)),
    "pusher": _Robot("Pusher", "Pusher-v5", ("3p",)),
    "reacher": _Robot("Reacher", "Reacher-v5", ("2x1",)),
    "swimmer": _Robot("Swimmer", "Swimmer-v5", ("2x1",)),
    "walker2d": _Robot("Walker2d", "Walker2d-v5", ("2x3",)),
    "manysegmentant": _Robot("ManySegmentAnt", "Ant-v5", module="many_segment_ant"),
    "manysegmentswimmer": _Robot("ManySegmentSwimmer", "Swimmer-v5", module="many_segment_swimmer"),
}
_LOGGER = logging.getLogger(__name__)
_PACKAGE = "gymnasium_robotics.envs.multiagent_mujoco"
# Derived quantities of the last step that gymnasium's rewards and observations read: positions that lag behind the
# joints, momenta and forces. MuJoCo does not recompute all of them from the state before they are read again.
_DERIVED = ("xpos", "xipos", "cinert", "cvel", "qfrc_actuator", "cfrc_ext")


def env_ids() -> list[str]:
    """Ids of all robots with their factorisations, except the ``manysegment`` robots, whose number is unlimited."""
    return [f"{name}_{conf}" for name, robot in _ROBOTS.items() for conf in robot.confs]


def robot_names() -> list[str]:
    """Names of all robots: the first parts of their ids."""
    return list(_ROBOTS)


def factory(env_id: str) -> Callable[..., MultiAgentMujoco]:
    """
    Look up the function that makes a robot.

    :param env_id: ``<robot>_<conf>``
    :return: :func:`parallel_env` for this robot and factorisation
    :raises ValueError: if the robot or the factorisation does not exist; the message lists those that do
    """
    robot, _, conf = env_id.partition("_")
    _check_id(robot, conf, env_id)
    return partial(parallel_env, robot, conf)


class MultiAgentMujoco(ParallelEnv[str, np.ndarray, np.ndarray]):  # type: ignore[misc]  # PettingZoo ships no types
    """
    One robot, controlled by several agents.

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
        _check_id(robot, conf, f"{robot}_{conf}")
        self.metadata: dict[str, Any] = {
            "name": f"{robot}_{conf}",
            "render_modes": ["human", "rgb_array", "depth_array"],
            "is_parallelizable": True,
        }
        _check_render_mode(render_mode, self.metadata["render_modes"])
        self._arguments = (robot, conf, render_mode, max_episode_steps, factorisation, robot_options)
        mamujoco = _library(str(self), "mamujoco_v1")
        self._robot = _make_robot(str(self), _ROBOTS[robot], conf, {**robot_options, "render_mode": render_mode})
        self._env = mamujoco.parallel_env(_ROBOTS[robot].task, conf, gym_env=self._robot, **factorisation)
        _order_joints(self._env)
        _use_tracking_camera(self._robot, robot_options)
        self.metadata["render_fps"] = self._robot.metadata["render_fps"]
        self.render_mode = render_mode
        self._limit = _step_limit(_ROBOTS[robot], max_episode_steps)
        self._elapsed_steps = 0
        self._started = False
        self.possible_agents = list(self._env.possible_agents)
        self.agents: list[str] = []
        self.observation_spaces: dict[str, spaces.Box] = {
            agent: _float32(space) for agent, space in self._env.observation_spaces.items()
        }
        self.action_spaces: dict[str, spaces.Box] = dict(self._env.action_spaces)
        self.state_space = _float32(self._robot.observation_space)

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
        truncated = self._elapsed_steps >= self._limit
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
        data = self._robot.data
        return {
            "physics": _physics(self._robot),
            "derived": {name: getattr(data, name).copy() for name in _DERIVED},
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
        self._check_snapshot(snapshot)
        _set_physics(self._robot, snapshot["physics"])
        for name, values in snapshot["derived"].items():
            getattr(self._robot.data, name)[...] = values
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
        with _rendering_without_display():
            frame = self._robot.render()
        return None if frame is None else np.ascontiguousarray(frame)

    def close(self) -> None:
        """Free the renderer; further calls do nothing."""
        self._robot.close()

    def __str__(self) -> str:
        return str(self.metadata["name"])

    def __reduce__(self) -> tuple[Any, ...]:
        # MuJoCo's and OpenGL's objects are not copied: a copy creates its own and restores the state.
        return type(self), self._arguments, self.snapshot()

    def __setstate__(self, snapshot: Snapshot) -> None:
        self.restore(snapshot)

    def _check_snapshot(self, snapshot: Snapshot) -> None:
        what = f"snapshot of {self}"
        check_keys(what, snapshot, ["physics", "derived", "generator", "elapsed_steps", "running", "started"])
        check_array(f"{what}: 'physics'", snapshot["physics"], _physics(self._robot))
        check_keys(f"{what}: 'derived'", snapshot["derived"], _DERIVED)
        for name, values in snapshot["derived"].items():
            check_array(f"{what}: {name!r}", values, getattr(self._robot.data, name))
        check_saved(f"{what}: 'generator'", self._robot.np_random, snapshot["generator"])
        check_integer(f"{what}: 'elapsed_steps'", snapshot["elapsed_steps"], low=0)
        for name in ("running", "started"):
            check_saved(f"{what}: {name!r}", False, snapshot[name])


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


def _check_id(robot: str, conf: str, env_id: str) -> None:
    if robot not in _ROBOTS:
        raise ValueError(unknown("robot", robot, _ROBOTS))
    confs = _ROBOTS[robot].confs
    if not confs and not _segments(conf):
        form = f"{robot}_<agents>x<joints of each>, two joints or more"
        raise ValueError(f"env {env_id!r} is unknown; expected {form}, e.g. {robot}_2x3")
    if confs and conf not in confs:
        known = [f"{robot}_{name}" for name in confs]
        guess = did_you_mean(env_id, known) if conf and len(known) > 1 else ""
        raise ValueError(f"env {env_id!r} is unknown{guess or ';'} {robot} has: {', '.join(known)}")


def _segments(conf: str) -> int | None:
    """Number of joints of a manysegment robot; ``None`` if ``conf`` is invalid."""
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", conf)
    joints = int(match[1]) * int(match[2]) if match else 0
    return joints if joints >= 2 else None


def _check_render_mode(render_mode: str | None, known: Sequence[str]) -> None:
    if render_mode is not None:
        check_choice("render_mode", render_mode, known)
    if render_mode == "human" and not _has_display():
        raise ValueError("render_mode 'human' needs a display, and there is none; use 'rgb_array'")


def _order_joints(library_env: Any) -> None:
    """
    Fix the order in which agents observe the joints at the same distance.

    The library sorts sets of joints by name, but two joints of the pusher have the same name: their order would differ
    between copies, and a saved policy would confuse them.
    """
    for distances in getattr(library_env, "k_dicts", []):
        for joints in distances.values():
            joints.sort(key=lambda joint: (joint.label, -1 if joint.qpos_ids is None else joint.qpos_ids))


def _use_tracking_camera(robot: Any, options: dict[str, Any]) -> None:
    """
    Render with the model's tracking camera, if it has one and no other camera was chosen.

    Gymnasium's default camera looks at the start position, so that the robot walks out of the picture.
    """
    if not options.keys() & {"camera_id", "camera_name", "default_camera_config"}:
        mujoco = _mujoco()
        robot.mujoco_renderer.camera_id = mujoco.mj_name2id(robot.model, mujoco.mjtObj.mjOBJ_CAMERA, "track")


def _step_limit(robot: _Robot, max_episode_steps: int | None) -> int:
    if max_episode_steps is None:
        return int(gymnasium.spec(robot.spec).max_episode_steps or 1000)
    check_integer("max_episode_steps", max_episode_steps, low=1)
    return max_episode_steps


def _make_robot(name: str, robot: _Robot, conf: str, options: dict[str, Any]) -> Any:
    """Make gymnasium's robot without wrappers: this module enforces time limit and order, so that snapshots include them."""
    _check_options(name, robot, options)
    make = partial(gymnasium.make, robot.spec, max_episode_steps=-1, disable_env_checker=True, **options)
    with _compiler_warnings_hidden():
        if robot.module is None:
            return make().unwrapped
        # The library would write the model into its own folder, where two processes would conflict.
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder, "robot.xml"))
            _library(name, robot.module).gen_asset(_segments(conf), path)
            return make(xml_file=path).unwrapped


def _library(name: str, module: str) -> Any:
    # The library prints unrelated news on import.
    with redirect_stderr(io.StringIO()):
        return import_optional(f"{_PACKAGE}.{module}", f"env {name}", "mujoco")


def _check_options(name: str, robot: _Robot, options: dict[str, Any]) -> None:
    from gymnasium.envs.mujoco import MujocoEnv

    creator: Any = load_env_creator(str(gymnasium.spec(robot.spec).entry_point))
    known = {*inspect.signature(creator).parameters, *inspect.signature(MujocoEnv).parameters}
    known -= {"kwargs", "model_path", "observation_space"} | ({"xml_file"} if robot.module else set())
    for option in options:
        if option not in known:
            raise TypeError(unknown(f"{name}: option", option, sorted(known)))


@contextmanager
def _compiler_warnings_hidden() -> Iterator[None]:
    """
    Send MuJoCo's warnings to Python's log instead of the terminal and a file MUJOCO_LOG.TXT in the current folder.

    They are about deprecated words in gymnasium's model files, which users cannot change.
    """
    mujoco = _mujoco()
    before = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(lambda text: _LOGGER.info("%s", text))
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(before)


def _physics(robot: Any) -> np.ndarray:
    """State of MuJoCo's integrator, including the warm start: float64 (state size,)."""
    mujoco = _mujoco()
    state = np.empty(mujoco.mj_stateSize(robot.model, mujoco.mjtState.mjSTATE_INTEGRATION))
    mujoco.mj_getState(robot.model, robot.data, state, mujoco.mjtState.mjSTATE_INTEGRATION)
    return state


def _set_physics(robot: Any, state: np.ndarray) -> None:
    mujoco = _mujoco()
    mujoco.mj_setState(robot.model, robot.data, state, mujoco.mjtState.mjSTATE_INTEGRATION)
    mujoco.mj_forward(robot.model, robot.data)  # for rendering; changes the warm start
    mujoco.mj_setState(robot.model, robot.data, state, mujoco.mjtState.mjSTATE_INTEGRATION)


def _mujoco() -> Any:
    return import_optional("mujoco", "multi-agent MuJoCo", "mujoco")


def _has_display() -> bool:
    return not sys.platform.startswith("linux") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


@contextmanager
def _rendering_without_display() -> Iterator[None]:
    """Select EGL while rendering if there is no display, and restore the environment variable afterwards."""
    if "MUJOCO_GL" in os.environ or _has_display():
        yield
        return
    os.environ["MUJOCO_GL"] = "egl"
    try:
        yield
    except (ImportError, AttributeError, RuntimeError) as error:
        raise RuntimeError(f"there is no display and EGL cannot draw; try MUJOCO_GL=osmesa ({error})") from error
    finally:
        del os.environ["MUJOCO_GL"]


def _float32(space: spaces.Box) -> spaces.Box:
    return spaces.Box(-np.inf, np.inf, space.shape, np.float32)


def _as_float32(observations: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {agent: np.asarray(observation, np.float32) for agent, observation in observations.items()}


def _separate(infos: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Copy the infos, because the library gives all agents the same dict."""
    return {agent: dict(info) for agent, info in infos.items()}
