import csv

import numpy as np
import pytest

from sb3_matrl.zoo.benchmarking.budgets import count_gradient_steps
from sb3_matrl.zoo.benchmarking.run_results import budget_warnings, logged_seconds, trained_steps
from sb3_matrl.zoo.common.hyperparameters import Hyperparameters
from sb3_matrl.zoo.common.run_folder import RunFolder
from tests.zoo.benchmarking.small import options, plan, result

ROWS = [
    {"a/train/n_updates": "10", "a/br/n_updates": "4.0", "b/train/n_updates": "10", "b/br/n_updates": "3", "time/fps": "1"},
    {"a/train/n_updates": "", "a/br/n_updates": "", "b/train/n_updates": "", "b/br/n_updates": "", "time/fps": ""},
    {"a/train/n_updates": "20", "a/br/n_updates": "4.0", "b/train/n_updates": "18", "b/br/n_updates": "", "time/fps": "1"},
]


def test_gradient_steps_are_minibatches_of_epochs_and_best_responses():
    hyperparameters = Hyperparameters("matrl", {"n_envs": 4, "n_steps": 25, "batch_size": 30, "learner_class": "PPO"})
    minibatches = len(range(0, 100, 30))
    assert count_gradient_steps(ROWS, hyperparameters) == {"a": 20 * minibatches + 8, "b": 18 * minibatches + 3}


def test_gradient_steps_of_agents_that_learn_differently():
    different = {"batch_size": {"a": 50, "b": 10}, "learner_class": {"a": "PPO", "b": "A2C"}}
    mixed = Hyperparameters("matrl", {"n_envs": 4, "n_steps": 25, **different})
    assert count_gradient_steps(ROWS, mixed) == {"a": 20 * 2 + 8, "b": 18 + 3}


def test_gradient_steps_are_counted_for_any_algorithm():
    other = Hyperparameters("other", {"n_timesteps": 100})
    assert count_gradient_steps(ROWS, other) == {"a": 28, "b": 21}
    assert count_gradient_steps([{"time/fps": "1"}], other) == {}


def test_clock_that_began_again_goes_on():
    times = [("100", "3"), ("200", "5"), ("", ""), ("300", "2"), ("400", "2"), ("500", "1")]
    rows = [{"time/total_timesteps": steps, "time/time_elapsed": seconds} for steps, seconds in times]
    assert logged_seconds(rows) == [(100, 3), (200, 5), (300, 7), (400, 7), (500, 8)]


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("x,time/total_timesteps\n1,2000\n2,4000\n", 4000),
        ("x,time/total_timesteps\n1,2000\n2,40", 2000),
        ('time/total_timesteps,x\n2000.0,"a,b"\n', 2000),
        ("x,time/total_timesteps\n", 0),
        ("x,time/tot", 0),
        ("x,time/total_timesteps\n1,\n", 0),
        ("x,y\n1,2\n", 0),
        ("", 0),
    ],
)
def test_progress_is_read_while_it_is_written(tmp_path, text, steps):
    (tmp_path / "progress.csv").write_text(text)
    assert trained_steps(RunFolder(tmp_path, "e")) == steps


def test_progress_of_a_long_run_is_its_last_line(tmp_path):
    with (tmp_path / "progress.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["x", "time/total_timesteps"])
        writer.writerows(["y" * 300, 2000 * (i + 1)] for i in range(1000))
    assert trained_steps(RunFolder(tmp_path, "e")) == 2_000_000


def test_run_without_a_folder_has_no_progress(tmp_path):
    assert trained_steps(RunFolder(tmp_path / "none", "e")) == 0


def test_budgets_that_differ_from_the_plan_are_told(tmp_path):
    matrl, ippo = plan(tmp_path, seeds=(0,))
    # 200 steps are 2 rollouts of 4 copies x 25 steps; batches of 50 make 2 minibatches; 2 epochs + 1 best response.
    right = 2 * 2 * 2
    best_response = 2 * 1 * 2
    returns = [[1.0], [2.0]]
    assert (
        budget_warnings([result(matrl, returns, returns, right + best_response), result(ippo, returns, returns, right)]) == []
    )
    (line,) = budget_warnings([result(ippo, [[1.0]], [[1.0]], right - 1)])
    assert line.startswith("matrix_game_v0, ippo, seed 0: 100 environment steps instead of 200, ")
    assert f"{right - 1} gradient steps of agent_0 instead of {right}" in line


def test_curve_is_the_mean_over_episodes(tmp_path):
    run = plan(tmp_path)[0]
    found = result(run, [[1.0, 2.0], [5.0, 7.0]], [[0.0, 0.0], [4.0, 2.0]])
    np.testing.assert_array_equal(found.curve("sampled"), [1.5, 6.0])
    np.testing.assert_array_equal(found.curve("greedy"), [0.0, 3.0])
    assert found.env_steps == 200 and options(tmp_path).n_timesteps == 200
