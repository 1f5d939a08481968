"""Action masks: legal actions, read from observations or infos, in the form of sb3-contrib's distributions."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_matrl.envs.snapshot import Snapshot, check_array
from sb3_matrl.vec_env.backend import AgentInfos
from sb3_matrl.vec_env.errors import DataFault
from sb3_matrl.vec_env.spaces import AgentSpaces, Leaf, leaves_of
from sb3_matrl.vec_env.step import JointObservation
from sb3_matrl.vec_env.value_checks import When, bounds_of

# Key of the mask in a Dict observation or an info.
MASK = "action_mask"
#: Names under which a mask is looked for, in this order. An entry under another name than the first one is a mask only if it
#: has the size and the values of one.
MASK_NAMES = (MASK, "action_masks", "avail_actions", "available_actions", "legal_actions", "legal_moves")
_NAMES = frozenset(MASK_NAMES)


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


def observed_mask_name(observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> str | None:
    """
    Find the entry of an observation that holds the action mask.

    :param observation_space: observation space of the agent
    :param action_space: action space of the agent
    :return: the first of :data:`MASK_NAMES` that can be a mask; ``"action_mask"`` always is
    """
    if not isinstance(observation_space, spaces.Dict):
        return None
    size = int(options_of(action_space).sum())
    entries = {leaf.key: leaf for leaf in leaves_of(observation_space) if leaf.key in _NAMES}
    if MASK in entries:
        return MASK
    return next((name for name in MASK_NAMES if name in entries and _can_be_mask(entries[name], size)), None)


def _can_be_mask(leaf: Leaf, size: int) -> bool:
    """Whether an entry has the size of a mask, and its space only values from 0 to 1."""
    low, high = bounds_of(leaf)
    return size > 0 and int(np.prod(leaf.shape, dtype=np.int64)) == size and bool((low >= 0).all() and (high <= 1).all())


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
        self.info_name: str | None = None  # name of the mask in infos, once one was found
        self.problem: str | None = None  # reason why an entry that has the name of a mask is none
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
        flat = _flat(mask)
        if flat is None:
            raise self._fault(copy, f"is {mask!r}, no array", when)
        if len(flat) != self.size or not self.size:
            raise self._fault(copy, f"has {len(flat)} values", when)
        legal = np.asarray(flat == 1)
        if not (legal | (flat == 0)).all():
            raise self._fault(copy, f"holds {flat.tolist()}", when)
        return legal

    def name_in(self, info: Mapping[str, Any]) -> str | None:
        """
        Find the mask in an info of the acting agent; the name of the first one is remembered.

        :param info: info of the agent
        :return: name of the mask, not yet checked; ``None`` if there is none, for a reason that :attr:`problem` may give
        """
        if self.info_name is None:
            self.info_name = next((name for name in MASK_NAMES if name in info and self._is_mask(name, info[name])), None)
        return self.info_name if self.info_name in info else None

    def _is_mask(self, name: str, value: Any) -> bool:
        if name == MASK:
            return True
        flat = _flat(value)
        if flat is None or not self.size or len(flat) != self.size or not ((flat == 0) | (flat == 1)).all():
            self.doubt(f"the entry {name!r} of its info is {value!r}")
        elif name != "action_masks" and flat.dtype != bool and flat.tolist() == [0, 1]:
            self.doubt(f"the entry {name!r} of its info is {value!r}, a mask or a list of two legal actions")
        else:
            return True
        return False

    def doubt(self, found: str) -> None:
        """Remember why an entry is not taken for a mask."""
        self.problem = (
            f"agent {self.agent!r}: {found}; as a mask it would have {self.expected()}. Give the mask the name {MASK!r}, or "
            "the entry a name that is none of a mask"
        )

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
            f"agent {self.agent!r}: the action mask {when(copy)} {found}; expected {self.expected()}. Correct the mask in the "
            f"env's observations or infos; an entry that is no mask needs a name other than {', '.join(MASK_NAMES)}",
        )


class ActionMasks:
    """
    Action masks of all agents.

    The mask of an agent is the entry ``"action_mask"`` of its observation, if its observation space is a Dict with that
    entry. Otherwise it is the entry ``"action_mask"`` of its info, from the first time that any copy provides one; if a
    later info lacks the entry, all actions are legal. Masks are all True for agents that do not act.

    Instead of ``"action_mask"`` the entry may have another of the :data:`MASK_NAMES`, if it has the size and the values of a
    mask; and the masks may come from a method of the env, see :class:`~sb3_matrl.vec_env.mask_method.MaskMethod`.

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
        self._from_infos: dict[str, np.ndarray] = {}  # current masks of agents whose masks come from infos
        self._observed: dict[str, str] = {}  # agent -> entry of its observation
        for agent, space in observation_spaces.items():
            self._find_in(agent, space, observed_mask_name(space, action_spaces[agent]))
        self._warned: set[str] = set()

    def _find_in(self, agent: str, space: spaces.Space[Any], name: str | None) -> None:
        reader = self._readers[agent]
        entries = [leaf for leaf in leaves_of(space) if leaf.key in _NAMES]
        if name is None:
            for leaf in entries:
                reader.doubt(f"the entry {leaf.key!r} of its observation has the space {leaf.space}")
            return
        (leaf,) = (leaf for leaf in entries if leaf.key == name)
        size = int(np.prod(leaf.shape, dtype=np.int64))
        if size != reader.size or not size:
            raise ValueError(
                f"agent {agent!r}: its observation's entry {name!r} has {size} values, expected {reader.expected()}. Correct "
                "the env's observation_space or give the entry another name"
            )
        self._observed[agent] = name

    def require(self, agents: Iterable[str], one_mask: bool, warn: bool) -> None:
        """
        Check that agents whose learners choose by masks have masks.

        :param agents: names of the agents
        :param one_mask: whether the env has a method that returns one mask for all agents
        :param warn: whether to warn of agents without any masks, once for each
        :raises ValueError: if an entry has the name of a mask, but cannot be one
        """
        without = [agent for agent in agents if agent not in self._observed and agent not in self._from_infos]
        for agent in without:
            problem = self._readers[agent].problem
            if problem is None and one_mask:
                problem = (
                    f"agent {agent!r}: the env's method action_masks() returns one mask, but several agents act: let it take "
                    "the agent as its argument, or return a dict keyed by agent"
                )
            if problem is not None:
                raise ValueError(f"{problem}. Without the mask, the agent would choose illegal actions")
        new = [agent for agent in without if agent not in self._warned]
        if new and warn:
            self._warned.update(new)
            warnings.warn(
                f"the learners of {', '.join(new)} know action masks, but the env has none for them: all actions are legal. "
                f"Masks are entries {MASK!r} of observations or infos",
                stacklevel=2,
            )

    def warn_of_ignored(self, agents: Iterable[str], masks: Mapping[str, np.ndarray]) -> None:
        """
        Warn of agents that choose without looking at their masks, once for each.

        :param agents: names of the agents
        :param masks: agent -> bool (num_envs, mask size); masks that allow everything are no reason to warn
        """
        new = [agent for agent in agents if agent in masks and not masks[agent].all() and agent not in self._warned]
        if new:
            self._warned.update(new)
            warnings.warn(
                f"the learners of {', '.join(new)} ignore the env's action masks and choose illegal actions, too: "
                "learner_class MaskablePPO knows them",
                stacklevel=2,
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
        for agent, name in self._observed.items():
            reader = self._readers[agent]
            masks[agent] = reader.batch(observations[agent][name], acting[:, reader.column], when)
        if infos:
            self._from_infos = self._read_infos(infos, acting, when)
        elif infos is not None and self._from_infos:
            self._from_infos = {agent: np.ones_like(mask) for agent, mask in self._from_infos.items()}
        return self._in_order(masks | self._from_infos) if self._from_infos else masks

    def _read_infos(self, infos: Mapping[int, AgentInfos], acting: np.ndarray, when: When) -> dict[str, np.ndarray]:
        """Read the masks of all agents that have or had a mask in their infos."""
        entries = [
            (copy, agent, info[name])
            for copy, agent_infos in infos.items()
            for agent, info in agent_infos.items()
            if not _NAMES.isdisjoint(info) and (name := self._name_in(agent, info, acting[copy])) is not None
        ]
        if not entries and not self._from_infos:
            return {}
        agents = dict.fromkeys([*self._from_infos, *(agent for _, agent, _ in entries)])
        masks = {agent: np.ones((self.num_envs, self._readers[agent].size), dtype=bool) for agent in agents}
        for copy, agent, mask in entries:
            reader = self._readers[agent]
            if acting[copy, reader.column] or not reader.size:
                masks[agent][copy] = reader.single(mask, copy, when)
        for agent in agents:
            self._readers[agent].require_choice(masks[agent], when)
        return masks

    def _name_in(self, agent: str, info: Mapping[str, Any], acting: np.ndarray) -> str | None:
        reader = self._readers.get(agent)
        if reader is None or agent in self._observed:
            return None
        # What a waiting agent gets is not looked at, but a mask for actions without options is an error at any time.
        return reader.name_in(info) if acting[reader.column] or MASK in info else None

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


def _flat(mask: Any) -> np.ndarray | None:
    """A mask as one row, or ``None`` if it is no array."""
    try:
        return np.concatenate([np.ravel(part) for part in mask]) if isinstance(mask, tuple) else np.ravel(mask)
    except ValueError:
        return None
