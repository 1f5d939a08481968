"""Sections of a report: curves of its charts and rows of its tables."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sb3_matrl.evaluation import EvaluationResult, mean_confidence_interval
from sb3_matrl.zoo.reporting.chart_groups import SHARE, Group, compared, drawn, logged
from sb3_matrl.zoo.reporting.charts import Chart, Series, line_chart
from sb3_matrl.zoo.reporting.played_games import flat
from sb3_matrl.zoo.reporting.run_loading import STEPS, Evaluations, Progress, Run
from sb3_matrl.zoo.reporting.verdict import verdict

PHASES = ("collect", "predict", "metagame", "best_response")
MISSING = "\N{EN DASH}"


@dataclass(frozen=True)
class Overview:
    """One run in the table at the top of the page; all cells are text."""

    name: str
    algorithm: str
    env: str
    seed: str
    steps: str
    sampled: str
    greedy: str
    fps: str
    verdict: tuple[str, ...]
    problems: tuple[str, ...]


@dataclass(frozen=True)
class Return:
    """Final returns of the team or of one agent, for sampled or greedy actions."""

    policy: str
    who: str
    mean: float
    std: float
    low: float
    high: float
    length: float
    episodes: int
    won: float
    margin: float


@dataclass(frozen=True)
class FinalReturns:
    """The last evaluation of one run; ``competes`` if the agents' returns have a constant sum."""

    run: str
    steps: int
    rows: tuple[Return, ...]
    competes: bool


@dataclass(frozen=True)
class Phase:
    """Wall-clock time of a phase in one run, and its share of the time of all phases."""

    name: str
    colour: int
    seconds: float
    share: float


@dataclass(frozen=True)
class PhaseTimes:
    """Phases of one run, and their total time in seconds."""

    run: str
    phases: tuple[Phase, ...]
    total: float


@dataclass(frozen=True)
class Difference:
    """A setting that differs between runs, and its value in every run."""

    key: str
    values: tuple[str, ...]


def overview(runs: Sequence[Run]) -> list[Overview]:
    """Rows of the table at the top of the page."""
    return [_overview(run) for run in runs]


def _overview(run: Run) -> Overview:
    last = run.evaluations
    return Overview(
        name=run.name,
        algorithm=str(run.arguments.get("algo", MISSING)),
        env=run.folder.env_id,
        seed=str(run.arguments.get("seed", MISSING)),
        steps=f"{steps_done(run):,.0f}",
        sampled=_in_short(last, last.sampled[-1]) if last else MISSING,
        greedy=_in_short(last, last.greedy[-1]) if last else MISSING,
        fps=_last_number(run.progress, "time/fps"),
        verdict=verdict(run.progress) if run.progress else (),
        problems=(*run.problems, *_unfinished(run)),
    )


def _unfinished(run: Run) -> list[str]:
    """A sentence if the results end before the steps that were asked for, which for a continued model are additional ones."""
    planned = run.config.get("n_timesteps")
    if run.arguments.get("trained_agent") or not isinstance(planned, int | float) or steps_done(run) >= planned:
        return []
    return [f"the results end after {steps_done(run):,.0f} of {planned:,.0f} steps: the training goes on, or was stopped"]


def steps_done(run: Run) -> float:
    """Largest number of steps that a run has logged."""
    columns = [run.progress.numbers[STEPS]] if run.progress else []
    columns += [run.evaluations.steps] if run.evaluations else []
    values = np.concatenate(columns)
    values = values[np.isfinite(values)]
    return float(values.max()) if values.size else 0.0


def _in_short(evaluations: Evaluations, result: EvaluationResult) -> str:
    """Team return with its interval, or a line for each competing agent."""
    if evaluations.structure != "constant-sum":
        return _mean_with_interval(result)
    means, wins = result.agent_means, result.win_rates
    return "\n".join(f"{agent} {means[agent]:.2f} (won {wins[agent]:.0%})" for agent in result.agents)


def _mean_with_interval(result: EvaluationResult) -> str:
    low, high = result.confidence_interval()
    return f"{result.mean:.2f}" + (f" [{low:.2f}, {high:.2f}]" if np.isfinite(low) else "")


def _last_number(progress: Progress | None, key: str) -> str:
    _, values = progress.curve(key) if progress else (None, np.empty(0))
    return f"{values[-1]:,.0f}" if len(values) else MISSING


def value_learning(runs: Sequence[Run]) -> list[Group]:
    """Charts of off-policy learning: all runs compared, then every run; empty if no run learns from a replay buffer."""
    trained = [run for run in runs if run.progress is not None and any(map(run.progress.has, (_TD_ERROR, _EXPLORATION)))]
    groups = [Group(run.name, drawn(_value_charts(run.progress))) for run in trained if run.progress is not None]
    if len(trained) > 1:
        charts = [line_chart(title, compared(runs, logged(key)), note, covers) for key, title, note, covers in _VALUES]
        groups.insert(0, Group("All runs", drawn(charts)))
    return [group for group in groups if group.charts]


_TD_ERROR, _EXPLORATION = "train/td_error_abs", "rollout/exploration_rate"
_VALUES: tuple[tuple[str, str, str, tuple[float, float] | None], ...] = (
    (_TD_ERROR, "TD error", "mean absolute difference between value and target", None),
    ("train/q_tot", "Value of the team", "mean over the batches, of the actions that were taken", None),
    (_EXPLORATION, "Exploration rate", "probability of a random action; the temperature of Q-DPP's sampler", SHARE),
    ("train/grad_norm", "Norm of the gradients", "before they are clipped", None),
    ("train/greedy_agreement", "Greedy agreement", "share of rows in which sampler and agents take the same actions", SHARE),
    ("train/log_det", "Diversity", "logarithm of the determinant of the chosen features; 0 if they are orthogonal", None),
)
_LOSS = re.compile(r"train/(?:\w+_)?loss(?:_\w+)?")


def _value_charts(progress: Progress) -> list[Chart | None]:
    losses = [key for key in progress.numbers if _LOSS.fullmatch(key)]
    curves = [Series(key.removeprefix("train/"), *progress.curve(key)).styled(i) for i, key in enumerate(losses)]
    charts = [line_chart(title, [Series(title, *progress.curve(key))], note, covers) for key, title, note, covers in _VALUES]
    return [charts[0], line_chart("Losses", curves, "of the gradient steps"), *charts[1:]]


def final_returns(runs: Sequence[Run]) -> list[FinalReturns]:
    """Tables of the last evaluation of every run."""
    return [_final(run.name, run.evaluations) for run in runs if run.evaluations is not None]


def _final(name: str, evaluations: Evaluations) -> FinalReturns:
    rows: list[Return] = []
    for policy, result in (("sampled", evaluations.sampled[-1]), ("greedy", evaluations.greedy[-1])):
        agents = {agent: result.agent_returns[:, i] for i, agent in enumerate(result.agents)}
        columns = {"team": result.returns} if evaluations.structure != "constant-sum" else {}
        columns |= agents if evaluations.structure != "common" else {}
        for who, returns in columns.items():
            interval = mean_confidence_interval(returns)
            numbers = (float(returns.mean()), float(returns.std()), *interval, result.mean_length, result.n_episodes)
            contest = (result.win_rates.get(who, np.nan), result.score_margins.get(who, np.nan))
            rows.append(Return(policy, who, *numbers, *contest))
    return FinalReturns(name, int(evaluations.steps[-1]), tuple(rows), evaluations.structure == "constant-sum")


def phase_times(runs: Sequence[Run]) -> list[PhaseTimes]:
    """Time of every phase; runs that logged no times are left out."""
    times = [_phases(run.name, run.progress) for run in runs if run.progress is not None]
    return [one for one in times if one.total > 0]


def _phases(name: str, progress: Progress) -> PhaseTimes:
    seconds = {phase: float(progress.curve(f"time/{phase}_seconds")[1].sum()) for phase in PHASES}
    total = sum(seconds.values())
    phases = [Phase(phase, i, seconds[phase], seconds[phase] / (total or 1.0)) for i, phase in enumerate(PHASES)]
    return PhaseTimes(name, tuple(phases), total)


def differences(runs: Sequence[Run]) -> list[Difference]:
    """Settings that differ between runs."""
    settings = [flat({**run.arguments, **run.config}) for run in runs]
    keys = dict.fromkeys(key for one in settings for key in one)
    rows = [Difference(key, tuple(one.get(key, MISSING) for one in settings)) for key in keys]
    return [row for row in rows if len(set(row.values)) > 1]
