"""Conversion of any PettingZoo environment to a ParallelEnv."""

from __future__ import annotations

from typing import Any

import gymnasium
from pettingzoo import AECEnv, ParallelEnv
from pettingzoo.utils.conversions import aec_to_parallel

from sb3_matrl.envs.turns import TurnBasedParallelEnv


def is_environment(env: Any) -> bool:
    """Whether ``env`` is an environment of PettingZoo, and not a class, a function or an id that makes one."""
    return isinstance(env, ParallelEnv | AECEnv)


def as_parallel(env: Any) -> Any:
    """
    Convert an environment to a ParallelEnv.

    :param env: a ParallelEnv, which is returned unchanged, or an AECEnv
    :return: a ParallelEnv; agents take turns if PettingZoo cannot convert the AECEnv
    :raises TypeError: if ``env`` is neither; the message says how to convert it
    """
    if isinstance(env, AECEnv):
        simultaneous = getattr(env, "metadata", {}).get("is_parallelizable", False)
        return aec_to_parallel(env) if simultaneous else TurnBasedParallelEnv(env)
    require_parallel_env(env)
    return env


def require_parallel_env(env: Any) -> None:
    """
    Raise unless ``env`` is a PettingZoo ParallelEnv.

    :param env: environment to check
    :raises TypeError: if ``env`` is no ParallelEnv; the message says how to convert it
    """
    if isinstance(env, ParallelEnv):
        return
    kind = type(env).__name__
    if isinstance(env, gymnasium.vector.VectorEnv) or hasattr(env, "step_async"):  # as SB3's VecEnv has
        advice = (
            "is a vector environment (of SuperSuit, gymnasium or SB3), in which agents look like copies of one agent: pass "
            "the ParallelEnv itself, or a function that makes it, and the number of copies as n_envs"
        )
    elif isinstance(env, gymnasium.Env):
        advice = "is a single-agent gymnasium env: train it with SB3 itself, or write it as a ParallelEnv"
    elif callable(env):
        advice = "may make one: give what it returns"
    else:
        advice = "does not derive from pettingzoo.ParallelEnv; derive from it or convert it"
    raise TypeError(f"sb3_matrl needs a PettingZoo ParallelEnv, but the {kind} given {advice}")
