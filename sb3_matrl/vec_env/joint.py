"""The multi-agent VecEnv: an SB3 VecEnv whose spaces, observations and actions are dicts keyed by agent."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv

from sb3_matrl.envs.snapshot import Snapshot, check_keys
from sb3_matrl.utils.agent_names import AgentDict
from sb3_matrl.vec_env.backend import AgentInfos, Backend, BackendStep, Start
from sb3_matrl.vec_env.episodes import Episodes, check_seeds
from sb3_matrl.vec_env.errors import CopyFailure, DataFault, EnvDataError, EnvError, WorkerLost
from sb3_matrl.vec_env.global_state import check_states
from sb3_matrl.vec_env.masks import ActionMasks, options_of
from sb3_matrl.vec_env.spaces import row_of
from sb3_matrl.vec_env.step import JointObservation, JointStep
from sb3_matrl.vec_env.value_checks import ActionCheck, ObservationCheck, check_rewards

T = TypeVar("T")

# "action_masks" is optional: present only if envs put masks into their infos.
_SNAPSHOT_KEYS = ("layout", "num_envs", "agents", "pending_seeds", "episodes", "envs", "action_masks")


def copy_seeds(seed: int, num_envs: int) -> list[int]:
    """
    Draw seeds for the copies: ``seed`` itself for copy 0, independent seeds for the others.

    :param seed: non-negative integer
    :param num_envs: number of copies
    :return: ``num_envs`` distinct integers; the first ``k`` do not depend on ``num_envs``
    """
    seeds = [seed]
    root = np.random.SeedSequence(seed)
    while len(seeds) < num_envs:
        candidate = int(root.spawn(1)[0].generate_state(1)[0])
        if candidate not in seeds:
            seeds.append(candidate)
    return seeds


class JointVecEnv(VecEnv):
    """
    Copies of a PettingZoo ParallelEnv as one SB3 VecEnv.

    Use :func:`~sb3_matrl.vec_env.factory.make_joint_vec_env` to create one. Observations and actions are dicts keyed by
    agent, with a leading axis for the copies. A copy's episode is over when its last agent has ended; the copy is then
    reset automatically, as in every SB3 VecEnv.

    Attributes in addition to SB3's:

    - ``agents``: possible agents, in the order of all columns and of the Dict spaces; names that are no strings, such as
      numbers, are given as text, while all dicts and :meth:`step` accept the env's own names too
    - ``observation_spaces``, ``action_spaces``: agent -> space
    - ``alive``: bool (num_envs, n_agents), agents that are present; valid after :meth:`reset`, :meth:`restore` and every
      step
    - ``acting``: bool (num_envs, n_agents), agents that choose the next action: all that are alive, unless agents take turns
    - ``action_masks``: agent -> bool (num_envs, mask size), legal actions of agents that have masks; see
      :class:`~sb3_matrl.vec_env.masks.ActionMasks`
    - ``state_space``: space of the envs' global state, flattened: Box (state size,) of float32; ``None`` if the envs have no
      state that can be used. Envs without the attribute ``state_space`` must be made with ``states=True`` to be asked
    - ``with_states``: whether the copies were made with ``states=True``, so that :attr:`states` can be read
    - ``last_step``: :class:`~sb3_matrl.vec_env.step.JointStep` of the last step, ``None`` after a reset
    - ``moves``: number of resets, steps and restores so far; it tells whether others used the env in the meantime

    :param backend: backend that steps the copies; owned by this object
    :param seed: seed of the first reset, see :meth:`seed`
    :param check_bounds: whether observations are checked against the bounds of their spaces; NaN and infinity are never
        accepted
    """

    def __init__(self, backend: Backend, seed: int | None = None, check_bounds: bool = True) -> None:
        self.backend = backend
        self.agents = list(backend.agents)
        self.observation_spaces = self._by_agent(dict(backend.observation_spaces))
        self.action_spaces = self._by_agent(dict(backend.action_spaces))
        self.state_space = backend.state_space
        self.with_states = backend.with_states
        self._states: np.ndarray | None = None
        super().__init__(
            backend.num_envs,
            spaces.Dict(OrderedDict(self.observation_spaces)),  # gymnasium sorts a plain dict
            spaces.Dict(OrderedDict(self.action_spaces)),
        )
        self.alive = self.acting = np.zeros((self.num_envs, len(self.agents)), dtype=bool)
        self.action_masks: dict[str, np.ndarray] = {}
        self.last_step: JointStep | None = None
        self.moves = 0
        self._check_observations = ObservationCheck(self.observation_spaces, check_bounds)
        self._check_actions = ActionCheck(self.action_spaces, self.num_envs)
        self._masks = ActionMasks(self.observation_spaces, self.action_spaces, self.num_envs)
        self._episodes = Episodes(self.num_envs, self.agents)
        self._actions: dict[str, np.ndarray] | None = None  # actions of the last step, for messages
        self._running = False
        self._waiting = False
        self._closed = False
        self.seed(seed)

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """
        Set the seeds of the copies for the next :meth:`reset`; later automatic resets are not seeded.

        :param seed: non-negative seed of copy 0, from which independent seeds of the other copies are drawn; ``None`` draws
            it from the operating system
        :return: seeds of the copies, all different
        """
        if seed is None:
            seed = int(np.random.SeedSequence().generate_state(1)[0])
        if seed < 0:
            raise ValueError(f"seed must be non-negative, not {seed}")
        self._seeds = list(copy_seeds(int(seed), self.num_envs))
        return list(self._seeds)

    def reset(self) -> JointObservation:
        """
        Start a new episode in every copy; an unfinished step is abandoned.

        Non-empty infos of the env are stored in ``reset_infos[k]["agents"][agent]``.

        :return: agent -> (num_envs, *shape), zeros for agents that are not (yet) alive
        :raises EnvError: if an env raises an error or a worker process dies
        :raises EnvDataError: if an env returns data that breaks PettingZoo's rules or its own spaces
        """
        self._interrupt()
        self._episodes.begin(self._seeds)
        start = self._with_context(self.backend.reset, self._seeds, self._options)
        self._reset_seeds()
        self._reset_options()
        return self._with_context(self._begin, start, start.infos, "after reset")

    def _interrupt(self) -> None:
        """Abandon an unfinished step; no step is possible before :meth:`_begin`."""
        self._require_open()
        self.moves += 1
        self._running = False
        if self._waiting:
            self._waiting = False
            self._with_context(self.backend.step_wait)
        self._actions = None

    def _begin(self, start: Start, infos: dict[int, AgentInfos] | None, when: str) -> JointObservation:
        self._check_observations(start.observations, start.alive, lambda copy: when)
        if start.states is not None:
            check_states(start.states, lambda copy: when)
        self._states = start.states
        self.action_masks = self._by_agent(self._masks.read(start.observations, start.acting, infos, lambda copy: when))
        self.alive, self.acting = start.alive, start.acting
        self.last_step = None
        self.reset_infos = [self._with_agents({}, start.infos.get(copy)) for copy in range(self.num_envs)]
        self._running = True
        return self._by_agent(start.observations)

    def require_masks(self, agents: Iterable[str], warn: bool = True) -> None:
        """
        Check that agents whose learners choose by masks have masks.

        :param agents: names of the agents
        :param warn: whether to warn of agents without any masks, once for each
        :raises ValueError: if an entry of an observation or info has the name of a mask, but cannot be one
        """
        self._masks.require(agents, self.backend.one_mask and len(self.agents) > 1, warn)

    @property
    def agents_with_masks(self) -> set[str]:
        """Agents that have action masks, or wait for their turn while another one has a mask; after a reset."""
        if not self.action_masks:
            return set()
        waiting = [agent for column, agent in enumerate(self.agents) if not self.acting[:, column].any()]
        return {*self.action_masks, *(agent for agent in waiting if len(options_of(self.action_spaces[agent])))}

    def warn_of_ignored_masks(self, agents: Iterable[str]) -> None:
        """
        Warn of agents with masks, once for each, as soon as one of them has an illegal action.

        :param agents: names of agents whose learners do not know masks
        """
        self._masks.warn_of_ignored(agents, self.action_masks)

    @property
    def states(self) -> np.ndarray:
        """
        Global states of the copies, float32 (num_envs, state size): flattened return values of the envs' ``state()``.

        Valid after :meth:`reset`, :meth:`restore` and every step, in which they belong to the returned observations: after an
        automatic reset the state is that of the new episode, and ``last_step.final_states`` has that of the ended one.

        :raises RuntimeError: if the copies were made without ``states=True``, and before the first reset
        """
        if not self.with_states:
            raise RuntimeError("this JointVecEnv was made without states: make it with make_joint_vec_env(..., states=True)")
        if self._states is None:
            raise RuntimeError("call reset() before reading states")
        return self._states

    @property
    def can_snapshot(self) -> bool:
        """Whether the envs can save their state, as :meth:`snapshot` needs."""
        return self.backend.snapshot_obstacle is None

    @property
    def is_running(self) -> bool:
        """Whether episodes are under way and no step is: not before the first reset, and not after an error."""
        return self._running and not self._waiting

    def snapshot(self) -> Snapshot:
        """
        Save everything that determines how the copies continue, given the actions: state, pending seeds, episode statistics.

        Options of the envs and ``reset_infos`` are not included.

        :return: dict of arrays, numbers, strings, ``None``, and lists and dicts of these, provided that the env's snapshot is
        :raises TypeError: if the env cannot save its state; the message says why
        :raises RuntimeError: before the first reset, during a step, and after an error
        """
        self._require_open()
        if self.backend.snapshot_obstacle is not None:
            raise TypeError(self.backend.snapshot_obstacle)
        if self._waiting:
            raise RuntimeError("snapshot() during a step: call step_wait() first")
        if not self._running:
            raise RuntimeError("call reset() before snapshot(), and after an error")
        if any(self._options):
            raise RuntimeError("a snapshot does not include the options that set_options() has set: call reset() first")
        return {
            "layout": self.backend.layout,
            "num_envs": self.num_envs,
            "agents": list(self.agents),
            "pending_seeds": list(self._seeds),
            "episodes": self._episodes.snapshot(),
            "envs": self.backend.snapshot(),
            **({"action_masks": masks} if (masks := self._masks.snapshot()) else {}),
        }

    def restore(self, snapshot: Snapshot) -> JointObservation:
        """
        Restore a snapshot and continue from it; an unfinished step is abandoned.

        :param snapshot: snapshot of a JointVecEnv with the same env, options and number of copies
        :return: observations at the time of the snapshot, agent -> (num_envs, *shape); :attr:`alive` is restored too
        :raises TypeError: if the env cannot save its state; the message says why
        :raises ValueError: if the snapshot does not fit; :meth:`reset` must then be called
        """
        self._interrupt()
        if self.backend.snapshot_obstacle is not None:
            raise TypeError(self.backend.snapshot_obstacle)
        self._check_snapshot(snapshot)
        self._episodes.restore(snapshot["episodes"])
        self._masks.restore(snapshot.get("action_masks", {}))
        start = self.backend.restore(snapshot["envs"])
        self._seeds = list(snapshot["pending_seeds"])
        self._reset_options()
        return self._begin(start, None, "after restore")

    def _check_snapshot(self, snapshot: Any) -> None:
        what = "snapshot of a JointVecEnv"
        check_keys(what, {"action_masks": {}, **snapshot} if isinstance(snapshot, Mapping) else snapshot, _SNAPSHOT_KEYS)
        for name, own in (("agents", self.agents), ("num_envs", self.num_envs)):
            if snapshot[name] != own:
                raise ValueError(f"{what}: {name!r} is {snapshot[name]!r}, expected {own!r}")
        if snapshot["layout"] not in self.backend.readable_layouts:
            raise ValueError(
                f"{what}: its copies are {snapshot['layout']}, expected {self.backend.layout}; copies are batched "
                "with vec_env='batched', and separate with 'dummy', 'subproc', 'supersuit' and 'supersuit-subproc'"
            )
        check_seeds(f"{what}: 'pending_seeds'", snapshot["pending_seeds"], self.num_envs)

    def step_async(self, actions: Mapping[str, Any]) -> None:  # type: ignore[override]
        """
        Start a joint step.

        :param actions: agent -> (num_envs, *action shape), for all agents; rows of agents that are not in
            :attr:`acting` are ignored
        :raises ValueError: if agents are missing or unknown, a shape is wrong, or an action is outside its space
        """
        self._require_open()
        if not self._running:
            raise RuntimeError("call reset() before the first step, and after an error")
        if self._waiting:
            raise RuntimeError("step_async() was called twice: call step_wait() in between")
        self._actions = self._check_actions(actions)
        self.moves += 1
        self._with_context(self.backend.step_async, self._actions)
        self._waiting = True

    def step_wait(self) -> tuple[JointObservation, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """
        Finish the joint step; the complete transition is in :attr:`last_step`.

        If a copy's episode is over, its info has ``"terminal_observation"`` (agent -> observation; zeros for agents that
        ended in an earlier step), ``"TimeLimit.truncated"`` (whether an agent was truncated in this last step without being
        terminated) and ``"episode"``: ``"r"`` is the undiscounted return summed over agents, ``"l"`` the number of joint
        steps, ``"t"`` the seconds since this object was created, ``"agents"`` the return of each agent. Infos of the env
        are in ``"agents"``.

        :return: observations agent -> (num_envs, *shape), rewards float32 (num_envs, n_agents), dones bool (num_envs,),
            infos (one dict per copy)
        :raises EnvError: if an env raises an error or a worker process dies
        :raises EnvDataError: if an env returns data that breaks PettingZoo's rules or its own spaces
        """
        if not self._waiting:
            raise RuntimeError("step_wait() without step_async()")
        self._waiting = self._running = False
        step = self._with_context(self.backend.step_wait)
        self.action_masks = self._by_agent(self._with_context(self._check, step))
        self._running = True
        infos = self._infos(step)
        self.alive, self.acting, self._states = step.alive, step.acting, step.states
        self.last_step = JointStep(
            observations=self._by_agent(step.observations),
            rewards=step.rewards.astype(np.float32),
            terminated=step.terminated,
            truncated=step.truncated,
            alive=step.alive,
            acting=step.acting,
            dones=step.dones,
            final_observations=step.final_observations,
            states=step.states,
            final_states=step.final_states,
            action_masks=self.action_masks,
            infos=infos,
        )
        return self.last_step.observations, self.last_step.rewards, step.dones, infos

    def _check(self, step: BackendStep) -> dict[str, np.ndarray]:
        """Check that all values are finite and in their spaces, and return the action masks; count nothing yet."""

        def after_step(copy: int) -> str:
            return f"after step {self._episodes.lengths[copy] + 1}"

        def now(copy: int) -> str:
            return "after reset" if step.dones[copy] else after_step(copy)

        check_rewards(step.rewards, self.agents, after_step)
        self._check_observations(step.observations, step.alive, now)
        if step.final_observations is not None:
            self._check_observations(step.final_observations, step.terminated | step.truncated, after_step)
        if step.states is not None:
            check_states(step.states, now)
        if step.final_states is not None:
            check_states(step.final_states, after_step)
        infos = step.infos
        if np.count_nonzero(step.dones):
            infos = {copy: infos for copy, infos in step.infos.items() if not step.dones[copy]} | step.reset_infos
        return self._masks.read(step.observations, step.acting, infos, now)

    def _with_context(self, call: Callable[..., T], *arguments: Any) -> T:
        """Call a function that uses the envs, and add copy, episode, step and actions to the errors of envs."""
        try:
            return call(*arguments)
        except CopyFailure as failure:
            raise self._env_error(failure) from failure.error
        except DataFault as fault:
            raise EnvDataError(f"{fault}. It happened in {self._moment(fault.copy)}") from None
        except WorkerLost as failure:
            raise self._env_error(failure) from failure

    def _env_error(self, failure: CopyFailure | WorkerLost) -> EnvError:
        """Build the error for the user, with copy, time and actions; the original error becomes its cause."""
        if isinstance(failure, CopyFailure):
            return EnvError(f"env copy {failure.copy}: {failure} in {self._moment(failure.copy)}")
        moments = [f"env copy {copy} in {self._moment(copy)}" for copy in failure.copies or range(self.num_envs)]
        return EnvError(f"{failure}. It happened to {' or '.join(moments)}")

    def _moment(self, copy: int) -> str:
        if self._actions is None:
            return f"reset() with seed {self._episodes.seeds[copy]}"
        acting = zip(self.agents, self.acting[copy], strict=True)
        actions = {agent: self._actions[agent][copy].tolist() for agent, acts in acting if acts}
        return f"{self._episodes.moment(copy)}, with actions {actions}"

    def _infos(self, step: BackendStep) -> list[dict[str, Any]]:
        """Update the episode statistics and build the infos of the copies."""
        self._episodes.count(step.rewards)
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for copy, agent_infos in step.infos.items():
            self._with_agents(infos[copy], agent_infos)
        for copy in np.flatnonzero(step.dones).tolist() if np.count_nonzero(step.dones) else ():
            self.reset_infos[copy] = self._with_agents({}, step.reset_infos.get(copy))
            infos[copy].update(self._final_info(step, copy))
        return infos

    def _final_info(self, step: BackendStep, copy: int) -> dict[str, Any]:
        """Build the info that SB3 expects at the end of an episode, and start the statistics of the next one."""
        assert step.final_observations is not None
        return {
            "terminal_observation": {agent: row_of(step.final_observations[agent], copy) for agent in self.agents},
            "TimeLimit.truncated": bool((step.truncated[copy] & ~step.terminated[copy]).any()),
            "episode": self._episodes.finish(copy),
        }

    @property
    def episode_lengths(self) -> np.ndarray:
        """Joint steps of the copies' running episodes, int64 (num_envs,)."""
        return self._episodes.lengths

    def running_episode(self, copy: int) -> dict[str, Any]:
        """
        Statistics of a running episode.

        :param copy: index of the copy
        :return: as ``infos[copy]["episode"]`` at the end of an episode, see :meth:`step_wait`
        """
        return self._episodes.so_far(copy)

    def close(self) -> None:
        """Close every copy's env, also in worker processes; further calls do nothing."""
        if not self._closed:
            self._closed = True
            self._waiting = False
            self.backend.close()

    def _require_open(self) -> None:
        if self._closed:
            raise RuntimeError("this JointVecEnv is closed; make a new one")

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Read an attribute of the copies' envs; with vec_env='batched', of the one env that made the core."""
        copies = self._copies(indices)
        if attr_name == "render_mode":  # SB3 reads it from every env, but not every env has it
            return [self.backend.render_mode for _ in copies]
        return self.backend.get_attr(attr_name, copies)

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Set an attribute of the copies' envs, in the wrapper that defines it, otherwise in the unwrapped env."""
        self.backend.set_attr(attr_name, value, self._copies(indices))

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        """Call a method of the copies' envs."""
        return self.backend.env_method(method_name, method_args, method_kwargs, self._copies(indices))

    def env_is_wrapped(self, wrapper_class: type[Any], indices: Any = None) -> list[bool]:
        """
        Whether the copies' envs have a (PettingZoo) wrapper of that class.

        :raises TypeError: for SB3's Monitor, for which SB3's VecMonitor and evaluation look: they cannot handle several agents
        """
        if wrapper_class is Monitor:
            raise TypeError(
                "SB3's evaluate_policy, EvalCallback and VecMonitor are for one agent: use evaluate_policy and "
                "MultiAgentEvalCallback of sb3_matrl.evaluation; a JointVecEnv records episodes itself"
            )
        return self.backend.env_is_wrapped(wrapper_class, self._copies(indices))

    def render(self, mode: str | None = None) -> Any:
        """
        Render copy 0.

        :param mode: render mode that the env supports; by default the ``render_mode`` it was made with
        :return: uint8 (height, width, 3), text, or ``None``, depending on the env
        """
        return self.backend.render(mode or self.render_mode)

    def get_images(self) -> Sequence[np.ndarray | None]:
        """Render copy 0; the other copies are not drawn."""
        return [self.render("rgb_array")]

    def _by_agent(self, content: dict[str, T]) -> dict[str, T]:
        """Let a dict be read by the env's own names too, if these are no strings."""
        return AgentDict(content) if self.backend.renamed else content

    def _with_agents(self, info: dict[str, Any], agent_infos: AgentInfos | None) -> dict[str, Any]:
        if agent_infos:
            info["agents"] = self._by_agent(agent_infos)
        return info

    def _copies(self, indices: Any) -> list[int]:
        return [range(self.num_envs)[copy] for copy in self._get_indices(indices)]
