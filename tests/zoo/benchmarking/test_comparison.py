import csv
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import trim_mean

from sb3_matrl.zoo.benchmarking import run_statistics as statistics
from sb3_matrl.zoo.benchmarking.benchmark_tables import csv_text, flat_rows, markdown, print_tables
from sb3_matrl.zoo.benchmarking.comparison import (
    ALL_ENVS,
    Bounds,
    compare,
    compare_normalised,
    equal_returns,
    group,
    score_bounds,
    warnings,
)
from sb3_matrl.zoo.benchmarking.marl_eval import environment_name, marl_eval_data
from sb3_matrl.zoo.common.records import write_json
from tests.zoo.benchmarking.small import options, plan, result

FINAL = {  # environment, setting -> final sampled score of each seed
    ("matrix_game_v0", "matrl"): [1.0, 2.0, 3.0, 40.0],
    ("matrix_game_v0", "ippo"): [0.0, 2.0, 2.5, 3.0],
    ("checkers_v0", "matrl"): [5.0, 6.0, 7.0, 8.0],
    ("checkers_v0", "ippo"): [5.0, 5.0, 5.0, 9.0],
}
ENVS = ("matrix_game_v0", "checkers_v0")
SEEDS = (0, 1, 2, 3)


@pytest.fixture(scope="module", autouse=True)
def few_resamples():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statistics, "N_RESAMPLES", 200)
        yield


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    runs = plan(tmp_path_factory.mktemp("out"), envs=ENVS, seeds=SEEDS)
    found = []
    for run in runs:
        score = FINAL[run.env, run.setting][run.seed]
        # Two episodes per evaluation, whose mean is the score; greedy is always 1 better.
        sampled = np.array([[0.0, 0.0], [score - 1, score + 1]])
        found.append(result(run, sampled, sampled + 1, gradient_steps=12 if run.setting == "matrl" else 8))
    return found


@pytest.fixture(scope="module")
def compared(results):
    return compare(group(results), "ippo")


def by_key(rows):
    return {(row.env, row.setting): row for row in rows}


def test_rows_have_final_scores_of_all_seeds(compared):
    rows = by_key(compared)
    assert list(rows) == list(FINAL)
    for key, scores in FINAL.items():
        sampled, greedy = rows[key].policies["sampled"], rows[key].policies["greedy"]
        assert sampled.mean.value == pytest.approx(np.mean(scores)) == pytest.approx(greedy.mean.value - 1)
        assert sampled.iqm.value == pytest.approx(trim_mean(scores, 0.25)) == pytest.approx(greedy.iqm.value - 1)
        assert sampled.mean.low <= sampled.mean.value <= sampled.mean.high
        assert (rows[key].n_seeds, rows[key].env_steps, rows[key].seconds) == (4, 200, 2.0)
    improvement = rows["checkers_v0", "matrl"].policies["sampled"].improvement
    pairs = [(a > b) + 0.5 * (a == b) for a in FINAL["checkers_v0", "matrl"] for b in FINAL["checkers_v0", "ippo"]]
    assert improvement.value == pytest.approx(np.mean(pairs)) and improvement.low < improvement.value < improvement.high
    assert rows["checkers_v0", "ippo"].policies["sampled"].improvement is None
    assert (rows["checkers_v0", "matrl"].gradient_steps, rows["checkers_v0", "ippo"].gradient_steps) == (12, 8)


def test_normalised_scores_are_pooled_over_environments(results):
    bounds = {"matrix_game_v0": Bounds(0.0, 40.0, True), "checkers_v0": Bounds(4.0, 9.0, True)}
    # A seed counts only where it is finished everywhere.
    some = [r for r in results if (r.run.env, r.run.setting, r.run.seed) != ("checkers_v0", "matrl", 3)]
    rows = by_key(compare_normalised(group(some), bounds, "ippo"))
    assert list(rows) == [(ALL_ENVS, "matrl"), (ALL_ENVS, "ippo")]
    matrl = rows[ALL_ENVS, "matrl"]
    pooled = [score / 40 for score in FINAL["matrix_game_v0", "matrl"][:3]]
    pooled += [(score - 4) / 5 for score in FINAL["checkers_v0", "matrl"][:3]]
    assert matrl.n_seeds == 3 and rows[ALL_ENVS, "ippo"].n_seeds == 4
    assert matrl.policies["sampled"].mean.value == pytest.approx(np.mean(pooled))
    assert matrl.policies["sampled"].iqm.value == pytest.approx(trim_mean(pooled, 0.25))
    wins = [np.mean([(a > b) + 0.5 * (a == b) for a in FINAL[env, "matrl"][:3] for b in FINAL[env, "ippo"]]) for env in ENVS]
    assert matrl.policies["sampled"].improvement.value == pytest.approx(np.mean(wins))


def test_bounds_are_given_or_chance_and_the_best_run(results, tmp_path):
    cells = group(results)
    bounds = score_bounds(cells, options(tmp_path, envs=ENVS, seeds=SEEDS), {"checkers_v0": (0.0, 20.0)})
    assert bounds["checkers_v0"] == Bounds(0.0, 20.0, given=True)
    # Chance earns nothing for the team in the zero-sum game; the best run is greedy.
    assert bounds["matrix_game_v0"] == Bounds(0.0, 41.0, given=False)
    assert Bounds(2.0, 6.0, True).normalise(np.array([2.0, 6.0, 7.0])).tolist() == [0.0, 1.0, 1.25]


def test_warnings_name_missing_runs_and_unequal_budgets(results, tmp_path):
    asked = options(tmp_path, envs=ENVS, seeds=SEEDS)
    differ = [f"warning: {env}: gradient steps per agent differ: matrl 12, ippo 8" for env in ENVS]
    assert warnings(group(results), asked) == differ
    missing = warnings(group([r for r in results if r.run.setting == "matrl" and r.run.seed]), asked)
    assert missing == [
        line
        for env in ENVS
        for line in (
            f"warning: {env}, matrl: only 3 of 4 seeds are finished",
            f"warning: {env}, ippo: only 0 of 4 seeds are finished",
        )
    ]


def test_returns_that_never_differ_get_a_warning(tmp_path):
    zero = [result(run, [[0.0, 1e-16], [0.0, 0.0]], [[0.0, -1e-16], [0.0, 0.0]]) for run in plan(tmp_path)]
    (line,) = equal_returns(group(zero))
    assert line.startswith("warning: matrix_game_v0: the team return is always 0.00 and says nothing")
    assert equal_returns(group([*zero[:-1], result(zero[-1].run, [[0.0], [0.0]], [[0.0], [0.5]])])) == []


def test_a_name_does_not_break_the_table(compared):
    lines = markdown([replace(row, setting="a|b") for row in compared], "x|y", []).splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len({line.replace(r"\|", "").count("|") for line in table}) == 1 and r"| a\|b |" in table[2]


def test_tables_agree(compared, capsys):
    rows, flat = compared, flat_rows(compared)
    assert (flat[0]["env"], flat[0]["setting"], flat[0]["sampled_mean"]) == ("matrix_game_v0", "matrl", 11.5)
    read = list(csv.DictReader(io.StringIO(csv_text(rows))))
    assert [float(row["greedy_iqm_high"]) for row in read] == [row["greedy_iqm_high"] for row in flat]
    assert read[1]["sampled_improvement"] == "" and flat[1]["sampled_improvement"] is None
    text = markdown(rows, "ippo", ["warning: mind the gap"])
    lines = text.splitlines()
    assert lines.count("## checkers_v0") == 1 and text.endswith("- warning: mind the gap\n")
    matrl = next(line for line in lines if line.startswith("| matrl "))
    estimate = rows[0].policies["sampled"]
    assert matrl.split(" | ")[1:6] == ["4", "200", "12", str(estimate.mean), str(estimate.iqm)]
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1
    print_tables(rows, "ippo", ["warning: mind the gap"])
    shown = capsys.readouterr().out
    assert "11.50" in shown and "P(> ippo)" in shown and "warning: mind the gap" in shown and "…" not in shown


def check_marl_eval(data, episodes):
    """
    The rules of marl-eval's README: five levels, ``step_count`` and a list of one value or one per episode for every metric
    of every step, ten times as many in ``absolute_metrics``, and the same algorithms, runs, steps and metrics everywhere.
    """
    for tasks in data.values():
        shapes = []
        for algorithms in tasks.values():
            for runs in algorithms.values():
                for run in runs.values():
                    steps = {name: step for name, step in run.items() if name != "absolute_metrics"}
                    counts = [step["step_count"] for step in steps.values()]
                    assert all(type(count) is int for count in counts) and counts == sorted(set(counts))
                    metrics = {frozenset(step) - {"step_count", "elapsed_time"} for step in steps.values()}
                    assert metrics == {frozenset(run["absolute_metrics"])}
                    for step in steps.values():
                        lists = [value for name, value in step.items() if name not in ("step_count", "elapsed_time")]
                        assert all(isinstance(values, list) and len(values) in (1, episodes) for values in lists)
                        assert isinstance(step["elapsed_time"], float)
                    assert all(len(values) in (1, 10 * episodes) for values in run["absolute_metrics"].values())
                    shapes.append((len(runs), len(steps), metrics.pop()))
            assert algorithms.keys() == next(iter(tasks.values())).keys()
        assert len(set(shapes)) == 1


def test_marl_eval_layout(results, tmp_path):
    write_json(tmp_path / "results.json", marl_eval_data(results))
    data = json.loads((tmp_path / "results.json").read_text())
    check_marl_eval(data, episodes=2)
    assert list(data) == ["sb3_matrl"] and list(data["sb3_matrl"]) == list(ENVS)
    run = data["sb3_matrl"]["checkers_v0"]["ippo"]["seed_3"]
    assert list(run) == ["step_1", "step_2", "absolute_metrics"]
    assert run["step_2"] == {
        "step_count": 200,
        "elapsed_time": 1.0,
        "return": [8.0, 10.0],
        "return_greedy": [9.0, 11.0],
        "episode_length": [1.0, 1.0],
        "episode_length_greedy": [1.0, 1.0],
    }
    assert run["absolute_metrics"]["return"] == [8.0] * 10 + [10.0] * 10


def test_environment_is_the_package_of_its_tasks():
    assert environment_name("switch_v0") == "sb3_matrl"
    assert environment_name("pettingzoo.butterfly.pistonball_v6:parallel_env") == "pettingzoo"
