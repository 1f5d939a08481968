"""Learning curves of a report: returns of the teams and of the agents, in evaluations and in training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean

import numpy as np

from sb3_matrl.evaluation import EvaluationResult
from sb3_matrl.zoo.reporting.chart_groups import SHARE, Group, agent_colours, compared, drawn, logged, per_agent
from sb3_matrl.zoo.reporting.charts import COLOURS, MAX_POINTS, Chart, Series, line_chart, plain
from sb3_matrl.zoo.reporting.played_games import different_games, differing, evaluation_game
from sb3_matrl.zoo.reporting.run_loading import Evaluations, Run

_BAND = "mean over the episodes of an evaluation, with its 95 % interval"
_SOLID_DASHED = "mean over the episodes of an evaluation; solid: sampled, dashed: greedy actions"
_WON = "share of the episodes of an evaluation that the agent won; solid: sampled, dashed: greedy actions"


def learning(runs: Sequence[Run]) -> Group:
    """Learning curves: evaluations of the teams and of the agents, and returns during training."""
    teams = [run for run in runs if run.evaluations is not None and not _competes(run)]
    if len(runs) == 1:
        note = f"{_BAND}; solid: sampled, dashed: greedy actions"
        charts = [_with_levels("Team return", [s for run in teams for s in _both_policies(run)], note, teams)]
    else:
        charts = [
            _with_levels("Team return, sampled actions", compared(runs, _evaluated(_sampled)), _BAND, teams),
            _with_levels("Team return, greedy actions", compared(runs, _evaluated(_greedy)), _BAND, teams),
        ]
    charts.append(line_chart("Team return in training", compared(runs, _logged_returns), "latest episodes"))
    for run in runs:
        charts += _agent_charts(run, runs)
    return Group("Learning curves", drawn(charts), tuple(_learning_notes(runs)))


def _competes(run: Run) -> bool:
    """Whether the agents' returns have a constant sum: then the team return says nothing."""
    return run.evaluations is not None and run.evaluations.structure == "constant-sum"


def _agent_charts(run: Run, runs: Sequence[Run]) -> list[Chart | None]:
    """Returns of the agents where they differ, and who won where they have a constant sum."""
    if run.evaluations is None or run.evaluations.structure == "common":
        return []
    colours = agent_colours(run, runs)
    means = _agent_curves(run.evaluations, lambda result: result.agent_returns.mean(axis=0), colours)
    charts = [line_chart(_titled("Return per agent", run, runs), means, _SOLID_DASHED)]
    if _competes(run):
        wins = _agent_curves(run.evaluations, lambda result: np.array(list(result.win_rates.values())), colours)
        charts.append(line_chart(_titled("Episodes won", run, runs), wins, _WON, SHARE))
        in_training = _titled("Return per agent in training", run, runs)
        charts.append(line_chart(in_training, _logged_agent_returns(run, colours), "latest episodes"))
    return charts


def _logged_agent_returns(run: Run, colours: Mapping[str, int]) -> list[Series]:
    if run.evaluations is None or run.progress is None:
        return []
    agents = run.evaluations.sampled[0].agents
    return per_agent({agent: run.progress.curve(f"{agent}/rollout/ep_rew_mean") for agent in agents}, "", 0, colours)


def _with_levels(title: str, curves: Sequence[Series], note: str, runs: Sequence[Run]) -> Chart | None:
    """
    Curves of team returns, with lines at chance and at the optimum where all runs are evaluated in the same game.

    :param runs: the runs that have curves
    """
    levels = _levels(runs)
    ends = np.array([min(one.x[0] for one in curves), max(one.x[-1] for one in curves)]) if levels else np.empty(0)
    if levels and ends[0] == ends[1]:
        ends[0] = 0.0  # a single evaluation: the line begins with the training
    lines = [
        Series(f"{name}, {plain(level)}", ends, np.full(len(ends), level), colour=COLOURS - 1, dash=2 - i, is_level=True)
        for i, (name, level) in enumerate(levels.items())
    ]
    return line_chart(title, [*curves, *lines], note)


def _levels(runs: Sequence[Run]) -> dict[str, float]:
    """Name of a level -> team return; chance, which every run estimates by itself, is the mean of the runs."""
    if differing([evaluation_game(run) for run in runs]):
        return {}
    values: dict[str, list[float]] = {}
    for run in runs:
        for name, level in run.references.levels.items():
            values.setdefault(name, []).append(level)
    return {name: fmean(values[name]) for name in ("chance", "optimum") if name in values}


def _learning_notes(runs: Sequence[Run]) -> Iterable[str]:
    if len({run.folder.env_id for run in runs}) > 1:
        yield "The runs are of different environments: their returns cannot be compared."
    yield from (f"The {text}." for text in different_games(runs))
    missing = [run.name for run in runs if run.evaluations is None]
    if missing:
        yield f"No evaluations: {', '.join(missing)}."


def _sampled(evaluations: Evaluations) -> Sequence[EvaluationResult]:
    return evaluations.sampled


def _greedy(evaluations: Evaluations) -> Sequence[EvaluationResult]:
    return evaluations.greedy


_Kind = Callable[[Evaluations], Sequence[EvaluationResult]]


def _evaluated(kind: _Kind) -> Callable[[Run], Series | None]:
    return lambda run: None if run.evaluations is None or _competes(run) else _team_curve(run.name, run.evaluations, kind)


def _logged_returns(run: Run) -> Series | None:
    return None if _competes(run) else logged("rollout/ep_rew_mean")(run)


def _both_policies(run: Run) -> list[Series]:
    if run.evaluations is None:
        return []
    sampled, greedy = (_team_curve(name, run.evaluations, kind) for name, kind in (("sampled", _sampled), ("greedy", _greedy)))
    return [sampled.styled(0), greedy.styled(COLOURS + 1)]


def _team_curve(label: str, evaluations: Evaluations, kind: _Kind) -> Series:
    chosen = _spread(len(evaluations.steps))
    results = [kind(evaluations)[i] for i in chosen]
    intervals = np.array([result.confidence_interval() for result in results])
    means = np.array([result.mean for result in results])
    return Series(label, evaluations.steps[chosen], means, intervals[:, 0], intervals[:, 1])


def _spread(count: int) -> np.ndarray:
    """Equally spaced row numbers, first and last included, at most as many as a chart has points."""
    return np.unique(np.linspace(0, count - 1, min(count, MAX_POINTS)).round().astype(int))


def _agent_curves(
    evaluations: Evaluations, number: Callable[[EvaluationResult], np.ndarray], colours: Mapping[str, int]
) -> list[Series]:
    """
    Curves of a number per agent, solid for sampled and dashed for greedy actions.

    :param number: function of an evaluation that returns one number per agent
    :param colours: agent -> colour
    """
    chosen, series = _spread(len(evaluations.steps)), []
    for dash, kind in enumerate((_sampled, _greedy)):
        results = [kind(evaluations)[i] for i in chosen]
        numbers = np.array([number(result) for result in results])
        curves = {agent: (evaluations.steps[chosen], numbers[:, i]) for i, agent in enumerate(results[0].agents)}
        series += per_agent(curves, ("sampled", "greedy")[dash], dash, colours)
    return series


def _titled(title: str, run: Run, runs: Sequence[Run]) -> str:
    return title if len(runs) == 1 else f"{title}: {run.name}"
