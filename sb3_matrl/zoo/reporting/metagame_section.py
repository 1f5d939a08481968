"""The meta-game over time in a report: charts of all runs and of every run, and a table of the strategies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import get_args

import numpy as np

from sb3_matrl.metagame.stability import FixedPointType
from sb3_matrl.zoo.reporting.chart_groups import (
    SHARE,
    Group,
    StrategyUse,
    agent_colours,
    compared,
    drawn,
    logged,
    per_agent,
)
from sb3_matrl.zoo.reporting.charts import DASHES, Chart, Series, line_chart, share_chart
from sb3_matrl.zoo.reporting.run_loading import STEPS, Progress, Run
from sb3_matrl.zoo.reporting.verdict import ZERO

_NASH_CONV = "summed gain from deviating from the weights; 0 at an equilibrium"
_STYLES = ("solid", "dashed", "dotted")


def metagames(runs: Sequence[Run]) -> list[Group]:
    """Charts of the meta-game over time: all runs compared, then every run by itself; empty if no run has a meta-game."""
    groups = [_metagame(run.name, run.progress, agent_colours(run, runs)) for run in runs if run.progress is not None]
    if len(runs) > 1:
        note = "rho: 1 keeps the current policies"
        charts = [
            line_chart("Mean weight on the current policies", compared(runs, logged("metagame/rho_mean")), note, SHARE),
            line_chart("NashConv", compared(runs, logged("metagame/nash_conv")), _NASH_CONV),
        ]
        groups.insert(0, Group("All runs", drawn(charts)))
    return [group for group in groups if group.charts]


def _metagame(name: str, progress: Progress, colours: Mapping[str, int]) -> Group:
    shares = {
        "clip_fraction": ("Clip fraction, meta-game", "share of clipped probability ratios"),
        "weight_clip_fraction": ("Clip fraction, best response", "share of clipped weights"),
        "effective_sample_size": ("Effective sample size", "effective samples under the weights, as a share of all"),
    }
    charts = [
        *_weights(progress, colours),
        line_chart("NashConv", [Series("NashConv", *progress.curve("metagame/nash_conv"))], _NASH_CONV),
        *_payoffs(progress, colours),
        _fixed_points(progress),
        *_divergences(progress, colours),
        *(_of_agents(progress, colours, title, {key: ""}, note) for key, (title, note) in shares.items()),
    ]
    return Group(name, drawn(charts), tuple(_notes(progress)), tuple(strategy_table(progress)))


def _of_agents(
    progress: Progress,
    colours: Mapping[str, int],
    title: str,
    keys: Mapping[str, str],
    note: str,
    covers: tuple[float, float] | None = None,
) -> Chart | None:
    """
    Chart of numbers of every agent's meta-game.

    :param colours: agent -> colour
    :param keys: name of a number -> its word in the legend; as many as there are dash patterns
    """
    series: list[Series] = []
    for dash, (key, kind) in enumerate(keys.items()):
        curves = {agent: progress.curve(f"{agent}/metagame/{key}") for agent in progress.agents_with(f"metagame/{key}")}
        series += per_agent(curves, kind, dash, colours)
    return line_chart(title, series, note, covers)


def _weights(progress: Progress, colours: Mapping[str, int]) -> list[Chart | None]:
    """Weights on the strategies: two need one chart, because they sum to 1."""
    names = progress.strategies
    if len(names) == 2:
        note = f"rho: 0 plays the {names[1]} policy, 1 the current one"
        return [_of_agents(progress, colours, "Weight on the current policy", {"rho": ""}, note, SHARE)]
    note = "weight in the solution of the meta-game; the weights of an agent sum to 1"
    return [
        _of_agents(progress, colours, f"Weight on the {name} policy", {f"sigma_{name}": ""}, note, SHARE) for name in names
    ]


def _payoffs(progress: Progress, colours: Mapping[str, int]) -> list[Chart | None]:
    """Payoffs of the strategies in one chart, as far as there are dash patterns, or in one chart each."""
    names, note = progress.strategies, "against the weights of the others, in advantage units"
    if len(names) > len(DASHES):
        return [
            _of_agents(progress, colours, f"Payoffs of the {name} policy", {f"{name}_payoffs": ""}, note) for name in names
        ]
    return [_of_agents(progress, colours, "Payoffs", {f"{name}_payoffs": name for name in names}, f"{note}; {_dashes(names)}")]


def _divergences(progress: Progress, colours: Mapping[str, int]) -> list[Chart | None]:
    """Divergences of the strategies, and of the next policies, from the current ones; charts as of :func:`_payoffs`."""
    names, note = [*progress.strategies[1:], "next"], "from the current policy"
    if len(names) > len(DASHES):
        return [
            _of_agents(progress, colours, f"KL divergence of the {name} policy", {f"kl_{name}": ""}, note) for name in names
        ]
    return [
        _of_agents(progress, colours, "KL divergence", {f"kl_{name}": name for name in names}, f"{note}; {_dashes(names)}")
    ]


def _dashes(names: Sequence[str]) -> str:
    return ", ".join(f"{style}: {name}" for style, name in zip(_STYLES, names, strict=False))


def _notes(progress: Progress) -> Iterable[str]:
    if _is_off(progress):
        yield "The meta-game is switched off in this run: rho is fixed, and the other numbers are diagnostics only."


def _is_off(progress: Progress) -> bool:
    _, equilibria = progress.curve("metagame/n_equilibria")
    return bool(len(equilibria) and (equilibria == -1).all())


def _fixed_points(progress: Progress) -> Chart | None:
    # Rows of evaluations have an empty cell.
    steps = progress.numbers[STEPS]
    there = [i for i, cell in enumerate(progress.fixed_points) if cell and np.isfinite(steps[i])]
    cells = [progress.fixed_points[i] for i in there]
    known = get_args(FixedPointType)
    categories = [*known, *sorted(set(cells) - set(known))]
    return share_chart("Type of the fixed point", steps[there], cells, categories, "share of iterations")


def strategy_table(progress: Progress) -> list[StrategyUse]:
    """
    What the meta-game thought of each strategy, over a run.

    :param progress: log of the run
    :return: a row per strategy; empty if the run has no meta-game, or it is switched off
    """
    names = progress.strategies
    weights = {name: progress.of_agents(f"metagame/sigma_{name}") for name in names}
    if not progress.has_strategies:
        rho = progress.of_agents("metagame/rho")
        weights = {names[0]: rho, names[1]: 1.0 - rho}
    if not all(map(len, weights.values())) or _is_off(progress):
        return []
    return [_use(progress, name, weights[name]) for name in names]


def _use(progress: Progress, name: str, weights: np.ndarray) -> StrategyUse:
    payoffs, divergences = (progress.of_agents(f"metagame/{key}") for key in (f"{name}_payoffs", f"kl_{name}"))
    return StrategyUse(
        name=name,
        weight=float(weights.mean()),
        used=float((weights > ZERO).any(axis=1).mean()),
        payoff=float(payoffs.mean()) if len(payoffs) else np.nan,
        divergence=float(divergences.mean()) if len(divergences) else np.nan,
    )
