"""Callbacks in files of hyper-parameters: a fixed list, called as in SB3, with counters that survive a resumed run."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stable_baselines3.common.callbacks import ConvertCallback

from sb3_matrl import MATRL
from sb3_matrl.common.callbacks import ResumableCheckpointCallback
from sb3_matrl.zoo.common.hyperparameters import Hyperparameters, find_conf_file
from sb3_matrl.zoo.common.listed_callbacks import CALLBACKS, ListedCallbacks, read_callbacks
from sb3_matrl.zoo.common.yaml_files import read_yaml
from sb3_matrl.zoo.train import main
from tests.documentation import table_rows
from tests.evaluation.worlds import RandomLength

WORLD = "tests.evaluation.worlds:RandomLength"
QUICK = ["--env", WORLD, "--eval-episodes", "2", "--verbose", "0", "--device", "cpu", "--seed", "3"]
SMALL = ["-params", "n_envs:4", "n_steps:25", "batch_size:100", "n_epochs:1", "br_n_epochs:1", "policy_kwargs.net_arch:[8]"]


def train(run: Path, callback: str, *words: str, code: int = 0) -> Path:
    assert main([*QUICK, *SMALL, f"callback:{callback}", "--run-dir", str(run), *words]) == code
    return run


def rows_of(run: Path) -> list[dict[str, str]]:
    with (run / "progress.csv").open() as file:
        return list(csv.DictReader(file))


def last_step(run: Path) -> int:
    (path,) = (path for path in run.glob("*.zip") if path.name != "best_model.zip")
    return MATRL.load(path, device="cpu").num_timesteps


# ---------------------------------------------------------------------- reading


@pytest.mark.parametrize(
    ("value", "names"),
    [
        (None, []),
        ("ProgressBarCallback", ["ProgressBarCallback"]),
        ({"LogEveryNTimesteps": {"n_steps": 1e3}}, ["LogEveryNTimesteps"]),
        (["ProgressBarCallback", {"LogEveryNTimesteps": {"n_steps": 2}}], ["ProgressBarCallback", "LogEveryNTimesteps"]),
        ("stable_baselines3.common.callbacks.ProgressBarCallback", ["ProgressBarCallback"]),
    ],
)
def test_callbacks_are_read_in_the_forms_of_rl_zoo(value: Any, names: list[str]) -> None:
    assert [name for name, _ in read_callbacks(value)] == names


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("os.system", r"callback 'os.system' is unknown.*A file chooses no code beyond this list: pass callbacks of your own"),
        ("evil.ProgressBarCallback", "callback 'evil.ProgressBarCallback' is unknown"),
        ("StopTrainingOnMaxEpisode", "did you mean 'StopTrainingOnMaxEpisodes'"),
        ("EvalCallback", "EvalCallback is not for files: train evaluates by itself: see --eval-freq"),
        ("rl_zoo3.callbacks.SaveVecNormalizeCallback", "are saved with every model"),
        (3, "here, callback: expected a list or a mapping or text or null, got 3"),
        ([3], "expected the name of a callback"),
        ([{"A": {}, "B": {}}], "expected the name of a callback"),
        ({"StopTrainingOnMaxEpisodes": 4}, "expected a mapping of arguments, got 4"),
        ("StopTrainingOnMaxEpisodes", r"needs max_episodes: write \{StopTrainingOnMaxEpisodes: \{max_episodes: ...\}\}"),
        ({"StopTrainingOnMaxEpisodes": {"max_episode": 4}}, "argument 'max_episode' is unknown; did you mean 'max_episodes'"),
        ({"StopTrainingOnMaxEpisodes": {"max_episodes": "four"}}, "max_episodes must be an integer, got 'four'"),
        ({"StopTrainingOnMaxEpisodes": {"max_episodes": 0}}, "max_episodes must be at least 1, got 0"),
        ({"CheckpointCallback": {"save_freq": 9, "save_path": "/tmp/x"}}, "must be the name of a folder in the run folder"),
        ({"CheckpointCallback": {"save_freq": 9, "save_path": "../x"}}, "must be the name of a folder in the run folder"),
        ({"CheckpointCallback": {"save_freq": 9, "save_path": "checkpoints"}}, "is a folder of the training itself"),
        (
            {"EveryNTimesteps": {"n_steps": 9, "callback": {"StopTrainingOnRewardThreshold": {"reward_threshold": 1}}}},
            "must be",
        ),
        ({"EveryNTimesteps": {"n_steps": 9, "callback": "os.system"}}, "callback 'os.system' is unknown"),
    ],
)
def test_mistakes_are_named(value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Hyperparameters.from_mapping("matrl", {"callback": value}, "here")


def test_the_page_lists_the_callbacks_and_their_arguments() -> None:
    rows = {row[0]: row[1] for row in table_rows("from_rl_zoo.md", "Callbacks")}
    assert sorted(rows) == sorted(CALLBACKS)
    for name, arguments in rows.items():
        for argument in arguments.replace("`", "").replace(", ...", "").split(", "):
            assert not argument or argument in CALLBACKS[name].__init__.__code__.co_varnames, (name, argument)


def test_the_example_of_the_page_is_read(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "from_rl_zoo.md").read_text(encoding="utf-8")
    file = tmp_path / "conf.yml"
    file.write_text(page.split("```yaml\n")[1].split("```")[0], encoding="utf-8")
    conf = Hyperparameters.from_mapping("matrl", read_yaml(file)["checkers_v0"], "the page")
    assert conf.callbacks == [("StopTrainingOnMaxEpisodes", {"max_episodes": 100_000})]
    assert conf.n_timesteps == 400_000 and conf["norm_obs"] and not conf["norm_reward"]


@pytest.mark.parametrize("name", ["conf.py", "hyperparams/python/ppo.py"])
def test_conf_files_in_python_are_refused_with_the_reason(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf.py").write_text("raise SystemExit('it ran')")
    with pytest.raises(ValueError, match=r"is Python, and reading it would run its code: write the hyper-parameters as YAML"):
        find_conf_file("matrl", name)


# ---------------------------------------------------------------------- trainings


@pytest.mark.e2e
def test_callbacks_save_in_the_run_folder_and_stop_the_training(tmp_path: Path) -> None:
    every = "{EveryNTimesteps: {n_steps: 8, callback: {CheckpointCallback: {save_freq: 1, save_path: models}}}}"
    rule = "{StopTrainingOnMaxEpisodes: {max_episodes: 3}}"
    kept = "{ResumableCheckpointCallback: {folder: kept, save_freq: 100}}"
    run = train(tmp_path / "run", f"[{every}, {rule}, {kept}]", "-n", "4000", "--eval-freq", "-1")
    steps = sorted(int(path.name.split("_")[2]) for path in (run / "models").iterdir())
    assert steps == list(range(8, steps[-1] + 1, 8)) and steps[-1] < 4000
    assert int(rows_of(run)[-1]["time/total_timesteps"]) < 4000
    assert list((run / "kept").glob("*.zip"))


@pytest.mark.e2e
def test_rules_about_evaluations_are_called_by_them(tmp_path: Path) -> None:
    run = train(
        tmp_path / "run", "{StopTrainingOnRewardThreshold: {reward_threshold: -1}}", "-n", "4000", "--eval-freq", "100"
    )
    with np.load(run / "evaluations.npz") as evaluations:
        assert evaluations["timesteps"].tolist() == [100]
    assert last_step(run) == 100


@pytest.mark.e2e
def test_a_resumed_run_continues_to_count(tmp_path: Path) -> None:
    callback = "[{StopTrainingOnMaxEpisodes: {max_episodes: 70}}, {LogEveryNTimesteps: {n_steps: 130}}]"
    words = ["--env", "matrix_game_v0", "--env-kwargs", "max_cycles:2", "--eval-freq", "100"]  # an env that saves its state
    whole = train(tmp_path / "whole", callback, *words, "-n", "4000")
    train(tmp_path / "run", callback, *words, "-n", "200")
    assert main(["--resume", str(tmp_path / "run"), "-n", "4000"]) == 0
    assert 200 < last_step(tmp_path / "run") == last_step(whole) < 4000
    logged = [[row["time/total_timesteps"] for row in rows_of(run)] for run in (whole, tmp_path / "run")]
    assert logged[0] == logged[1] and {"130", "132"} & set(logged[0])


def test_counters_of_a_checkpoint_are_those_of_its_steps(tmp_path: Path) -> None:
    entries = read_callbacks([{"StopTrainingOnMaxEpisodes": {"max_episodes": 9999}}, {"LogEveryNTimesteps": {"n_steps": 30}}])
    first, second = ListedCallbacks(entries, tmp_path), ListedCallbacks(entries, tmp_path)
    saved = ResumableCheckpointCallback(tmp_path / "checkpoints", 1, parts={"callbacks": first})
    arguments: dict[str, Any] = {
        "n_envs": 4,
        "n_steps": 10,
        "batch_size": 40,
        "n_epochs": 1,
        "br_n_epochs": 1,
        "device": "cpu",
    }
    # The training ends in the middle of the third rollout: the checkpoint holds the state before it.
    model = MATRL("MlpPolicy", RandomLength, seed=0, **arguments)
    model.learn(400, [saved, first, ConvertCallback(lambda *_: model.num_timesteps < 100)])
    second.init_callback(MATRL.load(tmp_path / "checkpoints" / "rl_model_80_steps.zip", RandomLength, "cpu"))
    second.set_state(first.state())
    states = second.state()["callbacks"]
    assert [state["n_calls"] for state in states[:2]] == [20, 20] and first.callbacks[0].n_calls == 25
    assert states[1]["last_time_trigger"] == 64
    with pytest.raises(ValueError, match="other callbacks"):
        ListedCallbacks(entries[:1], tmp_path).set_state(first.state())
