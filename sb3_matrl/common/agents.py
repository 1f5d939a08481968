"""Who learns with which learner: one per agent, one for several agents that share it, none for a frozen agent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gymnasium import spaces

from sb3_matrl.on_policy.learners import SpacesVecEnv
from sb3_matrl.utils.suggest import unknown


def learner_groups(
    agents: Sequence[str], share: Mapping[str, Sequence[str]] | None, frozen: Mapping[str, Any] | None
) -> dict[str, tuple[str, ...]]:
    """
    The learners and the agents of each.

    :param agents: all agents, in the env's order
    :param share: name of a learner -> agents that share it
    :param frozen: its keys are the agents that do not learn
    :return: name -> agents, both in the env's order; a learner of one agent has that agent's name
    :raises ValueError: if an agent is unknown, in two groups or frozen and shared, a group has another agent's name or no
        agent at all, or nobody learns
    """
    groups = _checked_groups(agents, share or {})
    for agent in frozen or {}:
        if agent not in agents:
            raise ValueError(f"frozen: {unknown('agent', str(agent), agents)}")
        group = next((name for name, members in groups.items() if agent in members), None)
        if group is not None:
            raise ValueError(f"frozen: {agent!r} learns in the shared group {group!r}: leave it out of one of the two")
    of_agent = {agent: name for name, members in groups.items() for agent in members}
    learners: dict[str, tuple[str, ...]] = {}
    for agent in agents:
        if agent not in (frozen or {}):
            name = of_agent.get(agent, agent)
            learners[name] = (*learners.get(name, ()), agent)
    if not learners:
        raise ValueError(f"frozen: all agents ({', '.join(agents)}) are frozen: at least one must learn")
    return learners


def _checked_groups(agents: Sequence[str], share: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    if not isinstance(share, Mapping):
        raise ValueError(f"share must be a dict such as {{'team': {list(agents[:2])}}}, got {share!r}")
    taken: dict[str, str] = {}
    for name, members in share.items():
        if isinstance(members, str) or not isinstance(members, Sequence) or not members:
            raise ValueError(f"share: group {name!r} must be a list of agents, got {members!r}")
        if name in agents and name not in members:
            raise ValueError(f"share: group {name!r} has the name of an agent that is not in it: choose another name")
        for agent in members:
            if agent not in agents:
                raise ValueError(f"share: group {name!r}: {unknown('agent', str(agent), agents)}")
            if agent in taken:
                raise ValueError(f"share: {agent!r} is in group {taken[agent]!r} and again in {name!r}: name it once")
            taken[agent] = name
    return {name: tuple(members) for name, members in share.items()}


def group_env(
    name: str, members: Sequence[str], spaces_of: Mapping[str, Mapping[str, spaces.Space[Any]]], n_envs: int
) -> SpacesVecEnv:
    """
    What a learner sees of the env: the spaces of its agents, and a column for each copy of each.

    :param name: of the learner
    :param members: its agents
    :param spaces_of: ``"observation"`` and ``"action"`` -> agent -> space
    :param n_envs: copies of the env
    :raises ValueError: names two agents whose spaces differ
    """
    first = members[0]
    for kind, of_agent in spaces_of.items():
        for other in members[1:]:
            if of_agent[other] != of_agent[first]:
                raise ValueError(
                    f"share: {first!r} and {other!r} of group {name!r} have different {kind} spaces ({of_agent[first]} and "
                    f"{of_agent[other]}): pad them to equal ones (SuperSuit's pad_observations_v0, pad_action_space_v0) or "
                    "leave one out"
                )
    return SpacesVecEnv(n_envs * len(members), spaces_of["observation"][first], spaces_of["action"][first])
