"""Environments of the command lines: looked up and tried before anything is written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pettingzoo import AECEnv, ParallelEnv
from pettingzoo.utils.conversions import aec_to_parallel

from sb3_matrl.envs.registry import factory, make, registered_ids


def make_env(env_id: str, env_kwargs: Mapping[str, Any]) -> ParallelEnv[Any, Any, Any]:
    """
    Make one environment.

    :param env_id: a registered id, or ``module:callable`` that returns a ParallelEnv or an AECEnv that can be converted
    :param env_kwargs: its options
    :raises ValueError: when the id is unknown, the environment refuses its options, or it is no PettingZoo environment
    """
    try:
        env: Any = make(env_id, **env_kwargs) if env_id in registered_ids() else factory(env_id)(**env_kwargs)
    except TypeError as error:
        raise ValueError(f"env {env_id} with options {dict(env_kwargs)}: {error}") from error
    if not isinstance(env, (ParallelEnv, AECEnv)):
        raise ValueError(f"env {env_id} is a {type(env).__name__}, not a PettingZoo ParallelEnv")
    return aec_to_parallel(env) if isinstance(env, AECEnv) else env


def check_env(env_id: str, env_kwargs: Mapping[str, Any]) -> None:
    """
    Make an environment and close it again.

    :raises ValueError: as :func:`make_env`
    """
    make_env(env_id, env_kwargs).close()
