"""Groups of charts, and curves of one number in several runs or of several agents."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sb3_matrl.zoo.reporting.charts import COLOURS, Chart, Series
from sb3_matrl.zoo.reporting.run_loading import Run

SHARE = (0.0, 1.0)


@dataclass(frozen=True)
class StrategyUse:
    """
    What the meta-game of a run thought of one strategy. Means are over agents and iterations.

    :param name: name of the strategy
    :param weight: mean weight
    :param used: share of the iterations in which some agent gave it weight
    :param payoff: mean payoff against the weights of the others, in advantage units
    :param divergence: mean KL divergence from the current policy; nan for the current policy itself
    """

    name: str
    weight: float
    used: float
    payoff: float
    divergence: float


@dataclass(frozen=True)
class Group:
    """Charts under one heading, sentences about them, and a table of the strategies of a meta-game."""

    title: str
    charts: tuple[Chart, ...]
    notes: tuple[str, ...] = ()
    strategies: tuple[StrategyUse, ...] = ()


def compared(runs: Sequence[Run], curve: Callable[[Run], Series | None]) -> list[Series]:
    """One curve per run, each run in its own colour everywhere."""
    curves = [(i, curve(run)) for i, run in enumerate(runs)]
    return [series.styled(i) for i, series in curves if series is not None]


def logged(key: str) -> Callable[[Run], Series | None]:
    """Function that returns the curve of a key of the log in a run."""
    return lambda run: Series(run.name, *run.progress.curve(key)) if run.progress else None


def agent_colours(run: Run, runs: Sequence[Run]) -> dict[str, int]:
    """
    Colours of the agents of a run, the same in all its charts, and in those of the other runs if there are enough colours.

    :param run: the run
    :param runs: all runs of the report
    :return: agent -> colour; empty if the run has more agents than there are colours
    """
    for some in (runs, [run]):
        names = dict.fromkeys(name for one in some for name in _agents(one))
        if len(names) <= COLOURS:
            return {name: i for i, name in enumerate(names)}
    return {}


def _agents(run: Run) -> list[str]:
    """Names in the order of the environment, as far as evaluations tell it."""
    evaluated = [] if run.evaluations is None else list(run.evaluations.sampled[0].agents)
    if run.progress is None:
        return evaluated
    return [*evaluated, *run.progress.agents_with("rollout/ep_rew_mean"), *run.progress.agents_with("metagame/rho")]


def per_agent(
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]], kind: str, dash: int, colours: Mapping[str, int]
) -> list[Series]:
    """
    One curve per agent; for many agents, their mean with a band from the lowest to the highest.

    :param curves: agent -> steps and values, shape (k,) each
    :param kind: word behind the agent in the legend
    :param dash: dash pattern of the curves
    :param colours: result of :func:`agent_colours`
    """
    if len(curves) <= COLOURS:
        labels = {agent: f"{agent}, {kind}" if kind else agent for agent in curves}
        places = {agent: colours.get(agent, i) for i, agent in enumerate(curves)}
        return [Series(labels[agent], *xy, colour=places[agent], dash=dash) for agent, xy in curves.items()]
    # A row is skipped if the cell of one agent is damaged.
    common = sorted(set.intersection(*(set(x.tolist()) for x, _ in curves.values())))
    table = np.array([y[np.isin(x, common)] for x, y in curves.values()])
    label = f"mean of {len(curves)} agents" + (f", {kind}" if kind else "")
    return [Series(label, np.array(common), table.mean(axis=0), table.min(axis=0), table.max(axis=0), dash, dash)]


def drawn(charts: Iterable[Chart | None]) -> tuple[Chart, ...]:
    """Those of the charts that have something to show."""
    return tuple(chart for chart in charts if chart is not None)
