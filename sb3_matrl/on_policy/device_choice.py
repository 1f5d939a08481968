"""What ``device="auto"`` stands for where there is a GPU: the device that updates the learners faster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch as th
from gymnasium import spaces
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3 import PPO
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import get_flattened_obs_dim

from sb3_matrl.common.agents import SpacesVecEnv
from sb3_matrl.common.arguments import LearnerArguments
from sb3_matrl.stacked.native_kernel import kernel_threads, native_obstacle

#: Rows of a minibatch times parameters, of all learners, per thread of the CPU. An H200 took steps faster than a core from 18
#: million on (``benchmarks/results/gpu_check.json``); the margin is for collection, which is slower on a GPU.
WORK_FOR_A_GPU = 20_000_000
_FULLY_CONNECTED: tuple[Any, ...] = ("MlpPolicy", ActorCriticPolicy, MaskableActorCriticPolicy)
_DEFAULT_LAYERS = (64, 64)


def choose_device(envs: Mapping[str, SpacesVecEnv], arguments: LearnerArguments) -> th.device:
    """
    The CPU for small fully connected networks in small minibatches, and else a GPU, if there is one.

    :param envs: name of the learner -> its spaces
    :param arguments: constructor arguments by learner
    :return: the device
    """
    if not th.cuda.is_available():
        return th.device("cpu")
    work = minibatch_work(envs, arguments)
    threads = min(kernel_threads(), len(envs)) if native_obstacle() is None else 1
    return th.device("cuda" if work is None or work >= WORK_FOR_A_GPU * threads else "cpu")


def minibatch_work(envs: Mapping[str, SpacesVecEnv], arguments: LearnerArguments) -> int | None:
    """
    Rows of a minibatch times parameters of its learner, summed over those that are updated together; central critics count as
    if they saw observations.

    :param envs: name of the learner -> its spaces
    :param arguments: constructor arguments by learner
    :return: the work; ``None`` if a learner has another network than SB3's fully connected one
    """
    works = [_work(env, arguments.all_of(_READ, name)) for name, env in envs.items()]
    known = [work for work in works if work is not None]
    if len(known) < len(works):
        return None
    return max(known) if arguments.values["backend"] == "sb3" else sum(known)


_READ = ("policy", "policy_kwargs", "learner_class", "batch_size")


def _work(env: SpacesVecEnv, own: Mapping[str, Any]) -> int | None:
    """Work of one learner."""
    settings = dict(own["policy_kwargs"] or {})
    if own["policy"] not in _FULLY_CONNECTED or own["learner_class"] not in (PPO, MaskablePPO):
        return None
    if "features_extractor_class" in settings or isinstance(env.observation_space, spaces.Dict):
        return None
    inputs, outputs = get_flattened_obs_dim(env.observation_space), spaces.flatdim(env.action_space)
    layers = settings.get("net_arch")
    actor, critic = (_layers(layers, name) for name in ("pi", "vf"))
    return int(own["batch_size"]) * (_parameters(inputs, actor, outputs) + _parameters(inputs, critic, 1))


def _layers(net_arch: Any, name: str) -> Sequence[int]:
    if net_arch is None:
        return _DEFAULT_LAYERS
    return list(net_arch.get(name, ()) if isinstance(net_arch, Mapping) else net_arch)


def _parameters(inputs: int, layers: Sequence[int], outputs: int) -> int:
    """Weights and biases of a fully connected network."""
    return sum((before + 1) * after for before, after in pairwise((inputs, *layers, outputs)))
