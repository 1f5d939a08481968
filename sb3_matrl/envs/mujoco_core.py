"""Batched core of multi-agent MuJoCo: MuJoCo steps the copies one after the other, NumPy computes the rest for all at once.

Trajectories are those of :class:`~sb3_matrl.envs.mamujoco.MultiAgentMujoco`, bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.utils import seeding

from sb3_matrl.envs.core import BatchedCore, CopyInfos, CoreStep
from sb3_matrl.envs.mujoco_library import (
    DERIVED,
    MAX_STEPS,
    ROBOTS,
    Library,
    RobotArguments,
    check_snapshot,
    derived,
    import_mujoco,
    make_library,
    physics,
    set_physics,
)
from sb3_matrl.envs.mujoco_robots import RULES, Motion, RobotRules
from sb3_matrl.envs.mujoco_views import NotSelectedError, Selection, find_selections
from sb3_matrl.envs.option_checks import check_choice, check_integer
from sb3_matrl.envs.snapshot import Snapshot, check_array, check_keys, check_range, check_saved, restored, saved


@dataclass(frozen=True)
class _Plan:
    """
    How to compute the steps of a robot without the libraries' environments.

    :param rules: rules of the robot
    :param arrays: arrays of MuJoCo's data that rewards and observations read
    :param views: agent -> its observation
    :param state: global state
    :param order: position of each of the robot's actuators in the actions of all agents, int (actuators,)
    """

    rules: RobotRules
    arrays: list[str]
    views: dict[str, Selection]
    state: Selection
    order: np.ndarray


def core_obstacle(library: Library) -> str | None:
    """
    Find out why an environment has no core.

    :param library: the libraries' environments
    :return: reason; ``None`` if :class:`MujocoCore` supports the environment
    """
    try:
        _plan(library)
    except NotSelectedError as error:
        return str(error)
    return None


def _plan(library: Library) -> _Plan:
    """
    :raises NotSelectedError: if a core cannot give the same trajectories
    """
    name = library.arguments.robot
    rules = RULES.get(ROBOTS[name].spec)
    if rules is None:
        raise NotSelectedError(f"the rules of the {name} are not batched")
    if library.arguments.render_mode == "human":
        raise NotSelectedError("render_mode 'human' shows one robot in a window")
    order = _actuators(library.env)
    keep = ["qpos", "qvel", *["cfrc_ext"] * rules.needs_forces]
    arrays, views, state = find_selections(library, keep)
    return _Plan(rules(library.robot), arrays, views, state, order)


def _actuators(env: Any) -> np.ndarray:
    """Position of each of the robot's actuators in the actions of all agents."""
    n_actuators = env.single_agent_env.action_space.shape[0]
    moved = [[node.act_ids for node in part] for part in env.agent_action_partitions]
    if len({len(part) for part in moved}) > 1:
        raise NotSelectedError("its agents have different numbers of joints")
    actuators = np.arange(n_actuators)[[actuator for part in moved for actuator in part]]
    if sorted(actuators.tolist()) != list(range(n_actuators)):
        raise NotSelectedError("its factorisation does not give every joint to exactly one agent")
    return np.argsort(actuators)


class MujocoCore(BatchedCore):
    """
    ``num_envs`` copies of a robot with several agents.

    All copies share one model; each has its own MuJoCo data. Copy 0 is the robot of gymnasium's environment, which draws it.

    :param num_envs: number of copies
    :param arguments: options of the environment
    :raises ValueError: if there is a :func:`core_obstacle`
    """

    reads_separate = True

    def __init__(self, num_envs: int, arguments: RobotArguments) -> None:
        check_integer("num_envs", num_envs, low=1)
        self._library = make_library(arguments)
        plan = _plan(self._library)
        self._rules, self._order, self._state = plan.rules, plan.order, plan.state
        self._view, self._view_parts = _joined(plan.views)
        self.num_envs = num_envs
        self.metadata = self._library.metadata
        self.possible_agents = list(plan.views)
        self.observation_spaces = dict(self._library.observation_spaces)
        self.action_spaces = dict(self._library.env.action_spaces)
        self.state_space = self._library.state_space
        self.alive = np.zeros((num_envs, len(self.possible_agents)), dtype=bool)
        self._steps = np.zeros(num_envs, dtype=np.int64)
        self._generators = [seeding.np_random(None)[0] for _ in range(num_envs)]
        self._start_infos: list[dict[str, Any]] = [{} for _ in range(num_envs)]
        self._make_copies(plan.arrays)

    def _make_copies(self, arrays: list[str]) -> None:
        """Make MuJoCo's data of the copies, and views of what is read after every step."""
        self._robot = self._library.robot
        self._mujoco, self._model = import_mujoco(), self._robot.model
        self._data = [self._robot.data, *(self._mujoco.MjData(self._model) for _ in range(self.num_envs - 1))]
        self._controls = [data.ctrl for data in self._data]
        sources = [[getattr(data, name).reshape(-1) for name in arrays] for data in self._data]
        stops = np.cumsum([len(source) for source in sources[0]]).tolist()
        parts = [slice(start, stop) for start, stop in zip([0, *stops], stops, strict=False)]
        self._rows = np.zeros((self.num_envs, stops[-1]))
        self._parts = {name: self._rows[:, part] for name, part in zip(arrays, parts, strict=True)}
        self._transfers = [
            [(row[part], source) for part, source in zip(parts, own, strict=True)]
            for row, own in zip(self._rows, sources, strict=True)
        ]
        axes, body = self._rules.axes, self._rules.body
        self._places = self._parts["qpos"][:, :axes]
        if body is not None:
            self._places = np.zeros((self.num_envs, axes))
            for copy, data in enumerate(self._data):
                self._transfers[copy].append((self._places[copy], data.xpos[body, :axes]))
        self._needs_forces = "cfrc_ext" in arrays
        self._read(range(self.num_envs))

    def replicate(self, num_envs: int) -> MujocoCore:
        """
        Create a new core with the same options.

        :param num_envs: number of copies of the new core
        """
        return type(self)(num_envs, self._library.arguments)

    def seed(self, seeds: Sequence[int | None]) -> None:
        """
        Seed the random generators of the starts.

        :param seeds: one seed per copy; ``None`` continues with the copy's generator
        """
        for copy, seed in enumerate(seeds):
            if seed is not None:
                self._generators[copy] = seeding.np_random(seed)[0]

    def reset(self, copies: np.ndarray | None = None) -> None:
        """
        Start a new episode, near the robot's usual pose.

        :param copies: bool (num_envs,), copies to reset; ``None`` for all
        """
        chosen = np.ones(self.num_envs, dtype=bool) if copies is None else np.asarray(copies, dtype=bool)
        which = np.flatnonzero(chosen).tolist()
        robot = self._robot
        try:
            for copy in which:
                robot.data, robot.np_random = self._data[copy], self._generators[copy]
                self._start_infos[copy] = robot.reset()[1]
        finally:
            robot.data = self._data[0]
        self._read(which)
        self._steps = np.where(chosen, 0, self._steps)
        self.alive = self.alive | chosen[:, None]

    def start_infos(self, copies: np.ndarray) -> CopyInfos:
        """See :meth:`BatchedCore.start_infos`."""
        return {copy: self._for_agents(self._start_infos[copy]) for copy in np.flatnonzero(copies).tolist()}

    def step(self, actions: np.ndarray) -> CoreStep:
        """
        Move the robots whose episodes are running.

        :param actions: (num_envs, n_agents, joints of an agent), within the bounds of the action space or limited to them by
            MuJoCo; rows of copies whose episodes are over are ignored
        :raises ValueError: if an action is not finite; names copy, agent and value
        """
        running = self.alive[:, 0]  # the agents of a copy live and end together
        controls = self._robot_actions(actions, running)
        before = self._places.copy()
        self._move(controls, np.flatnonzero(running).tolist())
        forces = self._parts["cfrc_ext"] if self._rules.needs_forces else None
        motion = Motion(self._parts["qpos"], self._parts["qvel"], forces, before, self._places, controls)
        outcome = self._rules.outcome(motion)
        self._steps = self._steps + running
        terminated, truncated = outcome.terminated & running, (self._steps >= self._library.limit) & running
        self.alive = self._per_agent(running & ~(terminated | truncated))
        return CoreStep(
            rewards=self._per_agent(np.where(running, outcome.rewards, 0.0)),
            terminated=self._per_agent(terminated),
            truncated=self._per_agent(truncated),
            infos=self._infos(outcome.infos, running),
        )

    def _robot_actions(self, actions: np.ndarray, running: np.ndarray) -> np.ndarray:
        """Action of the whole robot in each copy, (num_envs, actuators), as gymnasium's environment gets it."""
        actions = np.asarray(actions)
        shape = (*self.alive.shape, len(self._order) // self.alive.shape[1])
        if actions.shape != shape:
            raise ValueError(f"actions have shape {actions.shape}, expected (num_envs, n_agents, joints) = {shape}")
        if not running.all():
            actions = np.where(running[:, None, None], actions, 0)
        finite = np.isfinite(actions)
        if not finite.all():
            copy, column = np.argwhere(~finite)[0, :2].tolist()
            agent = self.possible_agents[column]
            raise ValueError(
                f"env copy {copy}, agent {agent!r}: action {actions[copy, column].tolist()} is not in "
                f"{self.action_spaces[agent]}"
            )
        chosen = actions.reshape(self.num_envs, -1).take(self._order, axis=1)
        # gymnasium-robotics fills a float64 array, but passes on the action of an only agent as it is.
        return chosen if self._library.env.agent_obsk is None else chosen.astype(np.float64, copy=False)

    def _move(self, controls: np.ndarray, copies: Sequence[int]) -> None:
        model, n_steps = self._model, self._robot.frame_skip
        step, compute_forces = self._mujoco.mj_step, self._mujoco.mj_rnePostConstraint
        for copy in copies:
            data = self._data[copy]
            self._controls[copy][:] = controls[copy]
            step(model, data, n_steps)
            if self._needs_forces:
                compute_forces(model, data)
            for part, source in self._transfers[copy]:
                part[:] = source

    def _read(self, copies: Sequence[int]) -> None:
        for copy in copies:
            for part, source in self._transfers[copy]:
                part[:] = source

    def _per_agent(self, values: np.ndarray) -> np.ndarray:
        """Repeat the value of each copy for its agents: (num_envs, n_agents)."""
        return np.repeat(values[:, None], len(self.possible_agents), axis=1)

    def _infos(self, values: dict[str, np.ndarray], running: np.ndarray) -> CopyInfos:
        rows = zip(*[column.tolist() for column in values.values()], strict=True)
        alive = running.tolist()
        return {copy: self._for_agents(dict(zip(values, row, strict=True))) for copy, row in enumerate(rows) if alive[copy]}

    def _for_agents(self, info: dict[str, Any]) -> dict[str, dict[str, Any]]:
        return {agent: info.copy() for agent in self.possible_agents}

    def observations(self) -> dict[str, np.ndarray]:
        """Observation of every agent: float32 (num_envs, size)."""
        values = self._view(self._rows)
        return {agent: values[:, part].astype(np.float32) for agent, part in self._view_parts.items()}

    def state(self) -> np.ndarray:
        """Global state, the observation of gymnasium's single agent: float32 (num_envs, state size)."""
        return self._state(self._rows).astype(np.float32)

    @property
    def can_snapshot(self) -> bool:
        """Always true."""
        return True

    def snapshot(self) -> Snapshot:
        """
        Save the complete state of all copies.

        :return: physics (num_envs, state size), derived quantities of the last step (num_envs, ...), random generators, step
            counters (num_envs,), and live agents (num_envs, n_agents)
        """
        quantities = [derived(data) for data in self._data]
        return {
            "physics": np.stack([physics(self._model, data) for data in self._data]),
            "derived": {name: np.stack([values[name] for values in quantities]) for name in DERIVED},
            "generators": saved("generators", self._generators),
            "elapsed_steps": self._steps.copy(),
            "alive": self.alive.copy(),
        }

    def restore(self, snapshot: Snapshot) -> None:
        """
        Restore a snapshot of a core with the same options and number of copies.

        :param snapshot: return value of :meth:`snapshot`; it is copied
        :raises ValueError: if the snapshot does not fit; nothing is changed then
        """
        self._check_snapshot(snapshot)
        for copy, data in enumerate(self._data):
            quantities = {name: values[copy] for name, values in snapshot["derived"].items()}
            set_physics(self._model, data, snapshot["physics"][copy], quantities)
        restored(self._generators, snapshot["generators"])
        self._steps, self.alive = snapshot["elapsed_steps"].copy(), snapshot["alive"].copy()
        self._read(range(self.num_envs))

    def _check_snapshot(self, snapshot: Snapshot) -> None:
        what, own = f"snapshot of {self._library.arguments}", self.snapshot()
        check_keys(what, snapshot, own)
        for name in ("physics", "elapsed_steps", "alive"):
            check_array(f"{what}: {name!r}", snapshot[name], own[name])
        check_range(f"{what}: 'elapsed_steps'", snapshot["elapsed_steps"], MAX_STEPS)
        check_keys(f"{what}: 'derived'", snapshot["derived"], DERIVED)
        for name in DERIVED:
            check_array(f"{what}: {name!r}", snapshot["derived"][name], own["derived"][name])
        check_saved(f"{what}: 'generators'", self._generators, snapshot["generators"])
        if (snapshot["alive"] != snapshot["alive"][:, :1]).any():
            raise ValueError(f"{what}: 'alive' must be equal for the agents of a copy, which end together")

    def restore_separate(self, snapshots: Sequence[Snapshot]) -> None:
        """
        Restore snapshots of environments that were stepped one by one.

        :param snapshots: return values of :meth:`sb3_matrl.envs.mamujoco.MultiAgentMujoco.snapshot`, one per copy
        :raises ValueError: if a snapshot does not fit; nothing is changed then
        """
        for copy, snapshot in enumerate(snapshots):
            check_snapshot(f"env copy {copy}, snapshot of {self._library.arguments}", snapshot, self._robot)
        self.restore(
            {
                "physics": np.stack([snapshot["physics"] for snapshot in snapshots]),
                "derived": {name: np.stack([snapshot["derived"][name] for snapshot in snapshots]) for name in DERIVED},
                "generators": [snapshot["generator"] for snapshot in snapshots],
                "elapsed_steps": np.array([snapshot["elapsed_steps"] for snapshot in snapshots], dtype=np.int64),
                "alive": self._per_agent(np.array([snapshot["running"] for snapshot in snapshots])),
            }
        )

    def render(self, mode: str) -> np.ndarray:
        """
        Render copy 0.

        :param mode: ``"rgb_array"`` or ``"depth_array"``
        :return: uint8 (height, width, 3) or float32 (height, width)
        :raises RuntimeError: if there is neither a display nor EGL
        """
        check_choice("mode", mode, ["rgb_array", "depth_array"])
        return np.asarray(self._library.render(mode))

    def close(self) -> None:
        """Free the renderer; further calls do nothing."""
        self._robot.close()


def _joined(views: Mapping[str, Selection]) -> tuple[Selection, dict[str, slice]]:
    """Selection of the numbers of all agents, one agent after the other, and the numbers of each agent."""
    columns = (np.concatenate([getattr(view, name) for view in views.values()]) for name in ("index", "low", "high"))
    stops = np.cumsum([len(view.index) for view in views.values()]).tolist()
    return Selection(*columns), dict(zip(views, map(slice, [0, *stops], stops), strict=True))
