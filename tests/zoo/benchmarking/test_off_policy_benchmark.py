"""On- and off-policy algorithms in one benchmark."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from sb3_matrl.zoo.benchmark import DEFAULT_ALGOS, benchmark_options, main, parse_words
from sb3_matrl.zoo.benchmarking import execution, forked_runs, worker
from sb3_matrl.zoo.benchmarking import run_statistics as statistics
from sb3_matrl.zoo.benchmarking.budgets import count_gradient_steps, wrong_budgets
from sb3_matrl.zoo.benchmarking.comparison import exploration_notes, group, warnings
from sb3_matrl.zoo.benchmarking.plan import Setting
from sb3_matrl.zoo.common.hyperparameters import Hyperparameters
from tests.zoo.benchmarking.small import in_this_process, options, plan, result

OFF = "buffer_size: 400, learning_starts: 40, batch_size: 8, exploration_steps: 60"
SETTINGS = [
    "ippo: {n_steps: 25, batch_size: 50, n_epochs: 2}",
    f"qmix: {{{OFF}, train_freq: 3, exploration_final_eps: 0.25}}",
    f"rare: {{algo: iql, {OFF}, train_freq: 5, gradient_steps: 1}}",
]
SHARED = ["-n", "300", "-params", "n_envs:4", "policy_kwargs.net_arch:[8]", "--eval-freq", "100", "--eval-episodes", "2"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], list[float]]:
    """Folder and record of a benchmark, and the exploration rates of the best models when they were played."""
    out, rates = tmp_path_factory.mktemp("benchmark") / "out", []
    original = worker.evaluate_policy

    def noted(model: Any, *arguments: Any, **named: Any) -> Any:
        rates.append(getattr(model, "exploration_rate", -1.0))
        return original(model, *arguments, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forked_runs, "local_launcher", in_this_process)
        patch.setattr(execution, "POLL_SECONDS", 0.0)
        patch.setattr(statistics, "N_RESAMPLES", 50)
        patch.setattr(worker, "evaluate_policy", noted)
        words = ["--setting", *SETTINGS, "--envs", "matrix_game_v0", "--seeds", "1", "--device", "cpu", "--out", str(out)]
        assert main([*words, *SHARED, "--jobs", "1"]) == 0
    return out, json.loads((out / "record.json").read_text(encoding="utf-8")), rates


@pytest.mark.e2e
def test_table_and_record_state_the_steps_of_all(finished: tuple[Path, dict[str, Any], list[float]]) -> None:
    out, record, _ = finished
    # ippo: 3 rollouts of 100 steps, 2 epochs of 2 minibatches. qmix: 25 blocks of 12 steps, the first 3 without updates, 2
    # gradient steps each. rare: 15 blocks of 20 steps, the first 2 without updates: 40 steps are not more than the warm-up.
    expected = {"ippo": (300, 12), "qmix": (300, 44), "rare": (300, 13)}
    assert {row["setting"]: (row["env_steps"], row["gradient_steps"]) for row in record["table"]} == expected
    assert {run["setting"]: set(run["gradient_steps"].values()) for run in record["runs"]} == {
        name: {steps} for name, (_, steps) in expected.items()
    }
    table = list(csv.DictReader((out / "table.csv").open(encoding="utf-8")))
    assert {row["setting"]: int(row["gradient_steps"]) for row in table} == {name: n for name, (_, n) in expected.items()}
    differing = "warning: matrix_game_v0: gradient steps per agent differ: ippo 12, qmix 44, rare 13"
    explored = "sampled actions of these settings explore at the rate of the training then, which at the end is"
    few = "warning: 1 seed says little about a method: compare at least 5, better 10; intervals need 3"
    zero = (
        "the team return is always 0.00 and says nothing: agents whose returns have a constant sum are compared by crossplay"
    )
    expected_notes = [differing, few, f"{explored}: qmix 0.25, rare 0.05", f"warning: matrix_game_v0: {zero}"]
    assert sorted(record["notes"]) == sorted(expected_notes)
    assert (out / "learning_curves.png").is_file() and {len(run["timesteps"]) for run in record["runs"]} == {3}


@pytest.mark.e2e
def test_best_models_are_played_with_the_last_exploration_rate(finished: tuple[Path, dict[str, Any], list[float]]) -> None:
    assert finished[2] == [-1.0, -1.0, 0.25, 0.25, 0.05, 0.05]


@pytest.mark.parametrize(
    ("changes", "env_steps", "gradient_steps", "wrong"),
    [
        ({}, 104, 22, []),
        ({}, 100, 22, ["100 environment steps instead of 104"]),
        ({}, 104, 21, ["21 gradient steps of a instead of 22"]),
        ({"gradient_steps": -1}, 104, 88, []),
        ({"learning_starts": 0}, 104, 26, []),
        ({"learning_starts": 1000}, 104, 0, []),
        ({"train_freq": [2, "step"]}, 104, 22, []),
        ({"train_freq": [1, "episode"]}, 99, 3, []),
    ],
)
def test_wrong_budgets_are_found(changes: dict[str, Any], env_steps: int, gradient_steps: int, wrong: list[str]) -> None:
    given = {"n_timesteps": 104, "n_envs": 2, "train_freq": 2, "gradient_steps": 1, "learning_starts": 16, "buffer_size": 9}
    asked = Hyperparameters("vdn", {**given, **changes})
    assert wrong_budgets("vdn", asked, env_steps, {"a": gradient_steps}) == wrong


def test_gradient_steps_of_off_policy_algorithms_are_those_of_the_log() -> None:
    rows = [{"train/n_updates": "5", "eval/a/b/mean_reward": "1"}, {"train/n_updates": "", "eval/c/mean_reward": "0"}]
    hyperparameters = Hyperparameters("qmix", {"buffer_size": 10})
    assert count_gradient_steps(rows, hyperparameters) == {"a/b": 5, "c": 5}


def test_settings_in_different_worlds_are_told(tmp_path: Path) -> None:
    settings = (Setting("ippo", "ippo", {"env_kwargs.clock": False}), Setting("qmix", "qmix", {}))
    changes = {"settings": settings, "envs": ("switch_v0",), "seeds": (0,), "hyperparams": {"n_envs": 4}}
    cells = group([result(run, [[1.0]], [[1.0]]) for run in plan(tmp_path, **changes)])
    lines = warnings(cells, options(tmp_path, **changes))
    assert "warning: switch_v0: env_kwargs differ: ippo {'clock': False}, qmix {'clock': True}" in lines
    assert exploration_notes(cells)[0].endswith(": qmix 0.05")
    same = {**changes, "settings": (Setting("ippo", "ippo", {}), settings[1])}
    cells = group([result(run, [[1.0]], [[1.0]]) for run in plan(tmp_path, **same)])
    assert not any("env_kwargs" in line for line in warnings(cells, options(tmp_path, **same)))


def test_matrl_and_its_ablations_are_compared_by_default() -> None:
    chosen = benchmark_options(parse_words([])).settings
    assert tuple(setting.algo for setting in chosen) == DEFAULT_ALGOS == ("matrl", "matrl-no-br", "il-la", "ippo")
