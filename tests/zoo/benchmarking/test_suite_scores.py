"""Scores of a suite's runs, their comparison, and the suite's tables."""

import csv
import io
import json

import numpy as np
import pytest
from scipy.stats import trim_mean

from sb3_matrl.zoo.benchmarking import run_statistics as statistics
from sb3_matrl.zoo.benchmarking.suite_file import SuiteTask
from sb3_matrl.zoo.benchmarking.suite_report import csv_text, suite_text, task_records
from sb3_matrl.zoo.benchmarking.suite_scores import compare_methods, count_verdicts, run_scores, score_of_values
from tests.zoo.benchmarking.small import plan, result

FINAL = {"matrl": [1.0, 2.0, 3.0, 40.0], "ippo": [0.0, 0.5, 0.7, 1.5]}


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    monkeypatch.setattr(statistics, "N_RESAMPLES", 200)


def task(score, **changes):
    shared = {"env": "matrix_game_v0", "n_timesteps": 200, "hyperparams": {}, "env_kwargs": {}, "best": 9.0, "chance": 4.5}
    settings = {"matrl": {}, "ippo": {}}
    return SuiteTask(name="t", title="A task", score=score, settings=settings, **{**shared, **changes})


def results(tmp_path, n_seeds=4, final=FINAL):
    """Runs with the final team return, welfare score and NashConv of ``final``, and 100 in the first policies."""
    found = []
    for run in plan(tmp_path, seeds=tuple(range(n_seeds))):
        end = final[run.setting][run.seed]
        values = np.array([100.0, 0.0, 0.0, 0.0, end])
        sampled = np.array([[0.0, 0.0], [end - 1, end + 1]])
        measures = {"timesteps": np.arange(5.0), "welfare_score": values, "nash_conv": values}
        found.append(result(run, sampled, sampled + 1, measures=measures))
    return found


def test_score_of_values_leaves_out_the_policies_before_the_training():
    assert score_of_values("welfare", np.array([9.0, 1.0, 2.0, 3.0])) == (2.0, 3.0)
    assert score_of_values("nash_conv", np.arange(9.0)) == (7.5, 8.0)
    assert score_of_values("nash_conv", np.array([5.0, 2.0])) == (2.0, 2.0)


def test_scores_of_a_run(tmp_path):
    (run,) = results(tmp_path, n_seeds=1, final={"matrl": [8.0], "ippo": [1.0]})[:1]
    assert run_scores(task("return"), run) == (8.0, 9.0)
    assert run_scores(task("welfare"), run) == (2.0, 8.0) and run_scores(task("nash_conv"), run) == (8.0, 8.0)
    run.measures.clear()
    with pytest.raises(ValueError, match="task t: matrix_game_v0, matrl, seed 0 has no exact nash_conv"):
        run_scores(task("nash_conv"), run)


@pytest.mark.parametrize(("score", "wins"), [("return", True), ("welfare", True), ("nash_conv", False)])
def test_methods_are_compared_by_their_scores(tmp_path, score, wins):
    rows = {row.method: row for row in compare_methods(task(score), results(tmp_path))}
    scale = 4 if score == "welfare" else 1
    pairs = [(a > b) + 0.5 * (a == b) for a in FINAL["matrl"] for b in FINAL["ippo"]]
    share = np.mean(pairs) if wins else 1 - np.mean(pairs)
    matrl, ippo = rows["matrl"], rows["ippo"]
    assert matrl.score.value == pytest.approx(trim_mean(FINAL["matrl"], 0.25) / scale)
    assert matrl.score.low <= matrl.score.value <= matrl.score.high
    assert matrl.improvement.value == pytest.approx(share) and ippo.improvement is None and ippo.verdict == ""
    assert matrl.verdict == ("better" if wins else "worse")
    assert count_verdicts(list(rows.values())) == {"matrl": {"better": int(wins), "even": 0, "worse": int(not wins)}}


def test_two_seeds_have_no_interval_and_no_verdict(tmp_path):
    row = compare_methods(task("return"), results(tmp_path, n_seeds=2))[0]
    assert np.isnan(row.score.low) and np.isnan(row.improvement.low) and row.verdict == "even"
    assert np.isfinite(compare_methods(task("return"), results(tmp_path, n_seeds=3))[0].score.low)


def test_tables_and_record_agree(tmp_path):
    one = task("return")
    rows = {"t": compare_methods(one, results(tmp_path))}
    text = suite_text({"t": one}, rows, ["warning: mind the gap"])
    lines = text.splitlines()
    assert "A task (team return: best 9, uniform play 4.5)" in lines and lines[-1] == "- warning: mind the gap"
    matrl = next(line for line in lines if line.startswith("| matrl "))
    cells = [cell.strip() for cell in matrl.strip("| ").split("|")]
    assert cells == ["matrl", "4", "200", "10", *map(str, (rows["t"][0].score, rows["t"][0].other, rows["t"][0].improvement))]
    assert [cell.strip() for cell in lines[-3].strip("| ").split("|")] == ["matrl", "1", "0", "0"]
    record = json.loads(json.dumps(task_records({"t": one}, rows)))
    assert record[0]["rows"][0]["scores"] == FINAL["matrl"] and record[0]["tuned"] is False
    read = list(csv.DictReader(io.StringIO(csv_text(record))))
    assert [(row["task"], row["method"]) for row in read] == [("t", "matrl"), ("t", "ippo")]
    assert float(read[0]["improvement_low"]) == rows["t"][0].improvement.low and read[1]["improvement"] == ""
