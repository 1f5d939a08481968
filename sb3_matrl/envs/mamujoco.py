"""
Multi-agent MuJoCo: one robot, its joints shared out among agents (Peng et al. 2021, "FACMAC"), by gymnasium-robotics.

An id is ``<robot>_<conf>``: ``hopper_3x1`` is the hopper with three agents of one joint each. All agents are paid the
same reward and end together. The two ``manysegment`` robots grow with their agents: ``manysegmentswimmer_10x2`` has ten
agents of two joints each. gymnasium-robotics' coupled half-cheetah is left out: it fails with MuJoCo 4, whose tendon
Jacobians it misreads.

What differs from ``gymnasium_robotics.mamujoco_v1``, which does the work:

- Every copy of an environment orders its observations alike; the library's pusher does not.
- Observations are float32 (there float64). SB3 stores and feeds its networks float32 whatever it is given, so nothing is
  lost; the physics goes on in float64.
- :meth:`MultiAgentMujoco.snapshot` and :meth:`~MultiAgentMujoco.restore` save and continue an episode bit for bit.
- There is a ``render_mode``. Where ``MUJOCO_GL`` is unset and Linux has no display, pictures are drawn by EGL, which needs
  neither a screen nor a GPU; set ``MUJOCO_GL`` to ``osmesa`` or ``glfw`` to choose yourself.
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
    :param task: gymnasium-robotics' name
    :param spec: gymnasium's environment
    :param confs: the factorisations; empty where any ``<agents>x<joints>`` will do
    :param module: gymnasium-robotics' module that writes the model, where it depends on the factorisation
    """

    task: str
    spec: str
    confs: tuple[str, ...] = ()
    module: str | None = None


# gymnasium-robotics spells its factorisations out in code alone (get_parts_and_edges); a test compares.
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
# What gymnasium's rewards and observations read of the last step's derived quantities: positions that lag behind the
# joints, momenta and forces. MuJoCo computes them from the state, but not all of them before they are read again.
_DERIVED = ("xpos", "xipos", "cinert", "cvel", "qfrc_actuator", "cfrc_ext")


def env_ids() -> list[str]:
    """Ids of all robots with their factorisations, without those of the ``manysegment`` robots, which are endless."""
    return [f"{name}_{conf}" for name, robot in _ROBOTS.items() for conf in robot.confs]


def robot_names() -> list[str]:
    """The first parts of all ids."""
    return list(_ROBOTS)


def factory(env_id: str) -> Callable[..., MultiAgentMujoco]:
    """
    :param env_id: ``<robot>_<conf>``
    :return: :func:`parallel_env` for it
    :raises ValueError: when there is no such robot, or it has no such factorisation; lists those that exist
    """
    robot, _, conf = env_id.partition("_")
    _check_id(robot, conf, env_id)
    return partial(parallel_env, robot, conf)


class MultiAgentMujoco(ParallelEnv[str, np.ndarray, np.ndarray]):  # type: ignore[misc]  # PettingZoo ships no types
    """
    One robot, controlled by several agents.

    :param robot: one of :func:`robot_names`
    :param conf: the factorisation
    :param render_mode: ``"human"``, ``"rgb_array"``, ``"depth_array"`` or ``None``
    :param max_episode_steps: when to truncate; ``None`` for gymnasium's own limit, 1000 for most robots
    :param factorisation: gymnasium-robotics' options, as for :func:`parallel_env`
    :param robot_options: options of gymnasium's robot
    :raises ValueError: on an invalid option
    :raises TypeError: on an option that the robot does not have
    :raises ImportError: when gymnasium-robotics is not installed; says how to install it
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
        _follow(self._robot, robot_options)
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
        """What gymnasium's single agent observes: float32, (state size,)."""
        return np.asarray(self._env.state(), np.float32)

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, dict[str, Any]]]:
        """
        Start a new episode, near the robot's usual pose.

        :param seed: seeds the world where it is not ``None``
        :param options: ignored, PettingZoo's signature
        :return: observations and infos of all agents
        """
        observations, infos = self._env.reset(seed=seed, options=options)
        self._elapsed_steps, self._started = 0, True
        self.agents = list(self.possible_agents)
        return _as_float32(observations), _apart(infos)

    def step(
        self, actions: dict[str, np.ndarray]
    ) -> tuple[dict[str, np.ndarray], dict[str, float], dict[str, bool], dict[str, bool], dict[str, dict[str, Any]]]:
        """
        Move the robot.

        :param actions: one action for every agent, of the shape of its space
        :return: observations, rewards, terminations, truncations and infos of all agents
        :raises RuntimeError: before the first reset and after the episode's end
        :raises ValueError: when an agent's action is missing, or somebody else has one
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
            _apart(infos),
        )

    def snapshot(self) -> Snapshot:
        """
        Everything that decides the future, given the options and the actions.

        :return: the physics and what lags behind it, the random generator, the step counter, and whether an episode is
            running and whether one ever was
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
        Go on from a snapshot, taken from an environment with the same options.

        :param snapshot: what :meth:`snapshot` returned; it is copied
        :raises ValueError: when it does not fit; says what is wrong, and changes nothing
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
        Draw the robot as ``render_mode`` says.

        :return: uint8 (height, width, 3) for ``"rgb_array"``, float32 (height, width) for ``"depth_array"``, else ``None``
        :raises RuntimeError: when nothing here can draw
        """
        if self.render_mode is None:
            modes = ", ".join(self.metadata["render_modes"])
            gymnasium.logger.warn(f"{self} was made without a render_mode, so nothing is drawn; choose from {modes}")
            return None
        with _drawing_without_display():
            frame = self._robot.render()
        return None if frame is None else np.ascontiguousarray(frame)

    def close(self) -> None:
        """Give the renderer back. May be called repeatedly."""
        self._robot.close()

    def __str__(self) -> str:
        return str(self.metadata["name"])

    def __reduce__(self) -> tuple[Any, ...]:
        # MuJoCo's and OpenGL's objects stay here: a copy is made anew and goes on from the same state.
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

    :param robot: one of :func:`robot_names`
    :param conf: the factorisation, e.g. ``"3x1"``
    :param render_mode: ``"human"``, ``"rgb_array"``, ``"depth_array"`` or ``None``
    :param max_episode_steps: when to truncate; ``None`` for gymnasium's own limit, 1000 for most robots
    :param agent_obsk: how many joints away an agent still sees positions, 0 for its own alone; ``None`` makes it one agent
        that sees and moves everything
    :param agent_factorization: a factorisation of your own, in gymnasium-robotics' form, instead of ``conf``'s
    :param local_categories: what is seen at each distance, e.g. ``[["qpos", "qvel"], ["qpos"]]``; ``None`` for the usual
    :param global_categories: what every agent sees of the robot as a whole; ``None`` for ``("qpos", "qvel")``
    :param robot_options: options of gymnasium's robot, e.g. ``reset_noise_scale``, ``forward_reward_weight``, ``width``
    :raises ValueError: on an invalid option; names it and says what is valid
    :raises TypeError: on an option that the robot does not have
    :raises ImportError: when gymnasium-robotics is not installed; says how to install it
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
    """Number of joints of a manysegment robot, ``None`` where ``conf`` makes no sense."""
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
    Have every agent see the joints at one distance in one order, always.

    The library sorts sets of them by name, and gives two of the pusher's joints the same one: their places would change from
    one copy to the next, and a saved policy would take one for the other.
    """
    for distances in getattr(library_env, "k_dicts", []):
        for joints in distances.values():
            joints.sort(key=lambda joint: (joint.label, -1 if joint.qpos_ids is None else joint.qpos_ids))


def _follow(robot: Any, options: dict[str, Any]) -> None:
    """
    Film with the model's tracking camera where it has one, and no other was asked for.

    Gymnasium's renderer knows it and yet looks at where the robot began, so that it walks out of the picture.
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
    """Gymnasium's robot, without wrappers: time limit and order are kept here, where snapshots see them."""
    _check_options(name, robot, options)
    make = partial(gymnasium.make, robot.spec, max_episode_steps=-1, disable_env_checker=True, **options)
    with _compiler_warnings_hidden():
        if robot.module is None:
            return make().unwrapped
        # The library writes the model into its own folder, where two processes would collide.
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder, "robot.xml"))
            _library(name, robot.module).gen_asset(_segments(conf), path)
            return make(xml_file=path).unwrapped


def _library(name: str, module: str) -> Any:
    # On import it prints news about robot hands.
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
    Python's log for MuJoCo's warnings, which would go to the terminal and a file MUJOCO_LOG.TXT in the current folder.

    They are about deprecated words in gymnasium's model files, which its users cannot change.
    """
    mujoco = _mujoco()
    before = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(lambda text: _LOGGER.info("%s", text))
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(before)


def _physics(robot: Any) -> np.ndarray:
    """All that MuJoCo's integrator starts from, warm start included: float64, (state size,)."""
    mujoco = _mujoco()
    state = np.empty(mujoco.mj_stateSize(robot.model, mujoco.mjtState.mjSTATE_INTEGRATION))
    mujoco.mj_getState(robot.model, robot.data, state, mujoco.mjtState.mjSTATE_INTEGRATION)
    return state


def _set_physics(robot: Any, state: np.ndarray) -> None:
    mujoco = _mujoco()
    mujoco.mj_setState(robot.model, robot.data, state, mujoco.mjtState.mjSTATE_INTEGRATION)
    mujoco.mj_forward(robot.model, robot.data)  # what pictures are drawn from; it changes the warm start
    mujoco.mj_setState(robot.model, robot.data, state, mujoco.mjtState.mjSTATE_INTEGRATION)


def _mujoco() -> Any:
    return import_optional("mujoco", "multi-agent MuJoCo", "mujoco")


def _has_display() -> bool:
    return not sys.platform.startswith("linux") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


@contextmanager
def _drawing_without_display() -> Iterator[None]:
    """Let gymnasium choose EGL where its own choice, a window, must fail; the variable is set back afterwards."""
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


def _apart(infos: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The library gives all agents one and the same dict."""
    return {agent: dict(info) for agent, info in infos.items()}
