"""A benchmark and a sweep on a Ray cluster of two nodes on this machine, one of which is stopped in the middle."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from tests.zoo.benchmarking.small import WORDS
from tests.zoo.sweeps import write_sweep

pytest.importorskip("ray")
pytestmark = [pytest.mark.ray, pytest.mark.expensive]


class TwoNodes:
    """
    A cluster of two nodes with one CPU each.

    :param cluster: cluster of ``ray.cluster_utils``
    """

    def __init__(self, cluster):
        self.address = cluster.address
        self.stopped = False
        self._cluster, self._second = cluster, cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()

    def run(self, name, *words, logs):
        """
        Run a command line, and stop the second node when both nodes are at work.

        :param name: name of the command
        :param words: its words, without those of Ray
        :param logs: function that returns the files of the tasks' output
        :return: exit code and output
        """
        command = [sys.executable, "-m", f"sb3_matrl.zoo.{name}", *words, "--backend", "ray", "--ray-address", self.address]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        watch = threading.Thread(target=self._stop_second, args=(process, logs))
        watch.start()
        output, _ = process.communicate(timeout=500)
        watch.join()
        return process.returncode, output

    def _stop_second(self, process, logs):
        while process.poll() is None and not self.stopped:
            time.sleep(0.2)
            if sum("ray: starts on" in log.read_text() for log in logs()) >= 2:
                time.sleep(1)
                self._cluster.remove_node(self._second, allow_graceful=False)
                self.stopped = True


@pytest.fixture
def two_nodes():
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        yield TwoNodes(cluster)
    finally:
        cluster.shutdown()


def starts(logs):
    return sum(log.read_text().count("ray: starts on") for log in logs)


def test_a_benchmark_goes_on_without_the_node_that_was_stopped(two_nodes, tmp_path):
    def logs():
        return list(tmp_path.glob("out/**/*.log"))

    words = ["--algos", "matrl", "ippo", "--envs", "matrix_game_v0", "--seeds", "2", *WORDS, "--out", str(tmp_path / "out")]
    code, output = two_nodes.run("benchmark", *words, logs=logs)
    assert code == 0, output
    assert two_nodes.stopped and starts(logs()) > 4
    assert "[4/4]" in output and (tmp_path / "out" / "table.md").exists()


def test_a_sweep_goes_on_without_the_node_that_was_stopped(two_nodes, tmp_path):
    folder = tmp_path / "logs" / "sweeps" / "small"

    def logs():
        return list(folder.glob("trials/*.log"))

    words = [str(write_sweep(tmp_path)), "-f", str(tmp_path / "logs"), "--n-trials", "10", "--n-jobs", "2"]
    code, output = two_nodes.run("sweep", *words, logs=logs)
    assert code == 0, output
    trials = optuna.load_study(study_name="small", storage=f"sqlite:///{folder / 'study.db'}").trials
    assert [trial.state for trial in trials].count(TrialState.COMPLETE) == 10
    lost = [trial for trial in trials if trial.state == TrialState.FAIL]
    again = [trial for trial in trials if "retry_of" in trial.user_attrs]
    assert two_nodes.stopped and len(lost) == len(again) >= 1
    assert [trial.user_attrs["retry_of"] for trial in again] == [trial.number for trial in lost]
    assert "was lost and is run again" in output and Path(folder / "best.yml").exists()


def test_ctrl_c_ends_the_tasks_and_the_same_command_goes_on(tmp_path):
    folder = tmp_path / "logs" / "sweeps" / "small"
    words = [str(write_sweep(tmp_path)), "-f", str(tmp_path / "logs"), "--n-trials", "3", "--n-jobs", "2"]
    command = [sys.executable, "-m", "sb3_matrl.zoo.sweep", *words, "--backend", "ray"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and starts(folder.glob("trials/*.log")) < 2:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, output = process.communicate(timeout=100)
    assert process.returncode == 130 and "the study is kept; continue it with" in output
    assert not _active_trials(folder)
    assert subprocess.run(command, env=environment, timeout=300).returncode == 0
    trials = optuna.load_study(study_name="small", storage=f"sqlite:///{folder / 'study.db'}").trials
    assert [trial.state for trial in trials].count(TrialState.COMPLETE) == 3


def _active_trials(folder):
    """Processes that run a trial of a study."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has just ended
            words = path.read_bytes().decode(errors="replace")
            found += [words] if "trial_worker" in words and str(folder.parent.parent) in words else []
    return found
