"""Sections of a report: curves of its charts and rows of its tables."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from sb3_matrl.evaluation import EvaluationResult, mean_confidence_interval
from sb3_matrl.metagame.stability import FixedPointType
from sb3_matrl.zoo.reporting.charts import COLOURS, MAX_POINTS, Chart, Series, line_chart, share_chart
from sb3_matrl.zoo.reporting.run_loading import STEPS, Evaluations, Progress, Run

PHASES = ("collect", "predict", "metagame", "best_response")
MISSING = "\N{EN DASH}"


@dataclass(frozen=True)
class Group:
    """Charts under one heading, and sentences about them."""

    title: str
    charts: tuple[Chart, ...]
    notes: tuple[str, ...] = ()


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


@dataclass(frozen=True)
class FinalReturns:
    """The last evaluation of one run."""

    run: str
    steps: int
    rows: tuple[Return, ...]


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
        sampled=_mean_with_interval(last.sampled[-1]) if last else MISSING,
        greedy=_mean_with_interval(last.greedy[-1]) if last else MISSING,
        fps=_last_number(run.progress, "time/fps"),
        problems=run.problems,
    )


def steps_done(run: Run) -> float:
    """Largest number of steps that a run has logged."""
    columns = [run.progress.numbers[STEPS]] if run.progress else []
    columns += [run.evaluations.steps] if run.evaluations else []
    values = np.concatenate(columns)
    values = values[np.isfinite(values)]
    return float(values.max()) if values.size else 0.0


def _mean_with_interval(result: EvaluationResult) -> str:
    low, high = result.confidence_interval()
    return f"{result.mean:.2f}" + (f" [{low:.2f}, {high:.2f}]" if np.isfinite(low) else "")


def _last_number(progress: Progress | None, key: str) -> str:
    _, values = progress.curve(key) if progress else (None, np.empty(0))
    return f"{values[-1]:,.0f}" if len(values) else MISSING


def learning(runs: Sequence[Run]) -> Group:
    """Learning curves: evaluations of the teams and of the agents, and returns during training."""
    if len(runs) == 1:
        teams = [line_chart("Team return", _both_policies(runs[0]), _BAND + "; solid: sampled, dashed: greedy actions")]
    else:
        teams = [
            line_chart("Team return, sampled actions", _compared(runs, _evaluated(_sampled)), _BAND),
            line_chart("Team return, greedy actions", _compared(runs, _evaluated(_greedy)), _BAND),
        ]
    training = line_chart("Team return in training", _compared(runs, _logged("rollout/ep_rew_mean")), "latest episodes")
    agents = [line_chart(_titled("Return per agent", run, runs), _agent_returns(run), _SOLID_DASHED) for run in runs]
    return Group("Learning curves", _drawn([*teams, training, *agents]), tuple(_learning_notes(runs)))


_BAND = "mean over the episodes of an evaluation, with its 95 % interval"
_SOLID_DASHED = "mean over the episodes of an evaluation; solid: sampled, dashed: greedy actions"


def _learning_notes(runs: Sequence[Run]) -> Iterable[str]:
    if len({run.folder.env_id for run in runs}) > 1:
        yield "The runs are of different environments: their returns cannot be compared."
    missing = [run.name for run in runs if run.evaluations is None]
    if missing:
        yield f"No evaluations: {', '.join(missing)}."


def _sampled(evaluations: Evaluations) -> Sequence[EvaluationResult]:
    return evaluations.sampled


def _greedy(evaluations: Evaluations) -> Sequence[EvaluationResult]:
    return evaluations.greedy


_Kind = Callable[[Evaluations], Sequence[EvaluationResult]]


def _compared(runs: Sequence[Run], curve: Callable[[Run], Series | None]) -> list[Series]:
    """One curve per run, each run in its own colour everywhere."""
    curves = [(i, curve(run)) for i, run in enumerate(runs)]
    return [series.styled(i) for i, series in curves if series is not None]


def _evaluated(kind: _Kind) -> Callable[[Run], Series | None]:
    return lambda run: _team_curve(run.name, run.evaluations, kind) if run.evaluations else None


def _logged(key: str) -> Callable[[Run], Series | None]:
    return lambda run: Series(run.name, *run.progress.curve(key)) if run.progress else None


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


def _agent_returns(run: Run) -> list[Series]:
    if run.evaluations is None:
        return []
    chosen, series = _spread(len(run.evaluations.steps)), []
    for dash, kind in enumerate((_sampled, _greedy)):
        results = [kind(run.evaluations)[i] for i in chosen]
        means = np.array([result.agent_returns.mean(axis=0) for result in results])
        curves = {agent: (run.evaluations.steps[chosen], means[:, i]) for i, agent in enumerate(results[0].agents)}
        series += _per_agent(curves, ("sampled", "greedy")[dash], dash)
    return series


def _per_agent(curves: Mapping[str, tuple[np.ndarray, np.ndarray]], kind: str, dash: int) -> list[Series]:
    """One curve per agent; for many agents, their mean with a band from the lowest to the highest."""
    if len(curves) <= COLOURS:
        labels = {agent: f"{agent}, {kind}" if kind else agent for agent in curves}
        return [Series(labels[agent], *xy, colour=i, dash=dash) for i, (agent, xy) in enumerate(curves.items())]
    # A row is skipped if the cell of one agent is damaged.
    common = sorted(set.intersection(*(set(x.tolist()) for x, _ in curves.values())))
    table = np.array([y[np.isin(x, common)] for x, y in curves.values()])
    label = f"mean of {len(curves)} agents" + (f", {kind}" if kind else "")
    return [Series(label, np.array(common), table.mean(axis=0), table.min(axis=0), table.max(axis=0), dash, dash)]


def metagames(runs: Sequence[Run]) -> list[Group]:
    """Charts of the meta-game over time: all runs compared, then every run by itself; empty if no run has a meta-game."""
    groups = [_metagame(run, run.progress) for run in runs if run.progress is not None]
    if len(runs) > 1:
        charts = [
            line_chart("Mean weight on the current policies", _compared(runs, _logged("metagame/rho_mean")), _RHO, _SHARE),
            line_chart("NashConv", _compared(runs, _logged("metagame/nash_conv")), _NASH_CONV),
        ]
        groups.insert(0, Group("All runs", _drawn(charts)))
    return [group for group in groups if group.charts]


_SHARE = (0.0, 1.0)
_RHO = "rho: 0 plays the predicted policy, 1 the current one"
_NASH_CONV = "summed gain from deviating at rho; 0 at an equilibrium"


def _metagame(run: Run, progress: Progress) -> Group:
    def chart(title: str, keys: Mapping[str, str], note: str, covers: tuple[float, float] | None = None) -> Chart | None:
        series: list[Series] = []
        for dash, (key, kind) in enumerate(keys.items()):
            curves = {agent: progress.curve(f"{agent}/{key}") for agent in progress.agents_with(key)}
            series += _per_agent(curves, kind, dash)
        return line_chart(title, series, note, covers)

    payoffs = {"metagame/current_payoffs": "current", "metagame/predicted_payoffs": "predicted"}
    divergence = {"metagame/kl_predicted": "predicted", "metagame/kl_next": "next"}
    charts = [
        chart("Weight on the current policy", {"metagame/rho": ""}, _RHO, _SHARE),
        line_chart("NashConv", [Series("NashConv", *progress.curve("metagame/nash_conv"))], _NASH_CONV),
        chart("Payoffs", payoffs, "against rho of the others, in advantage units; solid: current, dashed: predicted policy"),
        _fixed_points(progress),
        chart("KL divergence", divergence, "from the current policy; solid: to the predicted, dashed: to the next one"),
        chart("Clip fraction, meta-game", {"metagame/clip_fraction": ""}, "share of clipped probability ratios"),
        chart("Clip fraction, best response", {"metagame/weight_clip_fraction": ""}, "share of clipped weights"),
        chart(
            "Effective sample size",
            {"metagame/effective_sample_size": ""},
            "effective samples under the weights, as a share of all",
        ),
    ]
    return Group(run.name, _drawn(charts), tuple(_metagame_notes(progress)))


def _metagame_notes(progress: Progress) -> Iterable[str]:
    _, equilibria = progress.curve("metagame/n_equilibria")
    if len(equilibria) and (equilibria == -1).all():
        yield "The meta-game is switched off in this run: rho is fixed, and the other numbers are diagnostics only."


def _fixed_points(progress: Progress) -> Chart | None:
    # Rows of evaluations have an empty cell.
    steps = progress.numbers[STEPS]
    there = [i for i, cell in enumerate(progress.fixed_points) if cell and np.isfinite(steps[i])]
    cells = [progress.fixed_points[i] for i in there]
    known = get_args(FixedPointType)
    categories = [*known, *sorted(set(cells) - set(known))]
    return share_chart("Type of the fixed point", steps[there], cells, categories, "share of iterations")


def value_learning(runs: Sequence[Run]) -> list[Group]:
    """Charts of off-policy learning over time, as :func:`metagames`; empty if no run learns from a replay buffer."""
    trained = [run for run in runs if run.progress is not None and any(map(run.progress.has, (_TD_ERROR, _EXPLORATION)))]
    groups = [Group(run.name, _drawn(_value_charts(run.progress))) for run in trained if run.progress is not None]
    if len(trained) > 1:
        charts = [line_chart(title, _compared(runs, _logged(key)), note, covers) for key, title, note, covers in _VALUES]
        groups.insert(0, Group("All runs", _drawn(charts)))
    return [group for group in groups if group.charts]


_TD_ERROR, _EXPLORATION = "train/td_error_abs", "rollout/exploration_rate"
_VALUES: tuple[tuple[str, str, str, tuple[float, float] | None], ...] = (
    (_TD_ERROR, "TD error", "mean absolute difference between value and target", None),
    ("train/q_tot", "Value of the team", "mean over the batches, of the actions that were taken", None),
    (_EXPLORATION, "Exploration rate", "probability of a random action; the temperature of Q-DPP's sampler", _SHARE),
    ("train/grad_norm", "Norm of the gradients", "before they are clipped", None),
    ("train/greedy_agreement", "Greedy agreement", "share of rows in which sampler and agents take the same actions", _SHARE),
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
        columns = {"team": result.returns} | {agent: result.agent_returns[:, i] for i, agent in enumerate(result.agents)}
        for who, returns in columns.items():
            interval = mean_confidence_interval(returns)
            numbers = (float(returns.mean()), float(returns.std()), *interval, result.mean_length, result.n_episodes)
            rows.append(Return(policy, who, *numbers))
    return FinalReturns(name, int(evaluations.steps[-1]), tuple(rows))


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


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings with dotted keys, such as ``policy_kwargs.net_arch``, and values as text."""
    found: dict[str, str] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = str(value)
    return found


def _titled(title: str, run: Run, runs: Sequence[Run]) -> str:
    return title if len(runs) == 1 else f"{title}: {run.name}"


def _drawn(charts: Iterable[Chart | None]) -> tuple[Chart, ...]:
    return tuple(chart for chart in charts if chart is not None)
