"""Any PettingZoo env as a ParallelEnv."""

from __future__ import annotations

from typing import Any

import gymnasium
from pettingzoo import AECEnv, ParallelEnv
from pettingzoo.utils.conversions import aec_to_parallel

from sb3_matrl.envs.turns import TurnBasedParallelEnv


def as_parallel(env: Any) -> Any:
    """The env itself, or a parallel view of an AECEnv."""
    if isinstance(env, AECEnv):
        simultaneous = getattr(env, "metadata", {}).get("is_parallelizable", False)
        return aec_to_parallel(env) if simultaneous else TurnBasedParallelEnv(env)
    require_parallel_env(env)
    return env


def require_parallel_env(env: Any) -> None:
    """
    Raise unless ``env`` is a PettingZoo ParallelEnv.

    :raises TypeError: says what it is and how to make a ParallelEnv of it
    """
    if isinstance(env, ParallelEnv):
        return
    kind = type(env).__name__
    if isinstance(env, gymnasium.Env):
        advice = "is a single-agent gymnasium env: train it with SB3 itself, or write it as a ParallelEnv"
    else:
        advice = "does not derive from pettingzoo.ParallelEnv; derive from it or convert it"
    raise TypeError(f"sb3_matrl needs a PettingZoo ParallelEnv, but the {kind} given {advice}")
