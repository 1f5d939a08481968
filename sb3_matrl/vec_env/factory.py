"""From whatever names an env (a factory, an instance, an id) to a :class:`JointVecEnv` with the right backend."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property, partial
from typing import Any, cast

import cloudpickle
import gymnasium
from pettingzoo import AECEnv, ParallelEnv
from stable_baselines3.common.vec_env import VecEnv

from sb3_matrl.envs.core import CoreParallelEnv
from sb3_matrl.envs.env_ids import factory as env_factory
from sb3_matrl.envs.parallel import as_parallel, require_parallel_env
from sb3_matrl.utils.suggest import unknown
from sb3_matrl.vec_env.backend import Backend
from sb3_matrl.vec_env.batched import BatchedBackend
from sb3_matrl.vec_env.describe import describe
from sb3_matrl.vec_env.joint import JointVecEnv
from sb3_matrl.vec_env.supersuit_backend import DummyBackend, EnvFactory, SubprocBackend

KINDS = ("auto", "batched", "dummy", "subproc")


def make_joint_vec_env(
    env: Any,
    n_envs: int = 1,
    vec_env: str = "auto",
    seed: int | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    render_mode: str | None = None,
    num_cpus: int | None = None,
    check_bounds: bool = True,
) -> JointVecEnv:
    """
    Make ``n_envs`` copies of a multi-agent env, stepped together.

    :param env: one of

        - a factory: called without arguments (but ``env_kwargs``) for every copy, returns a PettingZoo ParallelEnv or
          AECEnv; with worker processes it is called once more, to learn the spaces. In an AECEnv that PettingZoo cannot
          convert to a ParallelEnv agents take turns
        - a ParallelEnv or AECEnv itself; it becomes copy 0, the others are cloudpickled copies of it
          (with worker processes all are, and it stays untouched)
        - an environment id, see :func:`sb3_matrl.envs.factory`
        - a JointVecEnv, possibly in SB3 VecEnvWrappers, which is returned as it is
    :param n_envs: number of copies
    :param vec_env: ``"batched"`` steps all copies in one call, for envs whose rules are batched; ``"dummy"`` steps them one
        after the other in this process, through SuperSuit; ``"subproc"`` does so in worker processes, which pays for slow
        envs only; ``"auto"`` is batched where possible, else dummy
    :param seed: as in :meth:`JointVecEnv.seed`
    :param env_kwargs: keyword arguments of the factory
    :param render_mode: the same as ``env_kwargs={"render_mode": ...}``
    :param num_cpus: with ``"subproc"``: number of worker processes, at most one per copy; by default one per CPU core, but
        at least two
    :param check_bounds: whether observations must lie within their spaces; NaN and infinity are never accepted
    :raises ValueError: on an unknown id or kind of VecEnv, or arguments that contradict each other
    :raises TypeError: when ``env`` is none of the above, or SB3 cannot handle its spaces
    """
    kwargs = dict(env_kwargs or {}) | ({} if render_mode is None else {"render_mode": render_mode})
    if vec_env not in KINDS:
        raise ValueError(unknown("vec_env", str(vec_env), KINDS))
    if isinstance(env, VecEnv):
        return _existing(env, n_envs, vec_env, kwargs, seed)
    if not isinstance(n_envs, int) or n_envs < 1:
        raise ValueError(f"n_envs must be a positive integer, not {n_envs!r}")
    if num_cpus is not None and num_cpus < 1:
        raise ValueError(f"num_cpus must be positive, not {num_cpus!r}")
    return JointVecEnv(_backend(env, kwargs, n_envs, vec_env, num_cpus), seed, check_bounds)


def _existing(env: VecEnv, n_envs: int, vec_env: str, kwargs: dict[str, Any], seed: int | None) -> JointVecEnv:
    if not isinstance(env.unwrapped, JointVecEnv):
        raise TypeError(
            f"the {type(env).__name__} given is a single-agent VecEnv; pass the factory of a ParallelEnv, or a JointVecEnv"
        )
    # 1 is the default of everything that passes n_envs on.
    if n_envs not in (1, env.num_envs):
        raise ValueError(f"n_envs={n_envs}, but the JointVecEnv given has {env.num_envs} copies; leave n_envs out")
    if vec_env != "auto" or kwargs:
        raise ValueError("vec_env, env_kwargs and render_mode cannot change an existing JointVecEnv; give them when making it")
    if seed is not None:
        env.seed(seed)
    return cast(JointVecEnv, env)


def _backend(env: Any, kwargs: dict[str, Any], n_envs: int, kind: str, num_cpus: int | None) -> Backend:
    """Make the first env, to see what it is, and the backend that suits it."""
    instance = isinstance(env, ParallelEnv | AECEnv)
    if instance and kwargs:
        raise ValueError(f"env_kwargs {sorted(kwargs)} need a factory, but env is a {type(env).__name__} that exists already")
    if instance:
        first = as_parallel(env)
        factory: EnvFactory = _Copies(first)
    else:
        factory = _factory(env, kwargs)
        first = factory()
    try:
        if isinstance(first, CoreParallelEnv) and kind in ("auto", "batched"):
            return BatchedBackend(first, n_envs)
        if kind == "batched":
            raise ValueError(
                f"vec_env='batched' needs an env with batched rules (an unwrapped CoreParallelEnv), not a "
                f"{type(first).__name__}; use vec_env='auto', 'dummy' or 'subproc'"
            )
        if kind != "subproc":
            return DummyBackend([lambda: first, *[factory] * (n_envs - 1)])
        description = describe(first)
    except BaseException:
        _close(first, instance)
        raise
    _close(first, instance)  # before the workers fork, which then inherit nothing of it
    return SubprocBackend([factory] * n_envs, description, num_cpus)


def _close(env: Any, instance: bool) -> None:
    """Close an env that was made here; an instance is the caller's."""
    if not instance:
        env.close()


class _Copies:
    """
    A factory of copies of an env, as it is before its first step here.

    :param env: any ParallelEnv that cloudpickle can handle
    """

    def __init__(self, env: Any) -> None:
        self._env = env

    def __call__(self) -> Any:
        return cloudpickle.loads(self._pickled)

    @cached_property
    def _pickled(self) -> bytes:
        """Made when the first copy is wanted: a single env in this process need not be picklable."""
        try:
            return bytes(cloudpickle.dumps(self._env))
        except Exception as error:
            raise ValueError(
                f"{self._env} cannot be copied ({type(error).__name__}: {error}); pass a function that makes it instead"
            ) from error

    def __getstate__(self) -> dict[str, Any]:
        return {"_pickled": self._pickled}


def _factory(env: Any, kwargs: dict[str, Any]) -> EnvFactory:
    """A function without arguments that makes one ParallelEnv."""
    if isinstance(env, str):
        return partial(_make, env_factory(env), kwargs)
    if isinstance(env, gymnasium.Env):
        require_parallel_env(env)
    if not callable(env):
        hint = f"; did you mean {env.__name__}.parallel_env?" if hasattr(env, "parallel_env") else ""
        raise TypeError(f"env must be a factory of a ParallelEnv, a ParallelEnv or an env id, not {env!r}{hint}")
    return partial(_make, env, kwargs)


def _make(make: Callable[..., Any], kwargs: dict[str, Any]) -> Any:
    return as_parallel(make(**kwargs))
