"""Trials as tasks of a stand-in for a cluster, which runs them in this process."""

import contextlib

import optuna
import pytest
from optuna.trial import TrialState

from sb3_matrl.zoo.sweep import main, parse_options
from sb3_matrl.zoo.sweeping import ray_trials, trial_worker
from tests.zoo.sweeps import write_sweep

pytestmark = pytest.mark.e2e


class Task:
    """A task that runs when it is asked for the first time, or is lost or fails."""

    def __init__(self, command, fate):
        self.command, self.fate, self.lost = command, fate, ""

    def poll(self):
        if self.fate == "lost":
            self.lost = "the machine is gone"
            return 1
        return self.fate if isinstance(self.fate, int) else trial_worker.main(self.command[-1:])

    def terminate(self):
        self.fate = 130

    kill = terminate


class Cluster:
    """Gives the tasks their fates in turn, and runs all further ones."""

    def __init__(self, fates, hosts=()):
        self.fates, self.hosts, self.logs = list(fates), set(hosts), []

    def check_resources(self, gpus):
        assert gpus == 0

    def start(self, command, environment, log, gpus):
        self.logs.append(log.name)
        return Task(command, self.fates.pop(0) if self.fates else None)


@pytest.fixture
def search(tmp_path, monkeypatch):
    monkeypatch.setattr(ray_trials, "POLL_SECONDS", 0.0)
    monkeypatch.setattr("sb3_matrl.zoo.sweep.require_ray", lambda: None)

    def run(cluster, *words, **changes):
        monkeypatch.setattr(ray_trials, "ray_cluster", lambda address, jobs: contextlib.nullcontext(cluster))
        path = write_sweep(tmp_path, **changes)
        code = main([str(path), "-f", str(tmp_path / "logs"), "--backend", "ray", *words])
        folder = tmp_path / "logs" / "sweeps" / "small"
        return code, folder, optuna.load_study(study_name="small", storage=f"sqlite:///{folder / 'study.db'}")

    return run


def test_lost_trials_are_run_again_with_their_values_and_failed_ones_are_not(search, capsys):
    cluster = Cluster(["lost", 3, -9])
    code, folder, study = search(cluster, "--n-trials", "3", "--n-jobs", "2")
    assert code == 0
    trials = study.trials
    assert [trial.state for trial in trials].count(TrialState.COMPLETE) == 2
    lost, failed, killed, new, last = trials
    assert lost.state == failed.state == killed.state == TrialState.FAIL
    assert failed.user_attrs["error"] == f"exit code 3: see {folder / 'trials' / 'trial_1.log'}"
    assert [trial.user_attrs.get("retry_of") for trial in trials] == [None, None, 0, None, 2]
    assert lost.params == killed.params == last.params != new.params
    assert cluster.logs == [f"trial_{number}.log" for number in range(5)]
    assert "trial 0 was lost and is run again: the machine is gone" in capsys.readouterr().err
    # The same command goes on; there is nothing left to do.
    assert search(Cluster([]), "--n-trials", "3")[0] == 0


def test_a_grid_is_tried_once(search):
    grid = {"learning_rate": {"values": [0.001, 0.1]}, "stats_window_size": {"min": 1, "max": 2}}
    _, _, study = search(Cluster(["lost"]), "--n-jobs", "3", method="grid", parameters=grid)
    complete = [trial.params for trial in study.trials if trial.state == TrialState.COMPLETE]
    assert len({tuple(sorted(params.items())) for params in complete}) == len(complete) == 4


def test_losses_without_end_stop_the_study(search, capsys):
    code, _, study = search(Cluster(["lost"] * 99), "--n-trials", "3")
    assert code == 1 and len(study.trials) == ray_trials.MOST_LOST + 1  # the last one is queued
    assert "error: 5 tasks of trials were lost in a row: the machine is gone" in capsys.readouterr().err


def test_ctrl_c_leaves_trials_that_the_same_command_runs(search, capsys, monkeypatch):
    cluster = Cluster([])
    monkeypatch.setattr(ray_trials.time, "sleep", lambda seconds: (_ for _ in ()).throw(KeyboardInterrupt))
    assert search(cluster, "--n-trials", "2", "--n-jobs", "2")[0] == 130
    monkeypatch.undo()
    assert "the study is kept; continue it with: " in capsys.readouterr().err


def test_a_file_of_this_machine_is_no_storage_for_others(search, capsys):
    assert search(Cluster([], hosts=["elsewhere"]), "--n-trials", "2")[0] == 1
    assert "has other machines (elsewhere), and sqlite:///" in capsys.readouterr().err


def test_wandb_takes_no_jobs(tmp_path):
    with pytest.raises(ValueError, match="--backend optuna or ray"):
        parse_options([str(write_sweep(tmp_path)), "--backend", "wandb", "--n-jobs", "2"])
