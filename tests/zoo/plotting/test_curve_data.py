"""Aggregates over seeds against slow formulas, and what is read from files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sb3_matrl.zoo.plotting.curve_data import (
    RunCurve,
    aggregated,
    elapsed_seconds,
    final_table,
    read_curves,
    selected,
    smoothed,
    up_to,
)
from sb3_matrl.zoo.reporting.run_loading import Progress

RECORD = Path(__file__).parents[3] / "benchmarks" / "results" / "value_based_switch.json"


def curve(seed: int, steps: list[float], values: list[float], env: str = "e", method: str = "m") -> RunCurve:
    array = np.array(values)
    return RunCurve(env, method, seed, np.array(steps, dtype=float), {"sampled": array, "greedy": array + 1})


def test_means_and_intervals_are_those_of_the_values_at_common_steps() -> None:
    stats = pytest.importorskip("scipy.stats")
    runs = [curve(0, [10, 20, 30], [1, 2, 9]), curve(1, [10, 30], [3, 5]), curve(2, [5, 10, 30], [7, 8, 1])]
    (mean,) = aggregated(runs, "sampled", "mean")
    table = [[1.0, 3.0, 8.0], [9.0, 5.0, 1.0]]
    assert mean.steps.tolist() == [10, 30] and mean.n_runs == 3
    for i, column in enumerate(table):
        low, high = stats.t.interval(0.95, 2, np.mean(column), stats.sem(column))
        assert (mean.values[i], mean.low[i], mean.high[i]) == pytest.approx((np.mean(column), low, high))
    (greedy,) = aggregated(runs, "greedy", "mean")
    assert greedy.values == pytest.approx(mean.values + 1)


@pytest.mark.parametrize("statistic", ["mean", "iqm"])
def test_fewer_than_three_seeds_have_no_interval(statistic: str) -> None:
    (of_two,) = aggregated([curve(seed, [10], [seed]) for seed in range(2)], "sampled", statistic)
    assert np.isnan([of_two.low, of_two.high]).all() and of_two.values == pytest.approx([0.5])
    (of_four,) = aggregated([curve(seed, [10], [seed**3]) for seed in range(4)], "sampled", statistic)
    assert of_four.low[0] < of_four.values[0] < of_four.high[0]
    assert of_four.values[0] == pytest.approx(9.0 if statistic == "mean" else 4.5)  # of 0, 1, 8, 27


def test_runs_without_a_common_step_are_an_error() -> None:
    with pytest.raises(ValueError, match="the runs of m in e were evaluated at different steps"):
        aggregated([curve(0, [10], [1]), curve(1, [20], [1])], "sampled", "mean")


def test_a_curve_is_cut_at_a_step() -> None:
    (cut,) = up_to([curve(0, [10, 20, 30], [1, 2, 3])], 20)
    assert cut.steps.tolist() == [10, 20] and cut.returns["greedy"].tolist() == [2, 3]
    with pytest.raises(ValueError, match="--max-timesteps 5: the first evaluation of m in e is later"):
        up_to([curve(0, [10], [1])], 5)


def test_curves_are_selected_in_the_order_that_is_asked_for() -> None:
    runs = [curve(0, [1], [0], env, method) for env in ("x", "y") for method in ("a", "b")]
    found = selected(runs, ["y"], ["b", "a"])
    assert [(one.env, one.method) for one in found] == [("y", "b"), ("y", "a")]
    with pytest.raises(ValueError, match=r"setting 'aa' is unknown; did you mean 'a'\? Known: a, b"):
        selected(runs, None, ["aa"])


def test_a_benchmarks_record_gives_the_means_of_its_table() -> None:
    record = json.loads(RECORD.read_text())
    methods = aggregated(read_curves(RECORD), "greedy", "mean")
    by_name = {(one.env, one.method): one for one in methods}
    final: dict[tuple[str, str], list[float]] = {}
    for run in record["runs"]:
        final.setdefault((run["env"], run["setting"]), []).append(run["returns"]["greedy"][-1])
    assert set(by_name) == set(final)
    for name, values in final.items():
        assert by_name[name].values[-1] == pytest.approx(np.mean(values)) and by_name[name].n_runs == len(values)
    lines = final_table(methods).splitlines()
    assert len(lines) == 1 + len(methods) and f"{methods[0].values[-1]:.2f}" in lines[1]


def with_changes(**changes: object) -> str:
    return json.dumps({"runs": [{**curve(0, [1, 2], [1, 2]).as_json(), **changes}]})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "it has no list 'runs'"),
        ("{}", "it has no list 'runs'"),
        ('{"runs": 1}', "it has no list 'runs'"),
        ('{"runs": []}', "holds no runs"),
        ('{"runs": [{"env": "e"}]}', "a run has no 'setting', 'seed', 'timesteps', 'returns'"),
        ('{"runs": ["e"]}', "a run has no 'env', 'setting'"),
        ("not JSON", "it is not JSON"),
        (with_changes(returns=[1, 2]), "the returns of a run are not those of sampled and greedy actions"),
        (with_changes(returns={"sampled": [1, 2]}), "the returns of a run are not those of sampled and greedy actions"),
        (with_changes(timesteps=[2, 1]), "timesteps must rise, with one return at each"),
        (with_changes(timesteps=[1]), "timesteps must rise, with one return at each"),
        (with_changes(timesteps=1), "timesteps must rise, with one return at each"),
        (with_changes(seed="one"), "one"),
    ],
)
def test_other_files_are_refused_in_words(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "file.json").write_text(content)
    with pytest.raises(ValueError, match=r"file\.json") as error:
        read_curves(tmp_path / "file.json")
    assert message in str(error.value) and "Error(" not in str(error.value)


def test_records_without_returns_over_time_are_refused_in_words() -> None:
    path = RECORD.with_name("checkers_v0_paper.json")  # of an earlier script
    with pytest.raises(ValueError, match=r"no file of plot all --data: a run has no 'returns'$"):
        read_curves(path)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    runs = [curve(3, [1, 2], [0.5, -1.0], "x"), curve(4, [1, 2], [0.0, np.pi], "y")]
    (tmp_path / "file.json").write_text(json.dumps({"runs": [one.as_json() for one in runs]}))
    for one, other in zip(runs, read_curves(tmp_path / "file.json"), strict=True):
        assert (one.env, one.method, one.seed) == (other.env, other.method, other.seed)
        assert one.returns["sampled"].tolist() == other.returns["sampled"].tolist()


def test_the_clock_of_resumed_runs_goes_on() -> None:
    seconds = np.array([1.0, np.nan, 5.0, 2.0, 6.0, 1.0])
    log = Progress({"time/total_timesteps": np.arange(6.0), "time/time_elapsed": seconds}, (), 0)
    assert elapsed_seconds(log)[[0, 2, 3, 4, 5]].tolist() == [1, 5, 7, 11, 12] and np.isnan(elapsed_seconds(log)[1])
    assert np.isnan(elapsed_seconds(Progress({"time/total_timesteps": np.arange(3.0)}, (), 0))).all()


@pytest.mark.parametrize("window", [1, 3, 5, 9])
def test_smoothed_values_are_means_of_the_last_ones(window: int) -> None:
    x, y = np.arange(7.0), np.array([3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0])
    points, means = smoothed(x, y, window)
    assert points.tolist() == list(range(window - 1, 7))
    assert means.tolist() == pytest.approx([np.mean(y[i - window + 1 : i + 1]) for i in range(window - 1, 7)])
