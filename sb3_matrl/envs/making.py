"""Make environments from ids or factories, with options and wrappers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from pettingzoo import AECEnv, ParallelEnv

from sb3_matrl.envs.env_ids import factory, registered_ids
from sb3_matrl.envs.parallel import as_parallel
from sb3_matrl.envs.pettingzoo_ids import PREFIX
from sb3_matrl.envs.wrappers import Wrappers, wrap
from sb3_matrl.utils.suggest import unknown

# An environment id, or a function of the environment's options that makes a ParallelEnv or an AECEnv.
EnvSource = str | Callable[..., Any]


def make(env_id: str, **kwargs: Any) -> ParallelEnv[Any, Any, Any] | AECEnv[Any, Any, Any]:
    """
    Make an environment, without any conversion.

    :param env_id: environment id, see :func:`factory`
    :param kwargs: options of the environment
    :return: a parallel environment, or an AEC environment where PettingZoo has no other
    :raises ValueError: if the id is unknown or an option is invalid
    :raises TypeError: if the environment does not have an option, or the callable returns no parallel environment
    :raises ImportError: if packages are missing; the message says what to install
    """
    env = _make(env_id, kwargs)
    turn_based = env_id.startswith(PREFIX) and isinstance(env, AECEnv)
    if not isinstance(env, ParallelEnv) and not turn_based:
        raise TypeError(
            f"env {env_id!r} returned a {type(env).__name__}, expected a pettingzoo.ParallelEnv "
            "(convert an AEC environment by pettingzoo.utils.conversions.aec_to_parallel)"
        )
    return env


def make_env(
    env: EnvSource, env_kwargs: Mapping[str, Any] | None = None, env_wrapper: Wrappers = None
) -> ParallelEnv[Any, Any, Any]:
    """
    Make an environment, wrap it and convert it to a ParallelEnv.

    Wrappers are applied before the conversion, so that an AEC environment can have AEC wrappers.

    :param env: environment id (see :func:`factory`), or a function that makes a ParallelEnv or an AECEnv
    :param env_kwargs: options of the environment
    :param env_wrapper: wrappers, in the form that :func:`wrap` takes
    :raises ValueError: if the id is unknown, the environment rejects its options, or it is no PettingZoo environment
    :raises ImportError: if packages are missing; the message says what to install
    """
    kwargs = dict(env_kwargs or {})
    try:
        made = _make(env, kwargs)
    except TypeError as error:
        raise ValueError(f"env {env} with options {kwargs}: {error}") from error
    if not isinstance(made, (ParallelEnv, AECEnv)):
        raise ValueError(f"env {env} is a {type(made).__name__}, not a PettingZoo ParallelEnv")
    parallel: ParallelEnv[Any, Any, Any] = as_parallel(wrap(made, env_wrapper))
    return parallel


def env_source(env: EnvSource, env_wrapper: Wrappers) -> EnvSource:
    """
    Combine an environment with its wrappers into one argument for ``MATRL`` or ``make_joint_vec_env``.

    :param env: environment id or factory
    :param env_wrapper: wrappers, in the form that :func:`wrap` takes
    :return: ``env`` itself if there are no wrappers, so that batched rules are used; otherwise a function of the
        environment's options
    """
    return partial(_make_wrapped, env, env_wrapper) if env_wrapper else env


def check_env(env: EnvSource, env_kwargs: Mapping[str, Any] | None = None, env_wrapper: Wrappers = None) -> None:
    """
    Check that :func:`make_env` can make an environment: make it and close it.

    :raises ValueError: see :func:`make_env`
    :raises ImportError: see :func:`make_env`
    """
    make_env(env, env_kwargs, env_wrapper).close()


def _make_wrapped(env: EnvSource, env_wrapper: Wrappers, /, **env_kwargs: Any) -> ParallelEnv[Any, Any, Any]:
    return make_env(env, env_kwargs, env_wrapper)


def _make(env: EnvSource, kwargs: dict[str, Any]) -> Any:
    make_function = factory(env) if isinstance(env, str) else env
    if env in registered_ids():
        _check_keywords(str(env), make_function, kwargs)
    return make_function(**kwargs)


def _check_keywords(env_id: str, make_function: Callable[..., Any], kwargs: dict[str, Any]) -> None:
    parameters = inspect.signature(make_function).parameters
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return  # the environment checks them itself
    known = list(parameters)
    for keyword in kwargs:
        if keyword not in known:
            raise TypeError(unknown(f"{env_id}: option", keyword, known))
