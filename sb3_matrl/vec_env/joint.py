"""The multi-agent VecEnv: an SB3 VecEnv whose spaces, observations and actions are dicts keyed by agent."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeVar

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

from sb3_matrl.envs.snapshot import Snapshot, check_keys
from sb3_matrl.vec_env.backend import AgentInfos, Backend, BackendStep, Start
from sb3_matrl.vec_env.episodes import Episodes, check_seeds
from sb3_matrl.vec_env.errors import CopyFailure, DataFault, EnvDataError, EnvError, WorkerLost
from sb3_matrl.vec_env.masks import ActionMasks
from sb3_matrl.vec_env.spaces import row_of
from sb3_matrl.vec_env.step import JointObservation, JointStep, Transition
from sb3_matrl.vec_env.value_checks import ActionCheck, ObservationCheck, check_rewards

T = TypeVar("T")

# "action_masks" is there only if envs have told masks in their infos.
_SNAPSHOT_KEYS = ("layout", "num_envs", "agents", "pending_seeds", "episodes", "envs", "action_masks")


def copy_seeds(seed: int, num_envs: int) -> list[int]:
    """
    Seeds of the env copies: the given one for copy 0, independent ones for the others.

    :param seed: nonnegative
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

    Make one with :func:`~sb3_matrl.vec_env.factory.make_joint_vec_env`. Observations and actions are dicts keyed by
    agent, with a leading axis for the copies. A copy's episode is over when its last agent has ended; the copy is then
    reset at once, as in every SB3 VecEnv.

    Attributes beside SB3's:

    - ``agents``: the possible agents; their order is that of all columns. (The Dict spaces keep it too.)
    - ``observation_spaces``, ``action_spaces``: agent -> the agent's own space
    - ``alive``: bool (num_envs, n_agents), who is there; valid after :meth:`reset`, :meth:`restore` and every step
    - ``acting``: bool (num_envs, n_agents), who chooses the next action: everybody alive, unless agents take turns
    - ``action_masks``: agent -> bool (num_envs, mask size), which actions are legal now, for agents that have masks; see
      :class:`~sb3_matrl.vec_env.masks.ActionMasks`
    - ``last_step``: the whole :class:`~sb3_matrl.vec_env.step.JointStep` of the last step, ``None`` after a reset

    :param backend: steps the copies; belongs to this object from now on
    :param seed: see :meth:`seed`; used at the first reset
    :param check_bounds: whether observations are checked against the bounds of their spaces; NaN and infinity always are
    """

    def __init__(self, backend: Backend, seed: int | None = None, check_bounds: bool = True) -> None:
        self.backend = backend
        self.agents = list(backend.agents)
        self.observation_spaces = dict(backend.observation_spaces)
        self.action_spaces = dict(backend.action_spaces)
        super().__init__(
            backend.num_envs,
            spaces.Dict(OrderedDict(self.observation_spaces)),  # a plain dict would be sorted
            spaces.Dict(OrderedDict(self.action_spaces)),
        )
        self.alive = self.acting = np.zeros((self.num_envs, len(self.agents)), dtype=bool)
        self.action_masks: dict[str, np.ndarray] = {}
        self.last_step: JointStep | None = None
        self._check_observations = ObservationCheck(self.observation_spaces, check_bounds)
        self._check_actions = ActionCheck(self.action_spaces, self.num_envs)
        self._masks = ActionMasks(self.observation_spaces, self.action_spaces, self.num_envs)
        self._episodes = Episodes(self.num_envs, self.agents)
        self._actions: dict[str, np.ndarray] | None = None  # of the last step, for messages
        self._running = False
        self._waiting = False
        self._closed = False
        self.seed(seed)

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """
        Choose the seeds that the copies get at the next :meth:`reset`; later automatic resets are not seeded anew.

        :param seed: copy 0 gets exactly this one, the others independent ones drawn from it (nonnegative);
            ``None`` draws fresh ones from the operating system
        :return: the copies' seeds, all different
        """
        if seed is None:
            seed = int(np.random.SeedSequence().generate_state(1)[0])
        if seed < 0:
            raise ValueError(f"seed must be nonnegative, not {seed}")
        self._seeds = list(copy_seeds(int(seed), self.num_envs))
        return list(self._seeds)

    def reset(self) -> JointObservation:
        """
        Start a new episode in every copy; a step under way is abandoned.

        The env's own infos are in ``reset_infos[k]["agents"][agent]`` where there are any.

        :return: agent -> (num_envs, *shape), zeros for agents that are not (yet) alive
        :raises EnvError: when an env raises an error or a worker process dies
        :raises EnvDataError: when what an env returns breaks PettingZoo's rules or its own spaces
        """
        self._interrupt()
        self._episodes.begin(self._seeds)
        start = self._told(self.backend.reset, self._seeds, self._options)
        self._reset_seeds()
        self._reset_options()
        return self._told(self._begin, start, start.infos, "after reset")

    def _interrupt(self) -> None:
        """Abandon a step under way; until :meth:`_begin` nothing can be played."""
        self._require_open()
        self._running = False
        if self._waiting:
            self._waiting = False
            self._told(self.backend.step_wait)
        self._actions = None

    def _begin(self, start: Start, infos: dict[int, AgentInfos] | None, when: str) -> JointObservation:
        self._check_observations(start.observations, start.alive, lambda copy: when)
        self.action_masks = self._masks.read(start.observations, start.acting, infos, lambda copy: when)
        self.alive, self.acting = start.alive, start.acting
        self.last_step = None
        self.reset_infos = [_with_agents({}, start.infos.get(copy)) for copy in range(self.num_envs)]
        self._running = True
        return start.observations

    @property
    def can_snapshot(self) -> bool:
        """Whether the envs can save their state, so that :meth:`snapshot` works."""
        return self.backend.snapshot_obstacle is None

    def snapshot(self) -> Snapshot:
        """
        Everything that decides how the copies go on, given the actions: their state, pending seeds, episode statistics.

        Options of the envs are no part of it, nor are ``reset_infos``.

        :return: a dict of arrays, numbers, texts, ``None``, and lists and dicts of these, as far as the env keeps to that
        :raises TypeError: when the env cannot save its state; names it
        :raises RuntimeError: when no episode has begun, while a step is under way, and after an error
        """
        self._require_open()
        if self.backend.snapshot_obstacle is not None:
            raise TypeError(self.backend.snapshot_obstacle)
        if self._waiting:
            raise RuntimeError("snapshot() while a step is under way: call step_wait() first")
        if not self._running:
            raise RuntimeError("call reset() before snapshot(), and after an error")
        if any(self._options):
            raise RuntimeError("snapshot() does not hold what set_options() has set for the next reset(): call reset() first")
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
        Go on from a snapshot, as the JointVecEnv would have from which it was taken; a step under way is abandoned.

        :param snapshot: from a JointVecEnv of the same env, options and number of copies
        :return: the observations of that moment, agent -> (num_envs, *shape); :attr:`alive` is of that moment, too
        :raises TypeError: when the env cannot save its state; names it
        :raises ValueError: when the snapshot does not fit; :meth:`reset` must then be called
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
                raise ValueError(f"{what}: it is of {name} {snapshot[name]!r}, but here they are {own!r}")
        if snapshot["layout"] != self.backend.layout:
            raise ValueError(
                f"{what}: its copies are {snapshot['layout']}, but here they are {self.backend.layout}; copies are batched "
                "with vec_env='batched', and separate with 'dummy' and 'subproc'"
            )
        check_seeds(f"{what}: 'pending_seeds'", snapshot["pending_seeds"], self.num_envs)

    def step_async(self, actions: Mapping[str, Any]) -> None:  # type: ignore[override]
        """
        Begin a joint step.

        :param actions: agent -> (num_envs, *action shape), for all agents; rows of agents that are not in
            :attr:`acting` are ignored
        :raises ValueError: on missing or unknown agents, wrong shapes, or actions outside their space
        """
        self._require_open()
        if not self._running:
            raise RuntimeError("call reset() before the first step, and after an error")
        if self._waiting:
            raise RuntimeError("step_async() was called twice: call step_wait() in between")
        self._actions = self._check_actions(actions)
        self._told(self.backend.step_async, self._actions)
        self._waiting = True

    def step_wait(self) -> tuple[JointObservation, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """
        Finish the joint step; the complete outcome is in :attr:`last_step`.

        For a copy whose episode is over its info has ``"terminal_observation"`` (agent -> observation; zeros for agents
        that ended in an earlier step), ``"TimeLimit.truncated"`` (some agent was cut off in this last step and did not
        terminate) and ``"episode"``: ``"r"`` the undiscounted return summed over agents, ``"l"`` the number of joint
        steps, ``"t"`` seconds since this object was made, ``"agents"`` the return of each agent. Infos of the env itself
        are in ``"agents"``.

        :return: observations agent -> (num_envs, *shape), rewards float32 (num_envs, n_agents), dones bool (num_envs,),
            infos (one dict per copy)
        :raises EnvError: when an env raises an error or a worker process dies
        :raises EnvDataError: when what an env returns breaks PettingZoo's rules or its own spaces
        """
        if not self._waiting:
            raise RuntimeError("step_wait() without step_async()")
        self._waiting = self._running = False
        step = self._told(self.backend.step_wait)
        self.action_masks = self._told(self._check, step)
        self._running = True
        infos = self._infos(step)
        self.alive, self.acting = step.alive, step.acting
        shared = {field.name: getattr(step, field.name) for field in fields(Transition)}
        shared["rewards"] = step.rewards.astype(np.float32)
        self.last_step = JointStep(**shared, action_masks=self.action_masks, infos=infos)
        return step.observations, self.last_step.rewards, step.dones, infos

    def _check(self, step: BackendStep) -> dict[str, np.ndarray]:
        """Look for numbers that are not finite or not in their spaces, and read the action masks; nothing is counted yet."""

        def after_step(copy: int) -> str:
            return f"after step {self._episodes.lengths[copy] + 1}"

        def now(copy: int) -> str:
            return "after reset" if step.dones[copy] else after_step(copy)

        check_rewards(step.rewards, self.agents, after_step)
        self._check_observations(step.observations, step.alive, now)
        if step.final_observations is not None:
            self._check_observations(step.final_observations, step.terminated | step.truncated, after_step)
        infos = {copy: infos for copy, infos in step.infos.items() if not step.dones[copy]} | step.reset_infos
        return self._masks.read(step.observations, step.acting, infos, now)

    def _told(self, call: Callable[..., T], *arguments: Any) -> T:
        """Call what deals with the envs; what goes wrong inside them becomes an error that says where they were."""
        try:
            return call(*arguments)
        except CopyFailure as failure:
            raise self._env_error(failure) from failure.error
        except DataFault as fault:
            raise EnvDataError(f"{fault}. It happened in {self._moment(fault.copy)}") from None
        except WorkerLost as failure:
            raise self._env_error(failure) from failure

    def _env_error(self, failure: CopyFailure | WorkerLost) -> EnvError:
        """What the user is told: which copy, when, after which actions; what was raised is the error's cause."""
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
        """Count the step in the episode statistics and build the copies' infos."""
        self._episodes.count(step.rewards)
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for copy, agent_infos in step.infos.items():
            _with_agents(infos[copy], agent_infos)
        for copy in np.flatnonzero(step.dones).tolist():
            self.reset_infos[copy] = _with_agents({}, step.reset_infos.get(copy))
            infos[copy].update(self._final_info(step, copy))
        return infos

    def _final_info(self, step: BackendStep, copy: int) -> dict[str, Any]:
        """What SB3 expects to know about an episode that is over; starts the statistics of the next one."""
        assert step.final_observations is not None
        return {
            "terminal_observation": {agent: row_of(step.final_observations[agent], copy) for agent in self.agents},
            "TimeLimit.truncated": bool((step.truncated[copy] & ~step.terminated[copy]).any()),
            "episode": self._episodes.finish(copy),
        }

    def close(self) -> None:
        """Close every copy's env, in worker processes too; calling it again does nothing."""
        if not self._closed:
            self._closed = True
            self._waiting = False
            self.backend.close()

    def _require_open(self) -> None:
        if self._closed:
            raise RuntimeError("this JointVecEnv is closed; make a new one")

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Attribute of the copies' envs; of the one env that the copies are batched from with vec_env='batched'."""
        copies = self._copies(indices)
        if attr_name == "render_mode":  # SB3 asks every env for it; not every env has it
            return [self.backend.render_mode for _ in copies]
        return self.backend.get_attr(attr_name, copies)

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Set an attribute of the copies' envs, in the wrapper that defines it, else in the unwrapped env."""
        self.backend.set_attr(attr_name, value, self._copies(indices))

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        """Call a method of the copies' envs."""
        return self.backend.env_method(method_name, method_args, method_kwargs, self._copies(indices))

    def env_is_wrapped(self, wrapper_class: type[Any], indices: Any = None) -> list[bool]:
        """Whether the copies' envs have a (PettingZoo) wrapper of that class."""
        return self.backend.env_is_wrapped(wrapper_class, self._copies(indices))

    def render(self, mode: str | None = None) -> Any:
        """
        Draw copy 0.

        :param mode: what the env supports; by default the ``render_mode`` it was made with
        :return: uint8 (height, width, 3), text, or ``None``, as the env does
        """
        return self.backend.render(mode or self.render_mode)

    def get_images(self) -> Sequence[np.ndarray | None]:
        """The picture of copy 0; the other copies are not drawn."""
        return [self.render("rgb_array")]

    def _copies(self, indices: Any) -> list[int]:
        return [range(self.num_envs)[copy] for copy in self._get_indices(indices)]


def _with_agents(info: dict[str, Any], agent_infos: AgentInfos | None) -> dict[str, Any]:
    if agent_infos:
        info["agents"] = agent_infos
    return info
