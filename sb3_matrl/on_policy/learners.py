"""The agents' learners: unmodified SB3 (or sb3-contrib) on-policy algorithms, built from MATRL's arguments."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from sb3_matrl.utils.suggest import did_you_mean

# Arguments whose value is itself a dict: such a dict is per agent only if its keys name agents.
DICT_VALUED = frozenset({"policy_kwargs", "learner_kwargs", "rollout_buffer_kwargs"})


class SpacesVecEnv(VecEnv):
    """
    The environment as one learner sees it: its spaces and the number of copies, nothing to step.

    SB3 takes spaces only from an environment; agents act together, so stepping one alone has no meaning.

    :param num_envs: copies of the joint environment
    :param observation_space: the agent's
    :param action_space: the agent's
    """

    def __init__(self, num_envs: int, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> None:
        super().__init__(num_envs, observation_space, action_space)

    def _refuse(self) -> Any:
        raise RuntimeError(
            "an agent of MATRL cannot step the environment alone: use MATRL.learn, or give the agent an environment of "
            "its own with set_env"
        )

    def reset(self) -> Any:
        return self._refuse()

    def step_async(self, actions: np.ndarray) -> None:
        self._refuse()

    def step_wait(self) -> Any:
        return self._refuse()

    def close(self) -> None:
        """Nothing to close."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [getattr(self, attr_name, None)] * len(list(self._get_indices(indices)))

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        self._refuse()

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        return list(self._refuse())

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        return [False] * len(list(self._get_indices(indices)))


def per_agent(name: str, value: Any, agents: Sequence[str]) -> dict[str, Any]:
    """
    One value per agent: a dict keyed by agent as it is, anything else repeated.

    :param name: of the argument, for the error
    :param value: one value, or a dict keyed by agent
    :param agents: names of all agents
    :raises ValueError: if a dict keyed by agent lacks an agent or names one that does not exist
    """
    if not isinstance(value, Mapping) or (name in DICT_VALUED and not set(value) & set(agents)):
        return dict.fromkeys(agents, value)
    missing = [agent for agent in agents if agent not in value]
    extra = [str(key) for key in value if key not in agents]
    if missing or extra:
        parts = [f"missing {', '.join(missing)}"] if missing else []
        parts += [f"unknown {', '.join(extra)}{did_you_mean(extra[0], agents)}"] if extra else []
        raise ValueError(f"{name} as a dict needs exactly the keys {', '.join(agents)}: {'; '.join(parts)}")
    return {agent: value[agent] for agent in agents}


def check_space(space: spaces.Space[Any], kind: str) -> None:
    """
    Refuse spaces whose values SB3's policies would misread.

    :param space: an agent's
    :param kind: ``"observation"`` or ``"action"``, for the error
    :raises ValueError: if a discrete space does not count from 0
    """
    if isinstance(space, spaces.Dict):
        for entry in space.spaces.values():
            check_space(entry, kind)
    if isinstance(space, (spaces.Discrete, spaces.MultiDiscrete)) and np.any(space.start):
        raise ValueError(f"SB3 wants discrete spaces that start at 0, not the {kind} space {space}: wrap the env to shift it")


_NAMED, _KEYWORD_ONLY = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY


def accepted_arguments(learner_class: type[OnPolicyAlgorithm]) -> set[str]:
    """Names of the arguments that a learner's constructor takes beside policy and env, passed on as ``**kwargs`` or not."""
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
    One agent's learner.

    :param learner_class: SB3 or sb3-contrib on-policy algorithm
    :param policy: policy name or class
    :param env: the agent's spaces
    :param arguments: SB3 arguments; those that this class does not take, and those that are ``None``, are left to it
    :param learner_kwargs: arguments of this class alone; they win over ``arguments``
    :raises TypeError: if ``learner_class`` is not an on-policy algorithm
    :raises ValueError: if ``learner_kwargs`` has a name that the class does not take, or SB3 cannot use the spaces
    """
    if not (isinstance(learner_class, type) and issubclass(learner_class, OnPolicyAlgorithm)):
        raise TypeError(f"learner_class must be an SB3 on-policy algorithm (PPO, A2C, TRPO, ...), got {learner_class!r}")
    accepted = accepted_arguments(learner_class)
    own = dict(learner_kwargs or {})
    for name in own:
        if name not in accepted:
            hint = did_you_mean(name, accepted)
            raise ValueError(f"learner_kwargs: {learner_class.__name__} takes no argument {name!r}{hint}")
    arguments = {name: value for name, value in arguments.items() if name in accepted and value is not None} | own
    check_space(env.observation_space, "observation")
    check_space(env.action_space, "action")
    try:
        return learner_class(policy, env, **arguments)
    except AssertionError as error:  # SB3 checks its arguments by assertions
        raise ValueError(
            f"{learner_class.__name__} cannot use these spaces or arguments (observations {env.observation_space}, actions "
            f"{env.action_space}){f': {error}' if str(error) else ''}"
        ) from error
