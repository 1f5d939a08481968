"""Robots as gymnasium makes them, divided among agents by gymnasium-robotics: names, options, physics and rendering."""

from __future__ import annotations

import inspect
import io
import logging
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import load_env_creator

from sb3_matrl.envs.option_checks import check_choice, check_integer
from sb3_matrl.envs.optional import import_optional
from sb3_matrl.envs.snapshot import check_array, check_keys, check_saved
from sb3_matrl.utils.suggest import did_you_mean, unknown

RENDER_MODES = ("human", "rgb_array", "depth_array")


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
ROBOTS = {
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
# Longer episodes are refused in snapshots: batched counters are 64-bit integers.
MAX_STEPS = 2**62
_LOGGER = logging.getLogger(__name__)
PACKAGE = "gymnasium_robotics.envs.multiagent_mujoco"
# Derived quantities of the last step that gymnasium's rewards and observations read: positions that lag behind the
# joints, momenta and forces. MuJoCo does not recompute all of them from the state before they are read again.
DERIVED = ("xpos", "xipos", "cinert", "cvel", "qfrc_actuator", "cfrc_ext")


@dataclass(frozen=True)
class RobotArguments:
    """
    Options that determine an environment.

    :param robot: name of the robot, one of :data:`ROBOTS`
    :param conf: factorisation
    :param render_mode: ``"human"``, ``"rgb_array"``, ``"depth_array"`` or ``None``
    :param max_episode_steps: steps after which an episode is truncated; ``None`` for gymnasium's limit, 1000 for most robots
    :param factorisation: options of gymnasium-robotics, see :func:`sb3_matrl.envs.mamujoco.parallel_env`
    :param robot_options: options of gymnasium's robot
    """

    robot: str
    conf: str
    render_mode: str | None
    max_episode_steps: int | None
    factorisation: Mapping[str, Any]
    robot_options: Mapping[str, Any]

    def __str__(self) -> str:
        return f"{self.robot}_{self.conf}"


@dataclass(frozen=True)
class Library:
    """
    The libraries' environments.

    :param arguments: options that they were made with
    :param robot: gymnasium's environment, without wrappers: time limit and order are not enforced
    :param env: gymnasium-robotics' environment, which steps ``robot``
    :param limit: steps after which an episode is truncated
    """

    arguments: RobotArguments
    robot: Any
    env: Any
    limit: int

    @property
    def observation_spaces(self) -> dict[str, spaces.Box]:
        """Agent -> observation space, float32."""
        return {agent: float32_space(space) for agent, space in self.env.observation_spaces.items()}

    @property
    def state_space(self) -> spaces.Box:
        """Space of the global state, float32."""
        return float32_space(self.robot.observation_space)

    @property
    def metadata(self) -> dict[str, Any]:
        """PettingZoo's metadata."""
        return {
            "name": str(self.arguments),
            "render_modes": list(RENDER_MODES),
            "is_parallelizable": True,
            "render_fps": self.robot.metadata["render_fps"],
        }

    def render(self, mode: str) -> np.ndarray | None:
        """
        Render the robot.

        :param mode: one of :data:`RENDER_MODES`
        :return: uint8 (height, width, 3) for ``"rgb_array"``, float32 (height, width) for ``"depth_array"``, otherwise
            ``None``
        :raises RuntimeError: if there is neither a display nor EGL
        """
        with _rendering_without_display():
            frame = self.robot.mujoco_renderer.render(mode)
        return None if frame is None else np.ascontiguousarray(frame)


def make_library(arguments: RobotArguments) -> Library:
    """
    Make a robot and divide it among agents.

    :param arguments: options
    :raises ValueError: if an option is invalid
    :raises TypeError: if the robot does not have an option
    :raises ImportError: if gymnasium-robotics is not installed; the message says what to install
    """
    name, kind, options = str(arguments), ROBOTS[arguments.robot], dict(arguments.robot_options)
    _check_render_mode(arguments.render_mode)
    mamujoco = _library(name, "mamujoco_v1")
    robot = _make_robot(name, kind, arguments.conf, {**options, "render_mode": arguments.render_mode})
    env = mamujoco.parallel_env(kind.task, arguments.conf, gym_env=robot, **arguments.factorisation)
    _order_joints(env)
    _use_tracking_camera(robot, options)
    return Library(arguments, robot, env, _step_limit(kind, arguments.max_episode_steps))


def check_id(robot: str, conf: str, env_id: str) -> None:
    """
    Check that a robot and its factorisation exist.

    :param robot: name of the robot
    :param conf: factorisation
    :param env_id: id, for the message
    :raises ValueError: if they do not; the message lists those that do
    """
    if robot not in ROBOTS:
        raise ValueError(unknown("robot", robot, ROBOTS))
    confs = ROBOTS[robot].confs
    if not confs and not _segments(conf):
        form = f"{robot}_<agents>x<joints of each>, two joints or more"
        raise ValueError(f"env {env_id!r} is unknown; expected {form}, e.g. {robot}_2x3")
    if confs and conf not in confs:
        known = [f"{robot}_{name}" for name in confs]
        guess = did_you_mean(env_id, known) if conf and len(known) > 1 else ""
        raise ValueError(f"env {env_id!r} is unknown{guess or ';'} {robot} has: {', '.join(known)}")


def check_snapshot(what: str, snapshot: Any, robot: Any) -> None:
    """
    Check the snapshot of an environment.

    :param what: name of the snapshot, for messages
    :param snapshot: snapshot, see :meth:`sb3_matrl.envs.mamujoco.MultiAgentMujoco.snapshot`
    :param robot: gymnasium's environment, with the same options
    :raises ValueError: if the snapshot does not fit
    """
    check_keys(what, snapshot, ["physics", "derived", "generator", "elapsed_steps", "running", "started"])
    check_array(f"{what}: 'physics'", snapshot["physics"], physics(robot.model, robot.data))
    check_keys(f"{what}: 'derived'", snapshot["derived"], DERIVED)
    for name, values in snapshot["derived"].items():
        check_array(f"{what}: {name!r}", values, getattr(robot.data, name))
    check_saved(f"{what}: 'generator'", robot.np_random, snapshot["generator"])
    check_integer(f"{what}: 'elapsed_steps'", snapshot["elapsed_steps"], low=0, high=MAX_STEPS)
    for name in ("running", "started"):
        check_saved(f"{what}: {name!r}", False, snapshot[name])


def _segments(conf: str) -> int | None:
    """Number of joints of a manysegment robot; ``None`` if ``conf`` is invalid."""
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", conf)
    joints = int(match[1]) * int(match[2]) if match else 0
    return joints if joints >= 2 else None


def _check_render_mode(render_mode: str | None) -> None:
    if render_mode is not None:
        check_choice("render_mode", render_mode, RENDER_MODES)
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
        mujoco = import_mujoco()
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
        return import_optional(f"{PACKAGE}.{module}", f"env {name}", "mujoco")


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
    mujoco = import_mujoco()
    before = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(lambda text: _LOGGER.info("%s", text))
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(before)


def physics(model: Any, data: Any) -> np.ndarray:
    """State of MuJoCo's integrator, including the warm start: float64 (state size,)."""
    mujoco = import_mujoco()
    state = np.empty(mujoco.mj_stateSize(model, mujoco.mjtState.mjSTATE_INTEGRATION))
    mujoco.mj_getState(model, data, state, mujoco.mjtState.mjSTATE_INTEGRATION)
    return state


def derived(data: Any) -> dict[str, np.ndarray]:
    """Copies of the derived quantities that rewards and observations read."""
    return {name: getattr(data, name).copy() for name in DERIVED}


def set_physics(model: Any, data: Any, state: np.ndarray, derived: Mapping[str, np.ndarray]) -> None:
    """
    Set the state of the physics.

    :param model: MuJoCo's model
    :param data: MuJoCo's data, changed in place
    :param state: return value of :func:`physics`
    :param derived: return value of :func:`derived`
    """
    mujoco = import_mujoco()
    mujoco.mj_setState(model, data, state, mujoco.mjtState.mjSTATE_INTEGRATION)
    mujoco.mj_forward(model, data)  # for rendering; changes the warm start
    mujoco.mj_setState(model, data, state, mujoco.mjtState.mjSTATE_INTEGRATION)
    for name, values in derived.items():
        getattr(data, name)[...] = values


def import_mujoco() -> Any:
    """
    The module ``mujoco``.

    :raises ImportError: if it is not installed; the message says what to install
    """
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


def float32_space(space: spaces.Box) -> spaces.Box:
    """Unbounded float32 space with the shape of ``space``."""
    return spaces.Box(-np.inf, np.inf, space.shape, np.float32)
