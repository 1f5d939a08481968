"""Environments that fail: the error is reported in one line, and the training can be resumed."""

import pytest

from sb3_matrl.files.checkpoints import latest_checkpoint
from sb3_matrl.files.model_files import read_model
from sb3_matrl.zoo.common.run_folder import RunFolder
from sb3_matrl.zoo.train import main

WORLD = "tests.zoo.worlds:Faulty"
SMALL = ["-params", "n_envs:4", "n_steps:25", "batch_size:100", "n_epochs:1", "br_n_epochs:1", "policy_kwargs.net_arch:[4]"]
QUICK = ["--verbose", "0", "--device", "cpu", "--seed", "0", "--eval-episodes", "200"]


FAULTS = [
    ("nan reward", "dummy", ["'right'", "reward", "nan"]),
    ("inf reward", "subproc", ["'right'", "reward", "inf"]),
    ("nan observation", "dummy", ["'right'", "observation", "nan"]),
    ("wrong shape", "dummy", ["'right'", "observation has shape (2,), expected (1,)"]),
    ("exception", "dummy", ["ZeroDivisionError: a bug in the world"]),
    ("exception", "subproc", ["ZeroDivisionError: a bug in the world"]),
]
KILLED = ("killed", "subproc", ["it was killed by signal 9"])


@pytest.mark.cases(e2e=["inf reward-subproc-texts1", "nan observation-dummy-texts2", "killed-subproc-texts6"])
@pytest.mark.parametrize(("fault", "vec_env", "texts"), [*FAULTS, KILLED])
def test_fault_in_a_rollout_ends_the_run_with_one_line_and_a_checkpoint(tmp_path, capsys, fault, vec_env, texts):
    check_end(tmp_path / "run", capsys, fault, vec_env, "-1", texts)


@pytest.mark.cases(e2e=["nan reward-dummy-texts0", "inf reward-subproc-texts1", "exception-subproc-texts5"])
@pytest.mark.parametrize(("fault", "vec_env", "texts"), FAULTS)
def test_fault_in_an_evaluation_does_so_too(tmp_path, capsys, fault, vec_env, texts):
    check_end(tmp_path / "run", capsys, fault, vec_env, "200", texts)


@pytest.mark.cases(e2e=["-1"], rest="expensive")
@pytest.mark.parametrize("eval_freq", ["-1", "200"])
def test_worker_that_hangs_ends_the_run_after_the_timeout(tmp_path, capsys, eval_freq):
    texts = ["did not answer within 5 s (env_timeout)"]
    check_end(tmp_path / "run", capsys, "hangs", "auto", eval_freq, texts, extra=("--env-timeout", "5"))


def test_second_signal_ends_a_step_that_hangs_with_a_checkpoint(tmp_path, capsys):
    check_end(tmp_path / "run", capsys, "interrupted twice", "dummy", "-1", [], code=130, start="SIGINT twice")


@pytest.mark.cases(quick=["fails"], e2e=["slow"], rest="expensive")
@pytest.mark.parametrize(
    ("words", "text"),
    [
        pytest.param([], "reset() raised RuntimeError: no licence in reset() with seed 1", id="fails"),
        pytest.param(["--env-timeout", "1", "--env-kwargs", "reset_seconds:60"], "did not answer within 1 s", id="slow"),
    ],
)
def test_an_environment_that_off_policy_algorithms_cannot_reset(tmp_path, capsys, words, text):
    algorithm = ["--algo", "vdn", "-params", "n_envs:2", "policy_kwargs.net_arch:[4]"]
    end_before_the_start(tmp_path / "run", capsys, [*algorithm, *words], text)


@pytest.mark.e2e
def test_an_environment_that_is_not_made_in_time(tmp_path, capsys):
    words = ["--env-timeout", "1", "--env-kwargs", "making_seconds:60", *SMALL]
    end_before_the_start(tmp_path / "run", capsys, words, "did not answer within 1 s")


def end_before_the_start(path, capsys, words, text):
    with pytest.raises(SystemExit) as exit_info:
        main(["--env", "tests.zoo.worlds:FailsToBegin", "-n", "1000", *QUICK, *words, "--seed", "1", "--run-dir", str(path)])
    errors = capsys.readouterr().err
    assert exit_info.value.code == 2 and errors.startswith("error: ") and errors.count("\n") == 1
    assert text in errors and not path.exists()


def check_end(path, capsys, fault, vec_env, eval_freq, texts, extra=(), code=1, start="error: "):
    words = ["--env", WORLD, "--env-kwargs", f"fault:{fault}", "--vec-env", vec_env, "-n", "1000", "--eval-freq", eval_freq]
    assert main([*words, *extra, *QUICK, *SMALL, "--run-dir", str(path)]) == code
    errors = capsys.readouterr().err
    assert errors.startswith(start) and errors.count("\n") == 1
    assert code != 1 or "cop" in errors
    for text in texts:
        assert text in errors
    run = RunFolder(path, WORLD)
    assert errors.endswith(f"The training ended; resume with: sb3-matrl train --resume {run.path} --env {WORLD}\n")
    assert run.checkpoint_steps() == [200]
    assert read_model(latest_checkpoint(run.checkpoints)).counters["num_timesteps"] == 200
    assert not run.evaluations.exists()
