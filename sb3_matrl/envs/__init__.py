"""Environments shipped with sb3-matrl, access to any PettingZoo environment by id, and wrappers by name."""

from sb3_matrl.envs import (
    checkers_v0,
    escalation_v0,
    mamujoco,
    matrix_game_v0,
    pong_v3,
    predator_prey_v0,
    stag_hunt_v0,
    switch_v0,
)
from sb3_matrl.envs.core import BatchedCore, CoreParallelEnv
from sb3_matrl.envs.env_ids import factory, registered_ids
from sb3_matrl.envs.making import EnvSource, env_source, make, make_env
from sb3_matrl.envs.parallel import as_parallel
from sb3_matrl.envs.wrappers import WRAPPERS, Wrappers, wrap

__all__ = [
    "WRAPPERS",
    "BatchedCore",
    "CoreParallelEnv",
    "EnvSource",
    "Wrappers",
    "as_parallel",
    "checkers_v0",
    "env_source",
    "escalation_v0",
    "factory",
    "make",
    "make_env",
    "mamujoco",
    "matrix_game_v0",
    "pong_v3",
    "predator_prey_v0",
    "registered_ids",
    "stag_hunt_v0",
    "switch_v0",
    "wrap",
]
