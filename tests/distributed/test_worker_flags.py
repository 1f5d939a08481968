"""Rollout workers from the command line of train."""

from __future__ import annotations

import pytest
import torch as th

from sb3_matrl.distributed.backends import WORKER_BACKENDS
from sb3_matrl.files.model_files import read_model
from sb3_matrl.zoo import train
from sb3_matrl.zoo.training import options

SMALL = "--env matrix_game_v0 --eval-freq -1 --eval-episodes 1 --verbose 0 --seed 3 --device cpu".split()
SETTINGS = {
    "matrl": "n_envs:4 n_steps:6 batch_size:12 n_epochs:1",
    # A rate that does not depend on the length of the training.
    "qmix": "n_envs:4 train_freq:3 learning_starts:8 batch_size:8 exploration_initial_eps:0.3 exploration_final_eps:0.3",
}


def test_the_flag_has_all_backends():
    assert options.WORKER_BACKENDS == WORKER_BACKENDS


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--ray-address auto", "--ray-address needs --rollout-workers and --worker-backend ray"),
        ("--rollout-workers 0", "--rollout-workers"),
    ],
)
def test_mistakes_are_errors_of_one_line(capsys, words, message):
    with pytest.raises(SystemExit) as ended:
        train.main([*words.split(), "--env", "matrix_game_v0", "-n", "24"])
    assert ended.value.code == 2
    error = capsys.readouterr().err.strip()
    assert message in error and len(error.splitlines()) == 1


@pytest.mark.expensive
@pytest.mark.parametrize(("algorithm", "settings"), SETTINGS.items())
def test_a_run_resumes_exactly_with_another_backend(tmp_path, algorithm, settings):
    words = [
        *SMALL,
        "--algo",
        algorithm,
        "-params",
        *settings.split(),
        "--rollout-workers",
        "2",
        "--worker-backend",
        "in-turn",
    ]
    assert train.main([*words, "-n", "48", "--run-dir", str(tmp_path / "whole")]) == 0
    assert train.main([*words, "-n", "24", "--run-dir", str(tmp_path / "half")]) == 0
    resume = ["--resume", str(tmp_path / "half"), "-n", "48"]
    with pytest.raises(SystemExit):
        train.main([*resume, "--rollout-workers", "3", "--override"])
    assert train.main([*resume, "--worker-backend", "process", "--override"]) == 0
    ours, theirs = (read_model(tmp_path / name / "matrix_game_v0.zip").parameters for name in ("half", "whole"))
    for learner, parts in theirs.items():
        for name in {"policy", "mixer"} & parts.keys():
            for parameter, value in parts[name].items():
                assert th.equal(ours[learner][name][parameter], value)
