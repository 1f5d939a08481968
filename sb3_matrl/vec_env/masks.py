"""Action masks: which actions are legal, from observations or infos, in the form that sb3-contrib's distributions take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_matrl.envs.snapshot import Snapshot, check_array
from sb3_matrl.vec_env.backend import AgentInfos
from sb3_matrl.vec_env.errors import DataFault
from sb3_matrl.vec_env.spaces import AgentSpaces, leaves_of
from sb3_matrl.vec_env.step import JointObservation
from sb3_matrl.vec_env.value_checks import When

# The entry of a Dict observation, or of an info, that holds a mask.
MASK = "action_mask"


def options_of(space: spaces.Space[Any]) -> np.ndarray:
    """
    How many options each part of an action has; a mask has one value per option, part by part.

    :param space: an action space
    :return: (parts,): n of a Discrete, nvec of a MultiDiscrete, a 2 for every bit of a MultiBinary; empty for a Box, whose
        actions cannot be masked
    """
    if isinstance(space, spaces.Discrete):
        return np.array([int(space.n)])
    if isinstance(space, spaces.MultiDiscrete):
        return np.asarray(space.nvec).ravel()
    if isinstance(space, spaces.MultiBinary):
        return np.full(int(np.prod(space.shape)), 2)
    return np.zeros(0, dtype=np.int64)


class MaskReader:
    """
    Checks one agent's masks.

    :param agent: name for messages
    :param column: of the agent
    :param space: its action space
    """

    def __init__(self, agent: str, column: int, space: spaces.Space[Any]) -> None:
        self.agent = agent
        self.column = column
        self.space = space
        options = options_of(space)
        self.size = int(options.sum())
        self._starts = np.cumsum(options) - options

    def expected(self) -> str:
        """What a mask of this agent looks like."""
        if not self.size:
            return f"no mask, because actions of {self.space} cannot be masked"
        return f"{self.size} values, 1 for legal and 0 for illegal: one per choice in {self.space}"

    def batch(self, masks: np.ndarray, acting: np.ndarray, when: When) -> np.ndarray:
        """
        Masks of all copies.

        :param masks: (num_envs, *shape) with ``size`` zeros and ones per copy
        :param acting: bool (num_envs,); the other rows mean nothing
        :param when: for messages
        :return: bool (num_envs, size), all True where the agent does not act
        :raises DataFault: on other values than 0 and 1, and where no action is legal
        """
        flat = masks.reshape(len(masks), -1)
        legal = np.asarray((flat == 1) | ~acting[:, None])
        good = (legal | (flat == 0)).all(axis=1)
        if not good.all():
            copy = int(good.argmin())
            raise self._fault(copy, f"holds {flat[copy].tolist()}", when)
        self.require_choice(legal, when)
        return legal

    def single(self, mask: Any, copy: int, when: When) -> np.ndarray:
        """
        The mask of one copy.

        :param mask: array-like, or a tuple of such, one per part of the action
        :param copy: index of the copy
        :param when: for messages
        :return: bool (size,)
        :raises DataFault: on a wrong length or other values than 0 and 1
        """
        try:
            flat = np.concatenate([np.ravel(part) for part in mask]) if isinstance(mask, tuple) else np.ravel(mask)
        except ValueError:
            raise self._fault(copy, f"is {mask!r}, no array", when) from None
        if len(flat) != self.size or not self.size:
            raise self._fault(copy, f"has {len(flat)} values", when)
        legal = np.asarray(flat == 1)
        if not (legal | (flat == 0)).all():
            raise self._fault(copy, f"holds {flat.tolist()}", when)
        return legal

    def require_choice(self, legal: np.ndarray, when: When) -> None:
        """
        :param legal: bool (num_envs, size)
        :param when: for the message
        :raises DataFault: unless every part of the action has a legal option in every copy
        """
        choices = np.logical_or.reduceat(legal, self._starts, axis=1)
        if choices.all():
            return
        copy, part = np.argwhere(~choices)[0].tolist()
        which = f" for part {part} of the action" if choices.shape[1] > 1 else ""
        raise DataFault(
            copy,
            f"agent {self.agent!r}: the action mask {when(copy)} leaves no legal choice{which}; an agent that is to act needs "
            f"at least one in {self.space}. Allow one (to pass, say) or end the agent's episode",
        )

    def _fault(self, copy: int, found: str, when: When) -> DataFault:
        return DataFault(
            copy,
            f"agent {self.agent!r}: the action mask {when(copy)} {found}; expected {self.expected()}. Correct {MASK!r} in the "
            "env's observations or infos",
        )


class ActionMasks:
    """
    The action masks of all agents.

    An agent's mask is the entry ``"action_mask"`` of its observation, where its observation space is a Dict that has one;
    else the entry ``"action_mask"`` of its info, from the first time that there is one in any copy. Where such an info
    lacks the entry, everything is legal. So it is in the rows of agents that do not act.

    A mask holds a value for every choice: n for Discrete; sum(nvec) for MultiDiscrete, part by part (a tuple of arrays
    will do in an info); 2 per bit for MultiBinary, first that of 0.

    :param observation_spaces: agent -> space
    :param action_spaces: agent -> space
    :param num_envs: number of copies
    :raises ValueError: when the entry in an observation space does not fit the action space
    """

    def __init__(self, observation_spaces: AgentSpaces, action_spaces: AgentSpaces, num_envs: int) -> None:
        self.num_envs = num_envs
        self._readers = {agent: MaskReader(agent, i, space) for i, (agent, space) in enumerate(action_spaces.items())}
        self._observed = [agent for agent, space in observation_spaces.items() if _has_mask(space)]
        self._told: dict[str, np.ndarray] = {}  # agents whose masks come from infos: the current ones
        for agent in self._observed:
            self._check_space(agent, observation_spaces[agent])

    def _check_space(self, agent: str, space: spaces.Space[Any]) -> None:
        (leaf,) = (leaf for leaf in leaves_of(space) if leaf.key == MASK)
        reader, size = self._readers[agent], int(np.prod(leaf.shape, dtype=np.int64))
        if size != reader.size or not size:
            raise ValueError(
                f"agent {agent!r}: its observation's entry {MASK!r} has {size} values, expected {reader.expected()}. Correct "
                "the env's observation_space or give the entry another name"
            )

    def read(
        self, observations: JointObservation, acting: np.ndarray, infos: Mapping[int, AgentInfos] | None, when: When
    ) -> dict[str, np.ndarray]:
        """
        The masks of the next joint action.

        :param observations: agent -> (num_envs, *shape)
        :param acting: bool (num_envs, n_agents)
        :param infos: copy -> agent -> info that came with the observations; ``None`` when it is known already, after
            :meth:`restore`
        :param when: for messages
        :return: agent -> bool (num_envs, mask size), for agents that have masks, in the agents' order
        :raises DataFault: on a mask of the wrong length, with other values than 0 and 1, or without a legal choice
        """
        masks = {}
        for agent in self._observed:
            reader = self._readers[agent]
            masks[agent] = reader.batch(observations[agent][MASK], acting[:, reader.column], when)
        if infos:
            self._told = self._read_infos(infos, acting, when)
        elif infos is not None and self._told:
            self._told = {agent: np.ones_like(mask) for agent, mask in self._told.items()}
        return self._in_order(masks | self._told) if self._told else masks

    def _read_infos(self, infos: Mapping[int, AgentInfos], acting: np.ndarray, when: When) -> dict[str, np.ndarray]:
        """All agents' masks from infos, those included that had one before."""
        told = [
            (copy, agent, info[MASK])
            for copy, agent_infos in infos.items()
            for agent, info in agent_infos.items()
            if MASK in info and agent in self._readers and agent not in self._observed
        ]
        having = dict.fromkeys([*self._told, *(agent for _, agent, _ in told)])
        masks = {agent: np.ones((self.num_envs, self._readers[agent].size), dtype=bool) for agent in having}
        for copy, agent, mask in told:
            reader = self._readers[agent]
            if acting[copy, reader.column] or not reader.size:
                masks[agent][copy] = reader.single(mask, copy, when)
        for agent in having:
            self._readers[agent].require_choice(masks[agent], when)
        return masks

    def _in_order(self, masks: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {agent: masks[agent] for agent in self._readers if agent in masks}

    def snapshot(self) -> Snapshot:
        """The current masks from infos, agent -> bool (num_envs, mask size); the others are in the observations."""
        return {agent: mask.copy() for agent, mask in self._told.items()}

    def restore(self, snapshot: Any) -> None:
        """
        Go on from a snapshot.

        :raises ValueError: when it does not fit; changes nothing
        """
        what = "snapshot of the action masks"
        if not isinstance(snapshot, Mapping):
            raise ValueError(f"{what} must be a dict of agents, got a {type(snapshot).__name__}")
        for agent, mask in snapshot.items():
            if agent not in self._readers or agent in self._observed:
                raise ValueError(f"{what}: agent {agent!r} has no masks in infos; was it taken from another environment?")
            check_array(f"{what}: {agent!r}", mask, np.ones((self.num_envs, self._readers[agent].size), dtype=bool))
        self._told = {agent: mask.copy() for agent, mask in snapshot.items()}


def _has_mask(space: spaces.Space[Any]) -> bool:
    return isinstance(space, spaces.Dict) and MASK in space.spaces
