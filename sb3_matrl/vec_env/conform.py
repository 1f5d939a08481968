"""Checks that the data an env returns follows PettingZoo's rules and the env's own spaces."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from sb3_matrl.envs.layers import conversion_that_hides
from sb3_matrl.envs.snapshot import Snapshot, check_keys
from sb3_matrl.vec_env.spaces import Leaf

_DICTS = (dict, Mapping)  # checked in this order, because the check for an abstract class is slow


def conforming_leaves(agent: str, leaves: list[Leaf], observation: Any) -> list[np.ndarray]:
    """
    Convert an observation to arrays with its space's shapes and dtypes.

    :param agent: name of the agent, for messages
    :param leaves: leaves of the agent's observation space
    :param observation: observation that the env returned
    :return: one array per leaf
    :raises ValueError: if entries are missing or unknown, or a shape or a dtype is wrong
    """
    if leaves[0].key is None:
        return [_conforming(agent, leaves[0], observation)]
    if not isinstance(observation, Mapping) or observation.keys() != {leaf.key for leaf in leaves}:
        found = list(observation) if isinstance(observation, Mapping) else type(observation).__name__
        raise ValueError(f"agent {agent!r}: observation has {found}, expected a dict of {[leaf.key for leaf in leaves]}")
    return [_conforming(agent, leaf, observation[leaf.key]) for leaf in leaves]


def _conforming(agent: str, leaf: Leaf, value: Any) -> np.ndarray:
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:  # ragged lists, tensors with gradients
        raise ValueError(f"agent {agent!r}: observation is no array of shape {leaf.shape}: {error}") from None
    if array.shape != leaf.shape:
        raise ValueError(f"agent {agent!r}: observation has shape {array.shape}, expected {leaf.shape} of {leaf}")
    if array.dtype != leaf.dtype:
        array = _cast(agent, leaf, array)
    return array


def _cast(agent: str, leaf: Leaf, array: np.ndarray) -> np.ndarray:
    """Accept other widths of the same kind, and integers for floats, if values change by rounding at most."""
    kinds = "biuf" if leaf.dtype.kind == "f" else "biu"
    if array.dtype.kind not in kinds:
        raise ValueError(f"agent {agent!r}: observation has dtype {array.dtype}, expected {leaf.dtype} of {leaf}")
    with np.errstate(over="ignore"):
        cast = array.astype(leaf.dtype)
    if leaf.dtype.kind != "f" and not np.array_equal(cast, array):
        raise ValueError(f"agent {agent!r}: observation {array.tolist()} does not fit {leaf.dtype} of {leaf}")
    return cast


def outcome_of(result: Any) -> tuple[Any, Any, Any, Any, Any]:
    """
    Check the form of the return value of ``step()``.

    :param result: return value of ``step()``
    :return: observations, rewards, terminations, truncations and infos
    :raises ValueError: if the form is wrong; the message says what is expected
    """
    if not (
        isinstance(result, tuple)
        and len(result) == 5
        and isinstance(result[0], _DICTS)
        and isinstance(result[1], _DICTS)
        and isinstance(result[2], _DICTS)
        and isinstance(result[3], _DICTS)
    ):
        raise ValueError(
            "step() must return five dicts keyed by agent: observations, rewards, terminations, truncations, infos"
        )
    return result


def start_of(result: Any) -> tuple[Mapping[str, Any], Any]:
    """
    Check the form of the return value of ``reset()``.

    :param result: return value of ``reset()``
    :return: observations and infos
    :raises ValueError: if the form is wrong; the message says what is expected
    """
    if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[0], Mapping)):
        raise ValueError("reset() must return (observations, infos), two dicts keyed by agent")
    return result


def nonempty_infos(infos: Any) -> dict[str, dict[str, Any]]:
    """
    Select the agents' infos that are not empty.

    :param infos: infos that ``reset()`` or ``step()`` returned; ``None`` and ``{}`` are accepted
    :raises ValueError: if the infos are not dicts keyed by agent
    """
    if not infos:
        return {}
    if not isinstance(infos, _DICTS):
        raise ValueError(f"the infos are of type {type(infos).__name__}, expected a dict keyed by agent")
    nonempty = {agent: info for agent, info in infos.items() if info}
    for agent, info in nonempty.items():
        if not isinstance(info, _DICTS):
            raise ValueError(f"agent {agent!r}: its info is of type {type(info).__name__}, expected a dict")
    return {agent: dict(info) for agent, info in nonempty.items()}


def listed_agents(env: Any) -> list[Any]:
    """
    List ``env.agents``.

    :param env: a ParallelEnv
    :raises ValueError: if the env has no such attribute
    """
    agents = getattr(env, "agents", None)
    if agents is None:
        raise ValueError("the env has no attribute agents; set self.agents to the list of live agents in reset() and step()")
    return list(agents)


def acting_of(env: Any, live: list[str], possible_agents: list[str]) -> list[str]:
    """
    List the agents that choose the next action: ``env.acting_agents`` if the env has it, otherwise all live agents.

    :param env: a ParallelEnv
    :param live: live agents, in order
    :param possible_agents: possible agents of the env
    :return: acting agents that are alive, in order
    :raises ValueError: if the attribute is no collection of possible agents
    """
    acting = getattr(env, "acting_agents", None)
    if acting is None:
        return live
    if isinstance(acting, str) or not isinstance(acting, Collection):
        raise ValueError(f"env.acting_agents is {acting!r}, expected a list of agents")
    unknown = [agent for agent in acting if agent not in possible_agents]
    if unknown:
        raise ValueError(f"agent {unknown[0]!r} is in env.acting_agents but not in possible_agents {possible_agents}")
    return [agent for agent in live if agent in acting]


def require_visible_turns(env: Any) -> None:
    """
    Check that no conversion hides ``acting_agents``: all agents would act in every step.

    :param env: a ParallelEnv that has been reset
    :raises ValueError: if a conversion of PettingZoo does; the message says what to do
    """
    conversion = conversion_that_hides(env, "acting_agents")
    if conversion is not None:
        raise ValueError(
            f"the acting_agents of the env inside are hidden by {type(conversion).__name__}, which some wrappers of SuperSuit "
            "add: all agents would act in every step. Put the wrappers around the AECEnv itself, before it becomes a "
            "ParallelEnv (env_wrapper does), or wrap by a pettingzoo.utils.BaseParallelWrapper of your own"
        )


class Life:
    """
    Live agents in the current episode of one env, and checks of PettingZoo's rules about them.

    An agent is alive from the time the env lists it in ``agents`` until it is terminated or truncated. It may not return
    before the next episode. An env may continue to list agents after their end.

    :param possible_agents: possible agents, in the env's order
    """

    def __init__(self, possible_agents: list[str]) -> None:
        self.possible_agents = possible_agents
        self.columns = {agent: column for column, agent in enumerate(possible_agents)}
        self.live: list[str] = []
        self._ended: set[str] = set()
        self._gone: set[str] = set()

    def begin(self, possible_agents: list[str], listed: list[str]) -> None:
        """
        Start an episode.

        :param possible_agents: ``env.possible_agents`` after the reset
        :param listed: ``env.agents`` after the reset
        :raises ValueError: if the possible agents changed, no agent is alive, or an agent is unknown
        """
        if possible_agents != self.possible_agents and set(possible_agents) != set(self.possible_agents):
            raise ValueError(
                f"possible_agents changed from {self.possible_agents} to {possible_agents}; they must never change"
            )
        if not listed:
            raise ValueError("env.agents is empty after reset(); expected at least one live agent")
        self._ended, self._gone = set(), set()
        self.live = self._in_order(listed)

    def snapshot(self) -> Snapshot:
        """Agents that are alive, have ended, and are no longer listed, each in order."""
        out = {"ended": self._ended, "gone": self._gone}
        return {"live": list(self.live), **{key: self._in_order(list(agents)) for key, agents in out.items()}}

    def restore(self, snapshot: Snapshot) -> None:
        """
        Restore a snapshot.

        :param snapshot: return value of :meth:`snapshot`
        :raises ValueError: if the snapshot does not fit; nothing is changed then
        """
        check_keys("snapshot of the live agents", snapshot, ["live", "ended", "gone"])
        if not all(isinstance(agents, list) for agents in snapshot.values()):
            raise ValueError(f"snapshot of the live agents: expected three lists of agents, got {snapshot!r}")
        live, ended, gone = (self._in_order(snapshot[key]) for key in ("live", "ended", "gone"))
        self.live, self._ended, self._gone = live, set(ended), set(gone)

    def advance(self, listed: list[str], terminations: Mapping[str, Any], truncations: Mapping[str, Any]) -> list[str]:
        """
        Update :attr:`live` after a step.

        :param listed: ``env.agents`` after the step
        :param terminations: terminations that ``step()`` returned
        :param truncations: truncations that ``step()`` returned
        :return: agents that ended in this step
        :raises ValueError: if an agent vanished without an end, returned after its end, or is unknown
        """
        ended = [agent for agent in self.live if True in self.flags(agent, terminations, truncations)]
        if listed != self.live or ended:
            self._follow(listed, ended)
        return ended

    def _follow(self, listed: list[str], ended: list[str]) -> None:
        present = set(listed)
        staying = [agent for agent in self.live if agent not in ended]
        vanished = [agent for agent in staying if agent not in present]
        if vanished:
            raise ValueError(f"agent {vanished[0]!r} left env.agents without termination or truncation; set one of them")
        returned = [agent for agent in listed if agent in self._gone]
        if returned:
            raise ValueError(
                f"agent {returned[0]!r} came back to env.agents after its end; an agent that has ended may return in the "
                "next episode only"
            )
        self._ended.update(ended)
        self._gone = self._ended - present
        self.live = self._in_order([agent for agent in listed if agent not in self._ended])

    def _in_order(self, listed: list[str]) -> list[str]:
        unknown = [agent for agent in listed if agent not in self.columns]
        if unknown:
            raise ValueError(f"agent {unknown[0]!r} is in env.agents but not in possible_agents {self.possible_agents}")
        present = set(listed)
        return [agent for agent in self.possible_agents if agent in present]

    @staticmethod
    def flags(agent: str, terminations: Mapping[str, Any], truncations: Mapping[str, Any]) -> tuple[bool, bool]:
        """
        Termination and truncation of an agent.

        :raises ValueError: if one is missing or no bool
        """
        if agent not in terminations or agent not in truncations:
            which = "truncation" if agent in terminations else "termination"
            raise ValueError(f"agent {agent!r}: step() returned no {which}; expected one for every agent that was alive")
        try:
            return bool(terminations[agent]), bool(truncations[agent])
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"agent {agent!r}: its termination and truncation must be one bool each: {error}") from None

    @staticmethod
    def reward(agent: str, rewards: Mapping[str, Any]) -> float:
        """
        Reward of an agent.

        :raises ValueError: if the reward is missing or not a number
        """
        if agent not in rewards:
            raise ValueError(f"agent {agent!r}: step() returned no reward; expected one for every agent that was alive")
        reward = rewards[agent]
        if type(reward) is float:
            return reward
        try:
            if np.ndim(reward) != 0:
                raise TypeError
            return float(reward)
        except (TypeError, ValueError, OverflowError, RuntimeError):
            raise ValueError(f"agent {agent!r}: reward is {reward!r}, expected one number") from None
