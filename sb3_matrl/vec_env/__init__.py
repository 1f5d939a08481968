"""Vectorised multi-agent environments: copies of a PettingZoo ParallelEnv behind SB3's VecEnv interface."""

from sb3_matrl.envs.parallel import as_parallel
from sb3_matrl.vec_env.errors import EnvDataError, EnvError
from sb3_matrl.vec_env.factory import make_joint_vec_env
from sb3_matrl.vec_env.joint import JointVecEnv
from sb3_matrl.vec_env.step import JointObservation, JointStep, Transition

__all__ = [
    "EnvDataError",
    "EnvError",
    "JointObservation",
    "JointStep",
    "JointVecEnv",
    "Transition",
    "as_parallel",
    "make_joint_vec_env",
]
