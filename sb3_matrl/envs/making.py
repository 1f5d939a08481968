"""Environments of the command lines: looked up and tried before anything is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from pettingzoo import AECEnv, ParallelEnv

from sb3_matrl.envs.parallel import as_parallel
from sb3_matrl.envs.registry import factory, make, registered_ids
from sb3_matrl.envs.wrappers import Wrappers, wrap

# What MATRL and make_joint_vec_env take.
EnvSource = str | Callable[..., ParallelEnv[Any, Any, Any]]


def make_env(env_id: str, env_kwargs: Mapping[str, Any], env_wrapper: Wrappers = None) -> ParallelEnv[Any, Any, Any]:
    """
    Make one environment.

    :param env_id: a registered id, ``pettingzoo:family/name-v0``, or ``module:callable`` that makes a ParallelEnv or an AECEnv
    :param env_kwargs: its options
    :param env_wrapper: what is put around it, as :func:`sb3_matrl.envs.wrappers.read_wrappers` takes it
    :raises ValueError: when the id is unknown, the environment refuses its options, or it is no PettingZoo environment
    :raises ImportError: when a package is missing that the environment needs
    """
    try:
        ours = env_id in registered_ids() or env_id.startswith("pettingzoo:")
        env: Any = make(env_id, **env_kwargs) if ours else factory(env_id)(**env_kwargs)
    except TypeError as error:
        raise ValueError(f"env {env_id} with options {dict(env_kwargs)}: {error}") from error
    if not isinstance(env, (ParallelEnv, AECEnv)):
        raise ValueError(f"env {env_id} is a {type(env).__name__}, not a PettingZoo ParallelEnv")
    parallel: ParallelEnv[Any, Any, Any] = as_parallel(wrap(env, env_wrapper))
    return parallel


def env_source(env_id: str, env_wrapper: Wrappers) -> EnvSource:
    """
    :param env_id: as for :func:`make_env`
    :param env_wrapper: likewise
    :return: the id itself where nothing is put around the environment, so that batched rules are used; else a function of
        the environment's options
    """
    return partial(_make_wrapped, env_id, env_wrapper) if env_wrapper else env_id


def _make_wrapped(env_id: str, env_wrapper: Wrappers, /, **env_kwargs: Any) -> ParallelEnv[Any, Any, Any]:
    return make_env(env_id, env_kwargs, env_wrapper)


def check_env(env_id: str, env_kwargs: Mapping[str, Any], env_wrapper: Wrappers = None) -> None:
    """
    Make an environment and close it again.

    :raises ValueError: as :func:`make_env`
    :raises ImportError: likewise
    """
    make_env(env_id, env_kwargs, env_wrapper).close()
