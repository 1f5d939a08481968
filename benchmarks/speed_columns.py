"""Columns of the comparison of speed: worlds with their settings, and what is measured in each."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from gymnasium import spaces
from torch import nn

from benchmarks.contestants import Contestant, LonePPO, Ours, SharedPPO, Work
from benchmarks.floor import Products, Sizes, iteration_products
from benchmarks.shared import zoo_settings
from sb3_matrl.envs import make
from sb3_matrl.zoo.common.hyperparameters import Hyperparameters

BACKENDS = ("sb3", "torch", "native")
IPPO, EQUAL, MATRL = "ippo", "ippo, epochs of matrl", "matrl"
#: What ours runs as: IPPO, IPPO with as many gradient steps as MATRL, and MATRL.
ALGORITHMS = (IPPO, EQUAL, MATRL)
NUMBERS_OF_AGENTS = (2, 4, 8, 16, 32, 64)
MANY_AGENTS = "benchmarks.many_agents:parallel_env"
# Small enough for a test: rollouts of 12 rows in minibatches of 12 or 8, 2 + 1 epochs.
_QUICK = {"n_envs": 3, "n_steps": 4, "n_epochs": 2}


@dataclass(frozen=True)
class Column:
    """
    A world with its settings.

    :param name: name on the command line
    :param label: name in tables
    :param env: id of the environment
    :param zoo_id: id whose settings of the zoo are used
    :param changes: hyper-parameters that differ from them
    :param quick: whether to shrink the rollouts, for tests
    """

    name: str
    label: str
    env: str
    zoo_id: str
    changes: dict[str, Any] = field(default_factory=dict)
    quick: bool = False

    def settings(self, algorithm: str, backend: str = "auto") -> Hyperparameters:
        """
        Hyper-parameters of a contestant.

        :param algorithm: one of :data:`ALGORITHMS`
        :param backend: argument of MATRL
        """
        name = IPPO if algorithm == EQUAL else algorithm
        given = zoo_settings(name, self.zoo_id, **self.changes, backend=backend)
        if self.quick:
            smaller = min(given["batch_size"], 12) if given["batch_size"] != 64 else 8
            given = given.changed(**_QUICK, batch_size=smaller)
        if name == MATRL and self.quick:
            given = given.changed(br_n_epochs=1)
        if algorithm == EQUAL:
            matrl = self.settings(MATRL)
            given = given.changed(n_epochs=matrl["n_epochs"] + matrl["br_n_epochs"])
        return given

    def n_epochs(self, algorithm: str) -> int:
        """
        Epochs of an iteration, those of the best response included.

        :param algorithm: one of :data:`ALGORITHMS`
        """
        settings = self.settings(algorithm)
        return int(settings["n_epochs"] + (settings["br_n_epochs"] if algorithm == MATRL else 0))

    @property
    def rows(self) -> int:
        """Joint steps of a rollout over all copies."""
        settings = self.settings(IPPO)
        return int(settings["n_steps"] * settings.n_envs)

    @cached_property
    def spaces(self) -> list[tuple[spaces.Space[Any], spaces.Space[Any]]]:
        """Observation and action space of every agent."""
        with closing(make(self.env, **self.settings(IPPO).env_kwargs)) as env:
            return [(env.observation_space(agent), env.action_space(agent)) for agent in env.possible_agents]


def _columns() -> Iterator[Column]:
    grids = (("checkers", "Checkers", "checkers_v0"), ("switch", "Switch, 4 agents", "switch_v0"))
    for name, label, env in grids:
        yield Column(name, f"{label}, full batch", env, env)
        yield Column(f"{name}_64", f"{label}, minibatch 64", env, env, {"batch_size": 64})
    yield Column("hopper", "Hopper, 3 agents", "hopper_3x1", "hopper_3x1")
    yield Column("pong", "Pong (RAM), 2 agents", "pong_v3", "pong_v3")
    for n in NUMBERS_OF_AGENTS:
        changes = {"env_kwargs": {"n_agents": n}, "n_steps": 25, "batch_size": 500}
        yield Column(f"n{n}", f"{n} agents", MANY_AGENTS, "checkers_v0", changes)


#: Name -> column. The worlds of many agents have the settings of Checkers, with rollouts of a quarter of the length.
COLUMNS = {column.name: column for column in _columns()}


@dataclass(frozen=True)
class Entry:
    """
    A contestant in a column.

    :param contestant: the contestant
    :param algorithm: one of :data:`ALGORITHMS`
    :param backend: argument of MATRL; empty for the peers
    :param n_learned: agents that the contestant learns for
    :param expected: work of an iteration
    """

    contestant: Contestant
    algorithm: str
    backend: str
    n_learned: int
    expected: Work


def enter_all(column: Column, backends: Sequence[str]) -> list[Entry]:
    """
    Build everything that is measured in a column: the peers, then ours by backend and algorithm.

    :param column: the column
    :param backends: backends that can be used here
    """
    settings, n = column.settings(IPPO), len(column.spaces)
    entries = [
        Entry(SharedPPO(settings, column.env), IPPO, "", n, expected_work(column, IPPO, n, shared=True)),
        Entry(LonePPO(settings, column.env), IPPO, "", 1, expected_work(column, IPPO, 1)),
    ]
    for backend in backends:
        for algorithm in ALGORITHMS:
            ours = Ours(f"{algorithm} ({backend})", column.settings(algorithm, backend), column.env)
            entries.append(Entry(ours, algorithm, backend, n, expected_work(column, algorithm, n)))
    return entries


def expected_work(column: Column, algorithm: str, n_learned: int, shared: bool = False) -> Work:
    """
    Work of an iteration.

    A learner takes ceil(rows / minibatch) gradient steps per epoch; a shared one has the rows of all agents. The numbers of
    the shared learner and of ours are equal if a minibatch divides the rollout; else ours takes up to n - 1 more per epoch.

    :param column: the column
    :param algorithm: one of :data:`ALGORITHMS`
    :param n_learned: agents that the contestant learns for
    :param shared: whether they share one learner
    """
    batch_size, learners = column.settings(algorithm)["batch_size"], 1 if shared else n_learned
    minibatches = math.ceil(column.rows * n_learned / learners / batch_size)
    return Work(column.rows, learners * column.n_epochs(algorithm) * minibatches)


def products(column: Column, algorithm: str, n_learned: int) -> Products:
    """
    Matrix products of an iteration.

    :param column: the column
    :param algorithm: one of :data:`ALGORITHMS`
    :param n_learned: agents that are learned for, the first ones
    """
    settings, total = column.settings(algorithm), Products()
    hidden, _ = architecture(settings)
    for observation, action in column.spaces[:n_learned]:
        sizes = Sizes(
            inputs=spaces.flatdim(observation),
            hidden=tuple(hidden),
            outputs=int(action.n) if isinstance(action, spaces.Discrete) else spaces.flatdim(action),
            n_envs=settings.n_envs,
            n_steps=settings["n_steps"],
            batch_size=settings["batch_size"],
            n_epochs=column.n_epochs(algorithm),
            # The meta-game compares the predicted policies with the rollout's.
            policy_passes=1 if algorithm == MATRL else 0,
        )
        total.update(iteration_products(sizes))
    return total


def architecture(settings: Hyperparameters) -> tuple[list[int], type[nn.Module]]:
    """
    Hidden layers and activation of a multilayer perceptron of SB3.

    :param settings: hyper-parameters
    :return: units of the hidden layers, of policy and critic alike, and class of their activation
    """
    kwargs = settings.model_arguments()["policy_kwargs"] or {}
    return list(kwargs.get("net_arch", [64, 64])), kwargs.get("activation_fn", nn.Tanh)
