"""Classes and policies of the learners: those that suit the action masks and the observations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from typing import Any

from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space

from sb3_matrl.common.agents import learner_groups
from sb3_matrl.common.arguments import per_agent
from sb3_matrl.envs.making import make_env
from sb3_matrl.utils.agent_names import agent_name, keyed_by_text, members_by_text
from sb3_matrl.utils.suggest import unknown
from sb3_matrl.vec_env import EnvError, make_joint_vec_env
from sb3_matrl.zoo.common.hyperparameters import Hyperparameters
from sb3_matrl.zoo.common.names import LEARNERS
from sb3_matrl.zoo.common.schema import AUTO, Schema

# Smaller pictures have no room for the convolutions of SB3's CnnPolicy.
MIN_PICTURE = 36


def with_learners(hyperparameters: Hyperparameters, env_id: str, env_timeout: float | None = None) -> Hyperparameters:
    """
    Replace the ``learner_class`` and the ``policy`` ``auto``, and check the other policies.

    Learners of agents with action masks are ``MaskablePPO``, all others ``PPO``. Dict observations get ``MultiInputPolicy``,
    images ``CnnPolicy``, all others ``MlpPolicy``; ``RecurrentPPO`` gets the recurrent versions of these. An algorithm without
    the argument ``policy`` is left as it is.

    :param hyperparameters: hyper-parameters as they were read
    :param env_id: the environment, which is made only if something is to be chosen, and reset for a ``learner_class``
    :param env_timeout: seconds that the environment may take; ``None`` waits
    :return: one class and one policy for all learners, or mappings if they differ
    :raises ValueError: if the environment cannot be made, a mapping does not name the learners, or a learner has no such
        policy
    :raises ImportError: if the environment needs a package that is missing
    """
    if AUTO in _values(hyperparameters.get("learner_class")):
        hyperparameters = hyperparameters.changed(learner_class=_chosen_classes(hyperparameters, env_id, env_timeout))
    if AUTO in _values(hyperparameters.get("policy")):
        with closing(make_env(env_id, hyperparameters.env_kwargs, hyperparameters.env_wrapper)) as env:
            observation_spaces = {agent_name(agent): env.observation_space(agent) for agent in env.possible_agents}
        hyperparameters = hyperparameters.changed(policy=_chosen(hyperparameters, observation_spaces))
    for policy, learner_class in _pairs(hyperparameters):
        known = _policies(hyperparameters, learner_class)
        label = f"{learner_class}'s policy"
        if known and policy not in known:
            raise ValueError(f"{unknown(label, policy, known)}; or let it be chosen by policy: {AUTO}")
    return hyperparameters


def _policies(hyperparameters: Hyperparameters, learner_class: str) -> list[str]:
    """Names of the policies of a learner's class, or of the algorithm if it has no such learners."""
    if learner_class in LEARNERS:
        return list(LEARNERS[learner_class].policy_aliases)
    return list(Schema.of(hyperparameters.algorithm).cls.policy_aliases)


def _chosen(hyperparameters: Hyperparameters, observation_spaces: Mapping[str, spaces.Space[Any]]) -> Any:
    groups = _groups(hyperparameters, list(observation_spaces))
    given = per_agent("policy", hyperparameters["policy"], list(groups))
    classes = per_agent("learner_class", _learner_class(hyperparameters), list(groups))
    chosen = {
        learner: suitable_policy(observation_spaces[agents[0]], _policies(hyperparameters, classes[learner]))
        if given[learner] == AUTO
        else given[learner]
        for learner, agents in groups.items()
    }
    return _one_or_all(chosen)


def _groups(hyperparameters: Hyperparameters, agents: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Learner -> its agents, by names as text."""
    share, frozen = members_by_text(hyperparameters.get("share")), keyed_by_text(hyperparameters.get("frozen"))
    return learner_groups(agents, share, frozen)


def _one_or_all(chosen: dict[str, str]) -> Any:
    return next(iter(chosen.values())) if len(set(chosen.values())) == 1 else chosen


def _chosen_classes(hyperparameters: Hyperparameters, env_id: str, env_timeout: float | None) -> Any:
    def factory() -> Any:
        return make_env(env_id, hyperparameters.env_kwargs, hyperparameters.env_wrapper)

    with closing(factory()) as env:
        agents = [agent_name(agent) for agent in env.possible_agents]
    masked: set[str] = set()
    with suppress(EnvError):  # the training will tell it
        vec_env = "dummy" if env_timeout is None else "subproc"
        with closing(make_joint_vec_env(factory, vec_env=vec_env, env_timeout=env_timeout)) as copies:
            copies.reset()
            masked = copies.agents_with_masks
    groups = _groups(hyperparameters, agents)
    given = per_agent("learner_class", hyperparameters["learner_class"], list(groups))
    suitable = {learner: "MaskablePPO" if masked.issuperset(agents) else "PPO" for learner, agents in groups.items()}
    return _one_or_all({learner: suitable[learner] if given[learner] == AUTO else given[learner] for learner in groups})


def _learner_class(hyperparameters: Hyperparameters) -> Any:
    """Class of the learners, or a mapping; the algorithm itself where learners have no class of their own."""
    return hyperparameters.get("learner_class", hyperparameters.algorithm)


def suitable_policy(space: spaces.Space[Any], policies: Sequence[str]) -> str:
    """
    Choose a policy by the observations.

    :param space: space of the observations
    :param policies: names of the policies that the learner has
    :return: the name of a policy for such observations
    :raises ValueError: if none of the policies takes such observations
    """
    kind = "MultiInput" if isinstance(space, spaces.Dict) else "Cnn" if _is_picture(space) else "Mlp"
    names = (f"{kind}Policy", f"{kind}LstmPolicy")
    found = [name for name in names if name in policies]
    if not found:
        raise ValueError(f"no policy for observations {space}: expected {' or '.join(names)}, has {', '.join(policies)}")
    return found[0]


def _is_picture(space: spaces.Space[Any]) -> bool:
    return is_image_space(space) and sorted(space.shape or ())[1] >= MIN_PICTURE


def _pairs(hyperparameters: Hyperparameters) -> Iterator[tuple[str, str]]:
    """Policy and class of every learner; learners are known by name where one of the two is a mapping."""
    if "policy" not in hyperparameters.values:
        return
    values: list[Any] = [hyperparameters["policy"], _learner_class(hyperparameters)]
    names = dict.fromkeys(name for value in values if isinstance(value, Mapping) for name in value)
    if not names:
        yield values[0], values[1]
    for name in names:
        # The algorithm, which knows the learners, rejects a name that only one of the mappings has.
        if all(name in value for value in values if isinstance(value, Mapping)):
            policy, learner_class = (value[name] if isinstance(value, Mapping) else value for value in values)
            yield policy, learner_class


def _values(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, Mapping) else [value]
