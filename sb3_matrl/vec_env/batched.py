"""Backend that steps all copies of a batched core in one call."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from sb3_matrl.envs.core import BatchableEnv, CopyInfos, CoreStep
from sb3_matrl.envs.rendering import Window
from sb3_matrl.envs.snapshot import Snapshot, check_keys
from sb3_matrl.vec_env.backend import Backend, BackendStep, Start, separate_copies
from sb3_matrl.vec_env.describe import snapshot_obstacle
from sb3_matrl.vec_env.errors import DataFault
from sb3_matrl.vec_env.global_state import NoState, StateFormat, States, declared_format
from sb3_matrl.vec_env.spaces import mask_rows
from sb3_matrl.vec_env.step import JointObservation

_NO_COPIES = (
    "the copies of {env} are stepped as one batched world, so there is no separate env per copy to {what}; "
    "make them with vec_env='dummy' or vec_env='subproc' for that"
)


class BatchedBackend(Backend):
    """
    Steps a core with ``num_envs`` copies, made by ``env``.

    Attributes are read from ``env`` itself, which is never stepped.

    :param env: ParallelEnv that makes the core; closed together with the backend
    :param num_envs: number of copies
    :param states: whether the core's global states are given: True, False, or ``"auto"``: if they can be used
    :raises NoState: if ``states`` is True, and they cannot be used
    """

    layout = "batched"

    def __init__(self, env: BatchableEnv, num_envs: int, states: States = False) -> None:
        self.env: Any = env
        self.snapshot_obstacle = snapshot_obstacle(env)
        self.core = env.make_core(num_envs)
        self.num_envs = num_envs
        self.agents = list(self.core.possible_agents)
        self.observation_spaces = {agent: self.core.observation_spaces[agent] for agent in self.agents}
        self.action_spaces = {agent: self.core.action_spaces[agent] for agent in self.agents}
        shapes = {agent: space.shape for agent, space in self.action_spaces.items()}
        if len(set(shapes.values())) > 1:
            raise ValueError(f"{env}: the actions of a batched core have equal shapes for all agents, got {shapes}")
        self.render_mode = getattr(env, "render_mode", None)
        self._find_state(states)
        self._actions: dict[str, np.ndarray] | None = None
        self._window: Window | None = None
        self._closed = False

    def _find_state(self, states: States) -> None:
        self._state_format: StateFormat | None = None
        try:
            self._state_format = declared_format(self.core)
        except NoState:
            if states is True:
                raise
        if self._state_format is None:
            if states is True:
                raise NoState(self.env, "its core has no state_space")
            return
        self.state_space, self.with_states = self._state_format.space, bool(states)

    def _states(self) -> np.ndarray | None:
        """Current states of all copies, if they were asked for."""
        if not self.with_states or self._state_format is None:
            return None
        try:
            return self._state_format.rows(self.core.state(), self.num_envs)
        except ValueError as error:
            raise DataFault(0, str(error)) from None

    def _final_states(self, dones: np.ndarray) -> np.ndarray | None:
        states = self._states()
        return None if states is None else np.where(dones[:, None], states, np.float32(0.0))

    def reset(self, seeds: Sequence[int | None], options: Sequence[dict[str, Any]]) -> Start:
        """See :meth:`Backend.reset`; options are ignored, as by the core's PettingZoo view."""
        if any(seed is not None for seed in seeds):
            self.core.seed(list(seeds))
        self.core.reset()
        return self._start(self.core.start_infos(np.ones(self.num_envs, dtype=bool)))

    def snapshot(self) -> Snapshot:
        return self.core.snapshot()

    def restore(self, snapshot: Snapshot) -> Start:
        if self.core.reads_separate and snapshot.keys() == {"copies"}:
            copies = separate_copies(snapshot, self.num_envs)
            for index, copy in enumerate(copies):
                check_keys(f"env copy {index}, snapshot", copy, ["env", "life", "rows"])
            self.core.restore_separate([copy["env"] for copy in copies])
        else:
            self.core.restore(snapshot)
        return self._start({})

    def _start(self, infos: CopyInfos) -> Start:
        alive, acting = self.core.alive.copy(), self.core.acting.copy()
        return Start(self._masked(self.core.observations(), alive), alive, acting, infos, self._states())

    @property
    def readable_layouts(self) -> tuple[str, ...]:
        return (self.layout, "separate") if self.core.reads_separate else (self.layout,)

    def step_async(self, actions: dict[str, np.ndarray]) -> None:
        self._actions = actions

    def step_wait(self) -> BackendStep:
        assert self._actions is not None, "call step_async() first"
        step = self.core.step(self._joint_action(self._actions))
        self._actions = None
        final = self._final_observations(step)
        dones = ~np.logical_or.reduce(self.core.alive, axis=1)
        reset_infos: CopyInfos = {}
        final_states = None
        if np.count_nonzero(dones):
            final_states = self._final_states(dones)
            self.core.reset(dones)
            reset_infos = self.core.start_infos(dones)
        alive, acting = self.core.alive.copy(), self.core.acting.copy()
        observations = self._masked(self.core.observations(), alive)
        return BackendStep(
            observations=observations,
            rewards=step.rewards,
            terminated=step.terminated,
            truncated=step.truncated,
            alive=alive,
            acting=acting,
            dones=dones,
            final_observations=final,
            infos=step.infos,
            reset_infos=reset_infos,
            states=self._states(),
            final_states=final_states,
        )

    def _joint_action(self, actions: dict[str, np.ndarray]) -> np.ndarray:
        """Stack the agents' actions, whose shapes are equal: (num_envs, n_agents, ...)."""
        shape, dtype = actions[self.agents[0]].shape, np.result_type(*actions.values())
        joint_action = np.empty((self.num_envs, len(self.agents), *shape[1:]), dtype)
        for column, agent in enumerate(self.agents):
            joint_action[:, column] = actions[agent]
        return joint_action

    def _final_observations(self, step: CoreStep) -> JointObservation | None:
        ended = step.terminated | step.truncated
        return self._masked(self.core.observations(), ended) if np.count_nonzero(ended) else None

    def _masked(self, observations: JointObservation, keep: np.ndarray) -> JointObservation:
        """Zero the rows of agents that are not in ``keep`` (num_envs, n_agents)."""
        if np.count_nonzero(keep) < keep.size:
            for column, agent in enumerate(self.agents):
                mask_rows(observations[agent], keep[:, column])
        return {agent: observations[agent] for agent in self.agents}

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self.env.close()
            self.core.close()
            if self._window is not None:
                self._window.close()

    def get_attr(self, name: str, copies: Sequence[int]) -> list[Any]:
        return [getattr(self.env, name) for _ in copies]

    def set_attr(self, name: str, value: Any, copies: Sequence[int]) -> None:
        raise NotImplementedError(_NO_COPIES.format(env=self.env, what=f"set {name!r} on"))

    def env_method(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], copies: Sequence[int]) -> list[Any]:
        raise NotImplementedError(_NO_COPIES.format(env=self.env, what=f"call {name}() on"))

    def env_is_wrapped(self, wrapper_class: type[Any], copies: Sequence[int]) -> list[bool]:
        return [False for _ in copies]

    def render(self, mode: str | None) -> Any:
        if mode is None:
            warnings.warn(f"nothing is drawn: {self.env} was made without a render_mode", stacklevel=3)
            return None
        if mode != "human":
            return self.core.render(mode)
        self._window = self._window or Window(str(self.env), self.env.metadata["render_fps"])
        self._window.show(np.asarray(self.core.render("rgb_array")))
        return None
