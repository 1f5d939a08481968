"""Joint steps of a round as whole arrays: recorded by rollout workers, joined, and read step by step by the learner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sb3_matrl.common.training_state import check_episodes
from sb3_matrl.distributed.array_trees import joined_arrays, merged
from sb3_matrl.distributed.shard import infos_of_ends, joined_infos
from sb3_matrl.off_policy.transitions import JointTransition, Moment

# Nested dicts of arrays and None.
Tree = dict[str, Any]
# Parts of a transition that have one row per step.
_OF_STEPS = ("actions", "rewards", "terminated", "truncated", "dones")


@dataclass(frozen=True)
class PlayedStep:
    """
    A joint step that has been played, and not been counted yet.

    :param transition: transition of the step
    :param seen: local variables that SB3's callbacks read, among them ``infos`` and ``dones``
    """

    transition: JointTransition
    seen: dict[str, Any]


@dataclass(frozen=True)
class Round:
    """
    Joint steps of some copies; arrays have the steps along the first axis and the copies along the second.

    :param moments: the moments before and after all steps, n_steps + 1 rows; entries as in
        :class:`~sb3_matrl.off_policy.transitions.Moment`
    :param steps: actions, rewards and ends, n_steps rows; entries as in
        :class:`~sb3_matrl.off_policy.transitions.JointTransition`
    :param finals: step -> moment in which episodes ended, where some did
    :param infos: step -> copy -> info, where an episode ended; without the terminal observations
    """

    moments: Tree
    steps: Tree
    finals: dict[int, Tree]
    infos: dict[int, dict[int, dict[str, Any]]]

    def __len__(self) -> int:
        return len(self.steps["dones"])

    def after(self, n_steps: int) -> Round:
        """
        :param n_steps: number of steps that are left out
        :return: the steps after them
        """
        return Round(
            moments=_rows(self.moments, slice(n_steps, None)),
            steps=_rows(self.steps, slice(n_steps, None)),
            finals={n - n_steps: final for n, final in self.finals.items() if n >= n_steps},
            infos={n - n_steps: infos for n, infos in self.infos.items() if n >= n_steps},
        )


class RoundRecord:
    """Collects the steps of a round. The arrays are copied, because envs may use them again."""

    def __init__(self) -> None:
        self._moments: list[Tree] = []
        self._steps: list[Tree] = []
        self._finals: dict[int, Tree] = {}
        self._infos: dict[int, dict[int, dict[str, Any]]] = {}

    def add(self, played: PlayedStep) -> None:
        """
        :param played: step that follows the one before
        """
        transition, n = played.transition, len(self._steps)
        if not self._moments:
            self._moments.append(_copied(vars(transition.before)))
        self._moments.append(_copied(vars(transition.after)))
        self._steps.append(_copied({name: getattr(transition, name) for name in _OF_STEPS}))
        if transition.final is not None:
            self._finals[n] = _copied(vars(transition.final))
        if infos := infos_of_ends(transition.dones, played.seen["infos"]):
            self._infos[n] = infos

    def whole(self) -> Round:
        """:return: all steps so far, at least one"""
        return Round(merged(_same_masks(self._moments), np.stack), merged(self._steps, np.stack), self._finals, self._infos)


def joined_round(shares: Sequence[range], parts: Sequence[Round]) -> Round:
    """
    The steps of all copies.

    :param shares: copies of each worker
    :param parts: as many steps of each worker's copies
    """
    infos: dict[int, dict[int, dict[str, Any]]] = {}
    for n in sorted({n for part in parts for n in part.infos}):
        joined = joined_infos(shares, [part.infos.get(n, {}) for part in parts])
        infos[n] = {copy: info for copy, info in enumerate(joined) if info}
    return Round(
        moments=joined_arrays(_same_masks([part.moments for part in parts]), axis=1),
        steps=joined_arrays([part.steps for part in parts], axis=1),
        finals={n: _joined_finals(parts, n) for n in sorted({n for part in parts for n in part.finals})},
        infos=infos,
    )


def _joined_finals(parts: Sequence[Round], n: int) -> Tree:
    """Final moments of all copies; where no episode ended, rows are those of the next moment and mean nothing."""
    found = []
    for part in parts:
        after = _rows(part.moments, n + 1)
        final = part.finals.get(n, {**after, "alive": np.zeros_like(after["alive"]), "states": None})
        found.append((final, after["states"]))
    if any(final["states"] is not None for final, _ in found):
        found = [({**final, "states": after if final["states"] is None else final["states"]}, None) for final, after in found]
    return dict(joined_arrays(_same_masks([final for final, _ in found])))


class RoundReader:
    """
    Reads the steps of a round, which the learner counts and stores one after the other.

    :param played: steps of all copies
    """

    def __init__(self, played: Round) -> None:
        self._round, self._read = played, 0
        self._moment = Moment(**_rows(played.moments, 0))

    def __len__(self) -> int:
        return len(self._round) - self._read

    def read(self) -> PlayedStep:
        """:return: the next step; there must be one"""
        n, before = self._read, self._moment
        final = self._round.finals.get(n)
        self._read, self._moment = n + 1, Moment(**_rows(self._round.moments, n + 1))
        transition = JointTransition(
            before=before,
            after=self._moment,
            final=None if final is None else Moment(**final),
            **_rows(self._round.steps, n),
        )
        ended = self._round.infos.get(n, {})
        seen = {
            "new_obs": transition.after.observations,
            "rewards": transition.rewards,
            "dones": transition.dones,
            "infos": [ended.get(copy, {}) for copy in range(len(transition.dones))],
        }
        return PlayedStep(transition, seen)

    def rest(self) -> Tree | None:
        """:return: the steps that have not been read, for :meth:`from_tree`; ``None`` if all have. Of infos, only episodes"""
        if not len(self):
            return None
        rest = self._round.after(self._read)
        infos = {
            n: {copy: {"episode": dict(info["episode"])} for copy, info in ended.items()} for n, ended in rest.infos.items()
        }
        return {**vars(rest), "infos": infos}

    @classmethod
    def from_tree(cls, tree: Mapping[str, Any]) -> RoundReader:
        """
        :param tree: return value of :meth:`rest`
        :raises ValueError: if it is anything else
        """
        try:
            reader = cls(Round(**tree))
            reader.transitions()
            ends = reader._round.steps["dones"]
            check_episodes([reader._round.infos[n][copy]["episode"] for n, copy in np.argwhere(ends).tolist()])
        except Exception as error:  # damaged content causes many errors
            raise ValueError(f"not the steps of a round: {error!r}") from error
        return reader

    def transitions(self) -> list[JointTransition]:
        """:return: transitions of all steps, which are not taken for read"""
        again = RoundReader(self._round)
        return [again.read().transition for _ in range(len(again))]


def _same_masks(moments: Sequence[Tree]) -> list[Tree]:
    """Moments with masks of the same agents; all actions are legal for agents that have none."""
    sizes = {agent: mask.shape[-1] for moment in moments for agent, mask in moment["masks"].items()}
    if all(moment["masks"].keys() == sizes.keys() for moment in moments):
        return list(moments)
    filled = []
    for moment in moments:
        masks, rows = moment["masks"], moment["alive"].shape[:-1]
        legal = {agent: masks[agent] if agent in masks else np.ones((*rows, size), bool) for agent, size in sizes.items()}
        filled.append({**moment, "masks": legal})
    return filled


def _copied(tree: Any) -> Any:
    return merged([tree], lambda arrays: np.array(arrays[0]))


def _rows(tree: Any, index: int | slice) -> Any:
    return merged([tree], lambda arrays: arrays[0][index])
