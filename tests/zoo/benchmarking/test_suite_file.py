"""Suites: what the shipped files say is true, and mistakes are told."""

import importlib.util

import numpy as np
import pytest

from sb3_matrl.common.registry import algorithm_spec
from sb3_matrl.envs.making import make_env
from sb3_matrl.games.one_shot_games import one_shot_game
from sb3_matrl.vec_env import make_joint_vec_env
from sb3_matrl.zoo.benchmarking import suite_file
from sb3_matrl.zoo.benchmarking.suite_file import choose_methods, choose_tasks, read_suite
from sb3_matrl.zoo.benchmarking.suite_names import suite_names
from sb3_matrl.zoo.benchmarking.suite_plan import SuiteOptions, plan_suite, runs_in_order

TASKS = {task.name: task for task in read_suite("all")}
ONE_SHOT = [name for name, task in TASKS.items() if task.score == "welfare" and task.best is not None]
RETURNS = [name for name, task in TASKS.items() if task.score == "return"]


def test_all_is_every_suite():
    assert suite_names() == ["coordination", "grid", "zero-sum"]
    assert [task.name for one in suite_names() for task in read_suite(one)] == list(TASKS)


@pytest.mark.parametrize("name", ONE_SHOT)
def test_best_and_chance_of_one_shot_games_are_exact(name):
    task = TASKS[name]
    game = one_shot_game(task.env_kwargs["game"], **task.env_kwargs.get("game_kwargs", {}))
    uniform = [np.full(count, 1 / count) for count in game.n_actions]
    assert task.best == pytest.approx(game.best_welfare(), abs=1e-5)
    assert task.chance == pytest.approx(game.expected_payoffs(uniform).sum(), abs=1e-5)


@pytest.mark.parametrize("name", RETURNS)
def test_best_of_grid_worlds_is_that_of_the_environment_where_it_knows_one(name):
    task = TASKS[name]
    env = make_env(task.env, task.options_of_seed(0))
    known = getattr(env, "best_team_return", None)
    assert task.best is not None and (known is None or task.best == pytest.approx(known))


def test_payoffs_of_the_uneven_game_are_zero_sum_with_the_equilibrium_of_the_title():
    table = np.array(TASKS["uneven_rps"].env_kwargs["payoffs"], dtype=float)
    np.testing.assert_array_equal(table[0], -table[1])
    np.testing.assert_allclose(table[0] @ [0.2, 0.6, 0.2], 0.0, atol=1e-12)
    np.testing.assert_allclose(table[1].T @ [0.2, 0.6, 0.2], 0.0, atol=1e-12)


@pytest.mark.expensive
def test_every_method_of_a_task_gets_the_same_steps(tmp_path):
    available = [task for task in TASKS.values() if task.is_available]
    planned = plan_suite(available, SuiteOptions(str(tmp_path), (0,)))
    assert len(runs_in_order(planned)) == sum(len(task.settings) for task in available)
    for one in planned:
        for run in one.runs:
            values = run.hyperparameters
            fixed = algorithm_spec(run.options.algo).fixed
            strategies = fixed.get("strategies", ("current", "predicted"))
            epochs = values["n_epochs"] if "predicted" in strategies else 0
            epochs += values.get("optimistic_n_epochs") or 0 if "optimistic" in strategies else 0
            epochs += values["br_n_epochs"] if fixed["best_response"] else 0
            assert epochs == 15, run.name
            assert values["n_steps"] * values.n_envs % values["batch_size"] == 0
            assert values["payoff_clip_range"] is None


def test_methods_and_ablations_are_in_every_task():
    methods = {"ippo", "il-la", "matrl", "matrl-no-br", "matrl-optimistic", "optimistic-br", "optimistic"}
    for task in TASKS.values():
        assert methods <= {method.algo for method in task.methods}


def test_run_seed_stands_for_the_seed_of_the_run():
    task = TASKS["random_common_payoff"]
    assert task.options_of_seed(7)["game_kwargs"]["seed"] == 7 and task.env_kwargs["game_kwargs"]["seed"] == "run seed"
    planned = plan_suite([task], SuiteOptions("out", (3, 8)))
    assert {(run.seed, run.hyperparameters.env_kwargs["game_kwargs"]["seed"]) for run in planned[0].runs} == {(3, 3), (8, 8)}


def test_runs_start_seed_by_seed():
    planned = plan_suite([TASKS["chicken"], TASKS["stag_hunt"]], SuiteOptions("out", (4, 2)))
    runs = runs_in_order(planned)
    assert [run.seed for run in runs] == sorted([run.seed for run in runs], reverse=True)
    assert runs[0].name == "chicken, ippo, seed 4" and str(runs[0].folder.path) == "out/chicken/runs/matrix_game_v0/ippo/4"


def test_tasks_and_methods_can_be_chosen():
    tasks = list(TASKS.values())
    assert [task.name for task in choose_tasks(tasks, ["stag_hunt", "chicken"])] == ["chicken", "stag_hunt"]
    (chosen,) = choose_methods([TASKS["chicken"]], ["matrl"])
    assert list(chosen.settings) == ["ippo", "matrl"]
    with pytest.raises(ValueError, match="--tasks: task 'chiken' is unknown; did you mean 'chicken'"):
        choose_tasks(tasks, ["chiken"])
    with pytest.raises(ValueError, match="--methods: method 'matlr' is unknown; did you mean 'matrl'"):
        choose_methods(tasks, ["matlr"])


def test_tasks_whose_package_is_missing_are_known(monkeypatch):
    task = suite_file.SuiteTask(
        name="x",
        title="x",
        env="e",
        score="return",
        n_timesteps=1,
        settings={},
        hyperparams={},
        env_kwargs={},
        needs="no_such",
    )
    assert not task.is_available and TASKS["chicken"].is_available
    assert importlib.util.find_spec("no_such") is None


SUITE = "score: return\nn_timesteps: 5\nsettings: {ippo: {}}\ntasks:\n  one: {title: t, env: checkers_v0}\n"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("tasks:", "task:", "tasks must be a mapping"),
        ("env: checkers_v0", "enw: checkers_v0", "task one: key 'enw' is unknown; did you mean 'env'"),
        ("score: return", "score: retrun", "task one: score 'retrun' is unknown; did you mean 'return'"),
        ("title: t, ", "", "task one: title is missing"),
        ("{ippo: {}}", "{ipo: {}}", "setting 'ipo': algo 'ipo' is unknown; did you mean 'ippo'"),
        ("{ippo: {}}", "{matrl: {}}", "task one: reference 'ippo' is unknown"),
        ("{title: t, env: checkers_v0}", "3", "task one: expected a mapping, got 3"),
    ],
)
def test_mistakes_in_a_suite_are_told(tmp_path, monkeypatch, old, new, message):
    monkeypatch.setattr(suite_file, "SUITES_FOLDER", tmp_path)
    monkeypatch.setattr(suite_file, "suite_names", lambda: ["mine"])
    (tmp_path / "mine.yml").write_text(SUITE)
    assert [task.name for task in read_suite("mine")] == ["one"]
    (tmp_path / "mine.yml").write_text(SUITE.replace(old, new))
    with pytest.raises(ValueError, match=rf"mine\.yml: {message}"):
        read_suite("mine")


def test_unknown_suite():
    with pytest.raises(ValueError, match="suite 'coordinaton' is unknown; did you mean 'coordination'"):
        read_suite("coordinaton")


def test_environments_of_tasks_can_be_made():
    for task in (TASKS["predator_prey"], TASKS["escalation"], TASKS["stag_hunt_grid"]):
        env = make_joint_vec_env(task.env, n_envs=2, env_kwargs=task.options_of_seed(0))
        env.close()
