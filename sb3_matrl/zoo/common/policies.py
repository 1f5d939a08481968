"""Which of SB3's policies a learner gets: those that its class has, and the one that suits its observations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from typing import Any

from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space

from sb3_matrl.common.agents import learner_groups
from sb3_matrl.envs.making import make_env
from sb3_matrl.on_policy.learners import per_agent
from sb3_matrl.utils.suggest import unknown
from sb3_matrl.zoo.common.hyperparameters import AUTO, Hyperparameters
from sb3_matrl.zoo.common.names import LEARNERS

# Smaller pictures have no room for the convolutions of SB3's CnnPolicy.
MIN_PICTURE = 36


def with_policies(hyperparameters: Hyperparameters, env_id: str) -> Hyperparameters:
    """
    Put policies in place of ``auto``, and check the others.

    Dict observations get ``MultiInputPolicy``, images ``CnnPolicy``, all others ``MlpPolicy``; ``RecurrentPPO`` gets the
    recurrent versions of these.

    :param hyperparameters: as they were read
    :param env_id: the environment; it is made only if there is something to choose
    :return: one policy for all learners, or a mapping if they differ
    :raises ValueError: when the environment cannot be made, a mapping does not name the learners, or a learner has no such
        policy
    :raises ImportError: when a package is missing that the environment needs
    """
    if AUTO in _values(hyperparameters.policy):
        with closing(make_env(env_id, hyperparameters.env_kwargs, hyperparameters.env_wrapper)) as env:
            observation_spaces = {agent: env.observation_space(agent) for agent in env.possible_agents}
        hyperparameters = replace(hyperparameters, policy=_chosen(hyperparameters, observation_spaces))
    for policy, learner_class in _pairs(hyperparameters):
        if policy not in LEARNERS[learner_class].policy_aliases:
            known = unknown(f"{learner_class}'s policy", policy, LEARNERS[learner_class].policy_aliases)
            raise ValueError(f"{known}; or let it be chosen by policy: {AUTO}")
    return hyperparameters


def _chosen(hyperparameters: Hyperparameters, observation_spaces: Mapping[str, spaces.Space[Any]]) -> Any:
    groups = learner_groups(list(observation_spaces), hyperparameters.share, hyperparameters.frozen)
    given, classes = (per_agent(name, getattr(hyperparameters, name), list(groups)) for name in ("policy", "learner_class"))
    chosen = {
        learner: suitable_policy(observation_spaces[agents[0]], classes[learner]) if given[learner] == AUTO else given[learner]
        for learner, agents in groups.items()
    }
    distinct = set(chosen.values())
    return distinct.pop() if len(distinct) == 1 else chosen


def suitable_policy(space: spaces.Space[Any], learner_class: str) -> str:
    """
    :param space: of the observations
    :param learner_class: name of the learner's class
    :return: name of SB3's policy for such observations
    """
    kind = "MultiInput" if isinstance(space, spaces.Dict) else "Cnn" if _is_picture(space) else "Mlp"
    names = (f"{kind}Policy", f"{kind}LstmPolicy")
    return next(name for name in names if name in LEARNERS[learner_class].policy_aliases)


def _is_picture(space: spaces.Space[Any]) -> bool:
    return is_image_space(space) and sorted(space.shape or ())[1] >= MIN_PICTURE


def _pairs(hyperparameters: Hyperparameters) -> Iterator[tuple[str, str]]:
    """Policy and class of every learner; learners are known by name where one of the two is a mapping."""
    values: list[Any] = [hyperparameters.policy, hyperparameters.learner_class]
    names = dict.fromkeys(name for value in values if isinstance(value, Mapping) for name in value)
    if not names:
        yield values[0], values[1]
    for name in names:
        # A name that only one of the mappings has is refused by MATRL, which knows the learners.
        if all(name in value for value in values if isinstance(value, Mapping)):
            policy, learner_class = (value[name] if isinstance(value, Mapping) else value for value in values)
            yield policy, learner_class


def _values(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, Mapping) else [value]
