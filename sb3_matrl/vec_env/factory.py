"""Make a :class:`JointVecEnv` from a factory, an environment or an id, and choose its backend."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from typing import Any, Literal, cast

import cloudpickle
import gymnasium
import numpy as np
from stable_baselines3.common.vec_env import VecEnv

from sb3_matrl.envs.core import BatchableEnv
from sb3_matrl.envs.env_ids import factory as env_factory
from sb3_matrl.envs.parallel import as_parallel, is_environment, require_parallel_env
from sb3_matrl.utils.suggest import unknown
from sb3_matrl.vec_env.backend import Backend
from sb3_matrl.vec_env.batched import BatchedBackend
from sb3_matrl.vec_env.describe import EnvDescription, describe
from sb3_matrl.vec_env.errors import EnvError
from sb3_matrl.vec_env.global_state import NoState, States, check_choice_of_states
from sb3_matrl.vec_env.joint import JointVecEnv
from sb3_matrl.vec_env.loop_backend import DummyBackend, SubprocBackend
from sb3_matrl.vec_env.separate import EnvFactory
from sb3_matrl.vec_env.supersuit_backend import SuperSuitDummyBackend, SuperSuitSubprocBackend

_IN_PROCESS = {"dummy": DummyBackend, "supersuit": SuperSuitDummyBackend}
_IN_WORKERS = {"subproc": SubprocBackend, "supersuit-subproc": SuperSuitSubprocBackend}
# Longest time in seconds that a worker may have for a step; the system's timers end at 2**31 milliseconds.
MAX_TIMEOUT = 2_000_000
KINDS = ("auto", "batched", "dummy", "subproc", "supersuit", "supersuit-subproc")


def make_joint_vec_env(
    env: Any,
    n_envs: int = 1,
    vec_env: str = "auto",
    seed: int | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    render_mode: str | None = None,
    num_cpus: int | None = None,
    check_bounds: bool = True,
    env_timeout: float | None = None,
    states: bool | Literal["auto"] = False,
) -> JointVecEnv:
    """
    Make a vectorised env with ``n_envs`` copies of a multi-agent env.

    :param env: one of

        - a factory, which returns a new PettingZoo ParallelEnv or AECEnv; called with ``env_kwargs`` for every copy, and with
          worker processes or ``states`` once more, to read the spaces. Agents of an AECEnv that PettingZoo cannot convert to a
          ParallelEnv take turns
        - a ParallelEnv or AECEnv; it becomes copy 0, the other copies are made from it by cloudpickle
          (with worker processes all copies are, and ``env`` itself is not used)
        - an environment id, see :func:`sb3_matrl.envs.factory`
        - a JointVecEnv, possibly in SB3 VecEnvWrappers, which is returned unchanged
    :param n_envs: number of copies
    :param vec_env: ``"batched"`` steps all copies in one call, for envs with batched rules; ``"dummy"`` steps them one
        after the other in this process; ``"subproc"`` steps them in worker processes, which is faster only for slow envs;
        ``"supersuit"`` and ``"supersuit-subproc"`` do the same as these two with SuperSuit's vector envs, which is slower;
        ``"auto"`` is batched if possible, else dummy. All give the same trajectories
    :param seed: seed of the copies, see :meth:`JointVecEnv.seed`
    :param env_kwargs: keyword arguments of the factory
    :param render_mode: shorthand for ``env_kwargs={"render_mode": ...}``
    :param num_cpus: number of worker processes, at most one per copy; by default one per CPU core, but at least two
    :param check_bounds: whether observations must lie within their spaces; NaN and infinity are never accepted
    :param env_timeout: seconds that a worker process has for one step, or one reset, of its copies; then it is ended with an
        :class:`~sb3_matrl.vec_env.EnvError`. Only worker processes can be ended, so that ``"auto"`` means ``"subproc"``.
        ``None`` for no limit
    :param states: whether the copies give their global state, the return value of the envs' ``state()``, in
        :attr:`JointVecEnv.states` and :attr:`JointStep.final_states`. It is read once per copy and step, flattened and
        converted to float32; images (uint8, three dimensions) are rejected. ``"auto"``: if the env has a state that can be
        used, which ``with_states`` then tells. To find out, one env is made and reset once more, unless it has batched rules
    :raises ValueError: if the id or ``vec_env`` is unknown, arguments contradict each other, the factory returns the same env
        twice, or ``states`` is True and the env has no state that can be used
    :raises TypeError: if ``env`` is none of the above, or SB3 does not support its spaces
    """
    kwargs = dict(env_kwargs or {}) | ({} if render_mode is None else {"render_mode": render_mode})
    if vec_env not in KINDS:
        raise ValueError(unknown("vec_env", str(vec_env), KINDS))
    check_choice_of_states(states)
    if env_timeout is not None:
        vec_env = _kind_with_timeout(vec_env, env_timeout)
    if isinstance(env, VecEnv):
        return _existing(env, n_envs, vec_env, kwargs, seed, states)
    if not isinstance(n_envs, int | np.integer) or n_envs < 1:
        raise ValueError(f"n_envs must be a positive integer, not {n_envs!r}")
    if num_cpus is not None and num_cpus < 1:
        raise ValueError(f"num_cpus must be positive, not {num_cpus!r}")
    return JointVecEnv(_backend(env, kwargs, int(n_envs), vec_env, num_cpus, env_timeout, states), seed, check_bounds)


def _kind_with_timeout(kind: str, seconds: float) -> str:
    if not 0 < seconds <= MAX_TIMEOUT:
        raise ValueError(f"env_timeout must be a positive number of seconds, at most {MAX_TIMEOUT:,}, not {seconds!r}")
    if kind != "auto" and kind not in _IN_WORKERS:
        raise ValueError(f"env_timeout needs vec_env='subproc', not {kind!r}: only worker processes can be ended")
    return "subproc" if kind == "auto" else kind


def _existing(env: VecEnv, n_envs: int, vec_env: str, kwargs: dict[str, Any], seed: int | None, states: States) -> JointVecEnv:
    if not isinstance(env.unwrapped, JointVecEnv):
        require_parallel_env(env)
    # Callers that forward n_envs have the default 1.
    if n_envs not in (1, env.num_envs):
        raise ValueError(f"n_envs={n_envs}, but the JointVecEnv given has {env.num_envs} copies; leave n_envs out")
    if vec_env != "auto" or kwargs:
        raise ValueError(
            "vec_env, env_kwargs, render_mode and env_timeout cannot change an existing JointVecEnv; give them when making it"
        )
    if states is True and not cast(JointVecEnv, env.unwrapped).with_states:
        raise ValueError("the JointVecEnv given has no states: make it with make_joint_vec_env(..., states=True)")
    if seed is not None:
        env.seed(seed)
    return cast(JointVecEnv, env)


def _backend(
    env: Any, kwargs: dict[str, Any], n_envs: int, kind: str, num_cpus: int | None, timeout: float | None, states: States
) -> Backend:
    """Make the first env and choose the backend by its type."""
    instance = is_environment(env)
    if instance and kwargs:
        raise ValueError(f"env_kwargs {sorted(kwargs)} need a factory, but env is an existing {type(env).__name__}")
    if instance:
        first = as_parallel(env)
        factory: EnvFactory = _Copies(first)
    else:
        factory = _DistinctEnvs(_factory(env, kwargs))
        first = factory()
    try:
        if kind in ("auto", "batched"):
            obstacle = _core_obstacle(first)
            if obstacle is None:
                return BatchedBackend(first, n_envs, states)
            if kind == "batched":
                raise ValueError(
                    f"vec_env='batched' needs an env with batched rules{obstacle}; use vec_env='auto', 'dummy' or 'subproc'"
                )
        description = describe(first)
        if states:
            # A probed env is not stepped later, except for an instance that is the only copy.
            probed = not instance if kind in _IN_WORKERS else instance and n_envs == 1
            description = _with_states(description, states, first, None if probed else factory)
        if kind not in _IN_WORKERS:
            return _IN_PROCESS.get(kind, DummyBackend)([lambda: first, *[factory] * (n_envs - 1)], description)
    except BaseException:
        _close(first, instance)
        raise
    _close(first, instance)  # before the workers fork, so that they do not inherit it
    return _IN_WORKERS[kind]([factory] * n_envs, description, num_cpus, timeout)


def _with_states(description: EnvDescription, states: States, env: Any, factory: EnvFactory | None) -> EnvDescription:
    """
    Find out whether an env has a state that can be used.

    :param description: description of the env
    :param states: True or ``"auto"``
    :param env: env that is reset, unless there is a factory
    :param factory: makes the env that is reset and closed
    :return: description of copies that write their states; with ``"auto"``, of copies without if there is none
    """
    probe = env if factory is None else factory()
    try:
        return description.with_state_of(probe)
    except NoState:
        if states is True:
            raise
        return description.without_state()
    finally:
        _close(probe, instance=factory is None)


def _core_obstacle(env: Any) -> str | None:
    """Why an env has no batched core, as the end of a sentence; ``None`` if it has one."""
    if not isinstance(env, BatchableEnv):
        return f" (an unwrapped CoreParallelEnv), not a {type(env).__name__}"
    return None if env.core_obstacle is None else f", and {env} has none with these options: {env.core_obstacle}"


def _close(env: Any, instance: bool) -> None:
    """Close the env, unless it is an instance that belongs to the caller."""
    if not instance:
        env.close()


class _Copies:
    """
    Factory that copies an env by cloudpickle, in its state before the first step.

    :param env: a ParallelEnv that cloudpickle supports
    """

    def __init__(self, env: Any) -> None:
        self._env = env

    def __call__(self) -> Any:
        return cloudpickle.loads(self._pickled)

    @cached_property
    def _pickled(self) -> bytes:
        """Computed for the first copy: a single env in this process need not be picklable."""
        try:
            return bytes(cloudpickle.dumps(self._env))
        except Exception as error:
            raise ValueError(
                f"{self._env} cannot be copied ({type(error).__name__}: {error}); pass a function that makes it instead"
            ) from error

    def __getstate__(self) -> dict[str, Any]:
        return {"_pickled": self._pickled}


class _DistinctEnvs:
    """
    Factory that checks, in every process, that each env is another one.

    :param factory: makes a ParallelEnv
    """

    def __init__(self, factory: EnvFactory) -> None:
        self._factory = factory
        self._made: list[Callable[[], Any]] = []

    def __call__(self) -> Any:
        env = self._factory()
        inner = getattr(env, "unwrapped", env)
        if any(made() is inner for made in self._made):
            raise ValueError(
                f"the function that makes the env returned the same {type(inner).__name__} again, but every copy needs its "
                "own: let it make a new env at every call, or pass the env itself, which is then copied"
            )
        self._made.append(_weakly(inner))
        return env

    def __getstate__(self) -> dict[str, Any]:
        return {"_factory": self._factory, "_made": []}


def _weakly(thing: Any) -> Callable[[], Any]:
    """A weak reference, or a strong one to an object that allows none."""
    try:
        return weakref.ref(thing)
    except TypeError:
        return lambda: thing


def _factory(env: Any, kwargs: dict[str, Any]) -> EnvFactory:
    """Function without arguments that makes one ParallelEnv."""
    if isinstance(env, str):
        return partial(_make, env_factory(env), kwargs)
    if isinstance(env, gymnasium.Env | gymnasium.vector.VectorEnv):
        require_parallel_env(env)
    if not callable(env):
        hint = f"; did you mean {env.__name__}.parallel_env?" if hasattr(env, "parallel_env") else ""
        raise TypeError(f"env must be a factory of a ParallelEnv, a ParallelEnv or an env id, not {env!r}{hint}")
    return partial(_make, env, kwargs)


def _make(make: Callable[..., Any], kwargs: dict[str, Any]) -> Any:
    try:
        return as_parallel(make(**kwargs))
    except SystemExit as error:
        raise EnvError(f"making the env raised SystemExit: {error}; an env must not end the program") from error
