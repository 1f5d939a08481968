"""On-policy learners: unmodified SB3 and sb3-contrib algorithms, built from an algorithm's constructor arguments."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any

import torch as th
from stable_baselines3 import PPO
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from sb3_matrl.common.agents import SpacesVecEnv
from sb3_matrl.common.argument_checks import check_policy_name
from sb3_matrl.common.arguments import LearnerArguments
from sb3_matrl.common.space_checks import check_space, errors_name_spaces
from sb3_matrl.on_policy.central_policies import with_central_critic
from sb3_matrl.on_policy.learner_trial import check_trial
from sb3_matrl.utils.memory import memory_size
from sb3_matrl.utils.suggest import did_you_mean
from sb3_matrl.vec_env.spaces import leaves_of

# Arguments of SB3's constructors that belong to the joint model, not to its learners.
_OF_THE_MODEL = {"device", "seed", "verbose", "tensorboard_log", "_init_setup_model"}
# Arguments in which no learner may differ from the others.
_NOT_FOR_ONE_LEARNER = {"n_steps", *_OF_THE_MODEL}


_NAMED, _KEYWORD_ONLY = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY


def check_learner_class(learner_class: Any) -> None:
    """
    :param learner_class: class of a learner
    :raises TypeError: if it is no on-policy algorithm of SB3 or sb3-contrib
    """
    if not (isinstance(learner_class, type) and issubclass(learner_class, OnPolicyAlgorithm)):
        raise TypeError(f"learner_class must be an SB3 on-policy algorithm (PPO, A2C, TRPO, ...), got {learner_class!r}")


def accepted_arguments(learner_class: type[OnPolicyAlgorithm]) -> set[str]:
    """Names of the arguments of a learner's constructor beside policy and env, those passed on as ``**kwargs`` included."""
    names: set[str] = set()
    for cls in learner_class.__mro__:
        if "__init__" not in vars(cls):
            continue
        parameters = inspect.signature(vars(cls)["__init__"]).parameters.values()
        names |= {parameter.name for parameter in parameters if parameter.kind in (_NAMED, _KEYWORD_ONLY)}
        if all(parameter.kind is not inspect.Parameter.VAR_KEYWORD for parameter in parameters):
            break
    return names - {"self", "policy", "env"}


def build_learner(
    learner_class: type[OnPolicyAlgorithm],
    policy: Any,
    env: SpacesVecEnv,
    arguments: Mapping[str, Any],
    learner_kwargs: Mapping[str, Any] | None,
) -> OnPolicyAlgorithm:
    """
    Build one learner.

    :param learner_class: SB3 or sb3-contrib on-policy algorithm
    :param policy: policy name or class
    :param env: spaces and number of columns of the learner
    :param arguments: SB3 arguments; the class uses its own defaults for those that are ``None``, and gets none that it lacks
    :param learner_kwargs: arguments of this class alone; they take precedence over ``arguments``
    :raises TypeError: if ``learner_class`` is not an on-policy algorithm
    :raises ValueError: if the policy's name is unknown, ``learner_kwargs`` has a name that the class does not take, or SB3
        cannot use the spaces
    """
    check_learner_class(learner_class)
    check_policy_name(policy, learner_class.policy_aliases)
    accepted = accepted_arguments(learner_class)
    own = dict(learner_kwargs or {})
    for name in own:
        if name in _NOT_FOR_ONE_LEARNER:
            raise ValueError(f"learner_kwargs: {name} is an argument of the whole model: give it there")
        if name not in accepted:
            hint = did_you_mean(name, accepted)
            raise ValueError(f"learner_kwargs: {learner_class.__name__} takes no argument {name!r}{hint}")
    arguments = {name: value for name, value in arguments.items() if name in accepted and value is not None} | own
    check_space(env.observation_space, "observation")
    check_space(env.action_space, "action")
    with errors_name_spaces(learner_class.__name__, env.observation_space, env.action_space):
        return learner_class(policy, env, **arguments)


def learner_argument_names(arguments: Mapping[str, Any]) -> list[str]:
    """
    The arguments that learners are built with: those that SB3's PPO has, too.

    :param arguments: constructor arguments of the joint algorithm
    """
    known = accepted_arguments(PPO) - _OF_THE_MODEL
    return [name for name in arguments if name in known]


def build_learners(
    envs: Mapping[str, SpacesVecEnv],
    arguments: LearnerArguments,
    device: th.device | str,
    state_sizes: Mapping[str, int] | None = None,
) -> dict[str, OnPolicyAlgorithm]:
    """
    Build all learners from ``policy``, ``learner_class``, ``learner_kwargs`` and the arguments of SB3's PPO.

    :param envs: name of the learner -> its spaces and number of columns
    :param arguments: constructor arguments by learner
    :param device: device of the networks
    :param state_sizes: name of the learner -> number of elements that its central critic sees; ``None`` for critics that see
        their agents' observations
    :return: name -> learner, in the same order
    :raises TypeError: as :func:`build_learner`
    :raises ValueError: as :func:`build_learner`, or if a learner cannot act or learn on its spaces; names the agent
    """
    n_envs = min(env.num_envs for env in envs.values())
    sizes = dict.fromkeys(envs, 0) if state_sizes is None else state_sizes
    row_bytes = sum(env.num_envs // n_envs * (_row_bytes(env) + 4 * sizes[name]) for name, env in envs.items())
    check_rollout_memory(arguments.values["n_steps"], n_envs, row_bytes)
    learners = {}
    for name, env in envs.items():
        own = arguments.all_of(learner_argument_names(arguments.values), name) | {"device": device}
        if own["policy_kwargs"] is not None:
            own["policy_kwargs"] = dict(own["policy_kwargs"])  # SB3 writes into it
        learner_class, policy, learner_kwargs = (
            arguments.of(argument, name) for argument in ("learner_class", "policy", "learner_kwargs")
        )
        try:
            if sizes[name]:
                policy = with_central_critic(learner_class, policy)
                own["policy_kwargs"] = {**(own["policy_kwargs"] or {}), "state_size": sizes[name]}
            learners[name] = build_learner(learner_class, policy, env, own, learner_kwargs)
            check_trial(learners[name], env.observation_space)
        except ValueError as error:
            raise ValueError(f"agent {name!r}: {error}") from error
    return learners


# Bytes of a buffer's row without observation and action: six numbers such as the reward and the value.
_LEAST_ROW_BYTES = 24


def check_rollout_memory(n_steps: int, n_envs: int, row_bytes: int = _LEAST_ROW_BYTES) -> None:
    """
    Check that this machine's memory can hold a rollout.

    :param n_steps: steps per copy
    :param n_envs: number of copies
    :param row_bytes: bytes of one step of one copy, for all learners; the least possible by default
    :raises ValueError: if it cannot
    """
    needed, present = n_steps * n_envs * row_bytes, memory_size()
    if present is not None and needed > present:
        raise ValueError(
            f"n_steps={n_steps} in n_envs={n_envs} copies makes rollouts of {needed / 2**30:,.1f} GiB, and this machine has "
            f"{present / 2**30:,.1f} GiB of memory: choose smaller ones"
        )


def _row_bytes(env: SpacesVecEnv) -> int:
    """Bytes of one row of a rollout buffer."""
    observation, action = leaves_of(env.observation_space), leaves_of(env.action_space)
    return _LEAST_ROW_BYTES + sum(leaf.nbytes for leaf in observation) + 4 * sum(math.prod(leaf.shape) for leaf in action)
