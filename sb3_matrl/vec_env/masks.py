"""Action masks: legal actions, read from observations or infos, in the form of sb3-contrib's distributions."""

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

# Key of the mask in a Dict observation or an info.
MASK = "action_mask"


def options_of(space: spaces.Space[Any]) -> np.ndarray:
    """
    Number of options of each part of an action; a mask has one value per option, part by part.

    :param space: action space
    :return: (parts,): n of a Discrete, nvec of a MultiDiscrete, 2 for every bit of a MultiBinary; empty for a Box, whose
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
    Checks and converts the masks of one agent.

    :param agent: name of the agent, for messages
    :param column: column of the agent
    :param space: action space of the agent
    """

    def __init__(self, agent: str, column: int, space: spaces.Space[Any]) -> None:
        self.agent = agent
        self.column = column
        self.space = space
        options = options_of(space)
        self.size = int(options.sum())
        self._starts = np.cumsum(options) - options

    def expected(self) -> str:
        """Description of a valid mask, for messages."""
        if not self.size:
            return f"no mask, because actions of {self.space} cannot be masked"
        return f"{self.size} values, 1 for legal and 0 for illegal: one per choice in {self.space}"

    def batch(self, masks: np.ndarray, acting: np.ndarray, when: When) -> np.ndarray:
        """
        Convert the masks of all copies.

        :param masks: (num_envs, *shape) with ``size`` zeros and ones per copy
        :param acting: bool (num_envs,), copies in which the agent acts; other rows are ignored
        :param when: time of each copy, for messages
        :return: bool (num_envs, size), all True where the agent does not act
        :raises DataFault: if there are values other than 0 and 1, or no action is legal
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
        Convert the mask of one copy.

        :param mask: array-like, or a tuple of array-likes, one per part of the action
        :param copy: index of the copy
        :param when: time of each copy, for messages
        :return: bool (size,)
        :raises DataFault: if the length is wrong, or there are values other than 0 and 1
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
        Check that every part of the action has a legal option in every copy.

        :param legal: bool (num_envs, size)
        :param when: time of each copy, for the message
        :raises DataFault: if no option is legal
        """
        choices = np.logical_or.reduceat(legal, self._starts, axis=1)
        if choices.all():
            return
        copy, part = np.argwhere(~choices)[0].tolist()
        which = f" for part {part} of the action" if choices.shape[1] > 1 else ""
        raise DataFault(
            copy,
            f"agent {self.agent!r}: the action mask {when(copy)} leaves no legal choice{which}; an agent that is to act needs "
            f"at least one in {self.space}. Allow one (for example a pass) or end the agent's episode",
        )

    def _fault(self, copy: int, found: str, when: When) -> DataFault:
        return DataFault(
            copy,
            f"agent {self.agent!r}: the action mask {when(copy)} {found}; expected {self.expected()}. Correct {MASK!r} in the "
            "env's observations or infos",
        )


class ActionMasks:
    """
    Action masks of all agents.

    The mask of an agent is the entry ``"action_mask"`` of its observation, if its observation space is a Dict with that
    entry. Otherwise it is the entry ``"action_mask"`` of its info, from the first time that any copy provides one; if a
    later info lacks the entry, all actions are legal. Masks are all True for agents that do not act.

    A mask has one value per option: n for Discrete; sum(nvec) for MultiDiscrete, part by part (or a tuple of arrays in an
    info); 2 per bit for MultiBinary, first the value for 0.

    :param observation_spaces: agent -> space
    :param action_spaces: agent -> space
    :param num_envs: number of copies
    :raises ValueError: if the entry in an observation space does not fit the action space
    """

    def __init__(self, observation_spaces: AgentSpaces, action_spaces: AgentSpaces, num_envs: int) -> None:
        self.num_envs = num_envs
        self._readers = {agent: MaskReader(agent, i, space) for i, (agent, space) in enumerate(action_spaces.items())}
        self._observed = [agent for agent, space in observation_spaces.items() if _has_mask(space)]
        self._from_infos: dict[str, np.ndarray] = {}  # current masks of agents whose masks come from infos
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
        Read the masks of the next joint action.

        :param observations: agent -> (num_envs, *shape)
        :param acting: bool (num_envs, n_agents)
        :param infos: copy -> agent -> info of the same step; ``None`` after :meth:`restore`, which restored these masks
        :param when: time of each copy, for messages
        :return: agent -> bool (num_envs, mask size), for agents that have masks, in the agents' order
        :raises DataFault: if a mask has the wrong length, values other than 0 and 1, or no legal option
        """
        masks = {}
        for agent in self._observed:
            reader = self._readers[agent]
            masks[agent] = reader.batch(observations[agent][MASK], acting[:, reader.column], when)
        if infos:
            self._from_infos = self._read_infos(infos, acting, when)
        elif infos is not None and self._from_infos:
            self._from_infos = {agent: np.ones_like(mask) for agent, mask in self._from_infos.items()}
        return self._in_order(masks | self._from_infos) if self._from_infos else masks

    def _read_infos(self, infos: Mapping[int, AgentInfos], acting: np.ndarray, when: When) -> dict[str, np.ndarray]:
        """Read the masks of all agents that have or had a mask in their infos."""
        entries = [
            (copy, agent, info[MASK])
            for copy, agent_infos in infos.items()
            for agent, info in agent_infos.items()
            if MASK in info and agent in self._readers and agent not in self._observed
        ]
        agents = dict.fromkeys([*self._from_infos, *(agent for _, agent, _ in entries)])
        masks = {agent: np.ones((self.num_envs, self._readers[agent].size), dtype=bool) for agent in agents}
        for copy, agent, mask in entries:
            reader = self._readers[agent]
            if acting[copy, reader.column] or not reader.size:
                masks[agent][copy] = reader.single(mask, copy, when)
        for agent in agents:
            self._readers[agent].require_choice(masks[agent], when)
        return masks

    def _in_order(self, masks: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {agent: masks[agent] for agent in self._readers if agent in masks}

    def snapshot(self) -> Snapshot:
        """Current masks from infos, agent -> bool (num_envs, mask size); other masks are part of the observations."""
        return {agent: mask.copy() for agent, mask in self._from_infos.items()}

    def restore(self, snapshot: Any) -> None:
        """
        Restore a snapshot.

        :param snapshot: return value of :meth:`snapshot`
        :raises ValueError: if the snapshot does not fit; nothing is changed then
        """
        what = "snapshot of the action masks"
        if not isinstance(snapshot, Mapping):
            raise ValueError(f"{what} must be a dict of agents, got a {type(snapshot).__name__}")
        for agent, mask in snapshot.items():
            if agent not in self._readers or agent in self._observed:
                raise ValueError(f"{what}: agent {agent!r} has no masks in infos; was it taken from another environment?")
            check_array(f"{what}: {agent!r}", mask, np.ones((self.num_envs, self._readers[agent].size), dtype=bool))
        self._from_infos = {agent: mask.copy() for agent, mask in snapshot.items()}


def _has_mask(space: spaces.Space[Any]) -> bool:
    return isinstance(space, spaces.Dict) and MASK in space.spaces
