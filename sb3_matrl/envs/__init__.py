"""Environments shipped with sb3-matrl, and access to any PettingZoo parallel environment by id."""

from sb3_matrl.envs import checkers_v0, mamujoco, matrix_game_v0, pong_v3, switch_v0
from sb3_matrl.envs.core import BatchedCore, CoreParallelEnv
from sb3_matrl.envs.registry import factory, make, registered_ids

__all__ = [
    "BatchedCore",
    "CoreParallelEnv",
    "checkers_v0",
    "factory",
    "make",
    "mamujoco",
    "matrix_game_v0",
    "pong_v3",
    "registered_ids",
    "switch_v0",
]
