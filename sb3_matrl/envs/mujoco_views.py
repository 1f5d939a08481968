"""
What the agents of a robot observe, as positions in one row of numbers: found by probing gymnasium-robotics' own functions.

gymnasium-robotics computes an observation entry by entry in Python. Nearly all observations only select numbers from
MuJoCo's data and limit some of them to an interval, which NumPy does for many copies at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import numpy as np

from sb3_matrl.envs.mujoco_library import PACKAGE, Library

# Arrays of MuJoCo's data that gymnasium-robotics can show to agents.
_SOURCES = ("qpos", "qvel", "qfrc_actuator", "cfrc_ext", "cvel", "cinert")


class NotSelectedError(ValueError):
    """An observation is more than a selection; the message says why."""


@dataclass(frozen=True)
class Selection:
    """
    Observation whose entries are single numbers of a row, each limited to an interval.

    :param index: position of each entry in the row, int (size,)
    :param low: lower limits, float64 (size,)
    :param high: upper limits, float64 (size,)
    """

    index: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """
        Compute observations.

        :param rows: float64 (num_envs, row size)
        :return: float64 (num_envs, size)
        """
        values = rows.take(self.index, axis=1)
        return np.clip(values, self.low, self.high, out=values) if self._limited else values

    @cached_property
    def _limited(self) -> bool:
        return bool(np.isfinite(self.low).any() or np.isfinite(self.high).any())


class Row:
    """
    Layout of a row: several arrays of MuJoCo's data, one after the other.

    :param data: MuJoCo's data
    :param names: names of the arrays, of those that occur in ``data``
    """

    def __init__(self, data: Any, names: Sequence[str]) -> None:
        self.names = list(names)
        self._shapes = {name: getattr(data, name).shape for name in names}
        stops = np.cumsum([int(np.prod(shape)) for shape in self._shapes.values()]).tolist()
        self.parts = {name: slice(start, stop) for name, start, stop in zip(names, [0, *stops], stops, strict=False)}
        self.size: int = stops[-1]

    def data(self, row: np.ndarray) -> SimpleNamespace:
        """
        Stand-in for MuJoCo's data with the numbers of a row.

        :param row: float64 (size,)
        """
        return SimpleNamespace(**{name: row[self.parts[name]].reshape(self._shapes[name]) for name in self.names})

    def narrowed(self, keep: Sequence[str], selections: Sequence[Selection]) -> tuple[list[str], list[Selection]]:
        """
        Leave out the arrays from which nothing is selected.

        :param keep: arrays to keep in any case
        :param selections: selections from rows with this layout
        :return: names of the arrays that remain, and the selections from rows of these
        """
        used = np.zeros(self.size, dtype=bool)
        used[np.concatenate([selection.index for selection in selections])] = True
        names = [name for name in self.names if name in keep or used[self.parts[name]].any()]
        remains = np.concatenate([np.arange(self.size)[self.parts[name]] for name in names])
        position = np.zeros(self.size, dtype=np.intp)
        position[remains] = np.arange(len(remains))
        return names, [Selection(position[one.index], one.low, one.high) for one in selections]


def find_selections(library: Library, keep: Sequence[str]) -> tuple[list[str], dict[str, Selection], Selection]:
    """
    Find out what agents and global state select.

    :param library: the libraries' environments
    :param keep: arrays that the row must have in any case
    :return: names of the arrays in a row, agent -> its observation, and the global state
    :raises NotSelectedError: if an observation is more than a selection
    """
    _require_known_functions(library.env)
    row = Row(library.robot.data, _SOURCES)
    state = _probed("the global state", row, lambda data: _state(library.robot, data))
    views = [_probed(agent, row, _view(library, index)) for index, agent in enumerate(library.env.possible_agents)]
    names, (state, *views) = row.narrowed(keep, [state, *views])
    return names, dict(zip(library.env.possible_agents, views, strict=True)), state


def _view(library: Library, index: int) -> Callable[[Any], np.ndarray]:
    """Function that computes an agent's observation from MuJoCo's data."""
    env = library.env
    if env.agent_obsk is None:
        return lambda data: _state(library.robot, data)
    build_obs = import_module(f"{PACKAGE}.obsk").build_obs
    return lambda data: np.asarray(
        build_obs(data, env.k_dicts[index], env.local_categories, env.mujoco_globals, env.global_categories)
    )


def _state(robot: Any, data: Any) -> np.ndarray:
    """Observation of gymnasium's environment for given data of MuJoCo."""
    own = robot.data
    robot.data = data
    try:
        return np.asarray(robot._get_obs())
    finally:
        robot.data = own


def _require_known_functions(env: Any) -> None:
    """Functions of a custom factorisation cannot be probed: what they return may depend on anything."""
    if any(getattr(function, "__module__", None) != f"{PACKAGE}.obsk" for function in _functions(env)):
        raise NotSelectedError("its factorisation computes observations with functions of its own")


def _functions(env: Any) -> Iterator[Any]:
    if env.agent_obsk is None:
        return
    for node in [*env.mujoco_globals, *(node for near in env.k_dicts for nodes in near.values() for node in nodes)]:
        yield from node.extra_obs.values()
        if node.body_fn is not None:
            yield node.body_fn


@np.errstate(all="ignore")
def _probed(what: str, row: Row, view: Callable[[Any], np.ndarray]) -> Selection:
    """
    Find the selection that a function computes.

    The limits are its values for rows of minus and plus infinity. The position of an entry is read bit by bit from rows that
    are infinite with the sign of one bit of the position. Random rows confirm the result.

    :raises NotSelectedError: if the function computes something else
    """
    positions = np.arange(row.size)
    try:
        low, high = (np.asarray(view(row.data(np.full(row.size, value))), np.float64) for value in (-np.inf, np.inf))
        index = np.zeros(low.shape, dtype=np.intp)
        for bit in range(row.size.bit_length()):
            signs = np.where(positions >> bit & 1, np.inf, -np.inf)
            index |= ((view(row.data(signs)) == high) & (high != low)).astype(np.intp) << bit
        selection = Selection(index, low, high)
        rng = np.random.default_rng(0)
        rows = [scale * rng.standard_normal(row.size) for scale in (0.1, 1.0, 20.0, 1e3, 1e6)]
        exact = index.max(initial=0) < row.size and all(
            np.array_equal(view(row.data(values)), selection(values[None])[0]) for values in rows
        )
    except (AttributeError, TypeError, ValueError, IndexError) as error:
        raise NotSelectedError(f"{what} observes more than {', '.join(_SOURCES)} ({error})") from error
    if not exact:
        raise NotSelectedError(f"the numbers that {what} observes are computed from several numbers of the physics")
    return selection
