"""The parts of the benchmarks that stop, watch and count trainings, and what these earn."""

import signal
import subprocess
import sys
import threading

import pytest

from benchmarks import kill_test
from benchmarks.kill_test import run_trials, summarise
from benchmarks.long_run import growth, table, usage, watch
from benchmarks.pong import points_won
from sb3_matrl.evaluation import Player, RandomPolicy, evaluate_policy
from sb3_matrl.vec_env import make_joint_vec_env
from sb3_matrl.zoo.common.run_folder import RunFolder

HOLD = """
import subprocess, sys, threading, time
files = [open("/dev/null") for _ in range(7)]
children = [subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) for _ in range(2)]
threads = [threading.Thread(target=time.sleep, args=(60,), daemon=True) for _ in range(3)]
[thread.start() for thread in threads]
memory = bytearray(200 * 2**20)
memory[::4096] = b"x" * len(memory[::4096])
print("ready", flush=True)
sys.stdin.read()
[child.kill() for child in children]
"""


def hold(script):
    process = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    return process


def test_usage_counts_what_a_process_has():
    busy, idle = hold(HOLD), hold("import sys; print('ready', flush=True); sys.stdin.read()")
    with_all, without = usage(busy.pid), usage(idle.pid)
    assert (with_all.open_files - without.open_files, with_all.threads - without.threads) == (7, 3)
    assert (with_all.children, without.children) == (2, 0)
    assert 200 <= with_all.rss_mib - without.rss_mib < 220
    for process in (busy, idle):
        process.communicate()
    with pytest.raises(OSError):
        usage(busy.pid)


def test_training_is_looked_at_whenever_it_passes_a_multiple(tmp_path, monkeypatch):
    process = hold("import sys; print('ready', flush=True); sys.stdin.read()")
    steps = iter([0, 0, 20, 90, 120, 180, 310, 310, 390, 400])

    def trained_steps(folder):
        now = next(steps, None)
        if now is None:
            process.communicate()
        return now or 0

    monkeypatch.setattr("benchmarks.long_run.trained_steps", trained_steps)
    monkeypatch.setattr("benchmarks.long_run.POLL_SECONDS", 0.0)
    rows = list(watch(process, RunFolder(tmp_path, "checkers_v0"), 100, 400))
    assert [row["steps"] for row in rows] == [20, 120, 310, 400]
    assert table(rows).splitlines()[2].split(" | ")[0].strip("| ") == "20"


def test_growth_is_that_of_the_second_half():
    sizes = [100.0, 300.0, 310.0, 312.0, 315.0]
    rows = [{"rss_mib": size, "open_files": 20, "threads": k, "children": 2} for k, size in enumerate(sizes)]
    assert growth(rows) == {"rss_mib": 5.0, "open_files": 0, "threads": 2, "children": 0}


@pytest.mark.e2e
def test_interruption_keeps_the_trials_that_were_done(monkeypatch):
    def trial(task):
        if task["number"] == 2:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            # The main thread notes it between two of its own steps.
            threading.Event().wait(0.5)
        return {"differences": []}

    monkeypatch.setattr(kill_test, "trial", trial)
    rows = run_trials([{"number": k} for k in range(6)], jobs=1)
    assert sorted(row["number"] for row in rows) == [0, 1, 2]


def test_trials_are_counted_by_signal():
    rows = [
        {"signal": "kill", "differences": [], "ended": False, "exit_code": -9, "stop_seconds": 0.1},
        {"signal": "kill", "differences": ["progress.csv"], "ended": True, "exit_code": 0, "stop_seconds": 0.3},
        {"signal": "term", "differences": [], "ended": False, "exit_code": 143, "stop_seconds": 0.2},
    ]
    kills, terms = summarise(rows)["kill"], summarise(rows)["term"]
    assert (kills["trials"], kills["identical"], kills["signal_before_the_end"], kills["signal_after_the_end"]) == (2, 1, 1, 1)
    assert kills["exit_codes"] == {"-9": 1, "0": 1} and kills["slowest_stop_seconds"] == 0.3
    assert (terms["trials"], terms["identical"]) == (1, 1)


# ---------------------------------------------------------------- Pong


def chance_plays(env, played):
    """Random players that write down every step's rewards of ``first_0``."""
    chance = RandomPolicy(env.observation_spaces, env.action_spaces, seed=0)
    evaluate_policy(chance, env, 2, seed=0, callback=lambda *_: played.extend(env.last_step.rewards[:, 0].tolist()))


@pytest.mark.expensive
def test_points_won_are_the_share_of_positive_rewards():
    env = make_joint_vec_env("pong_v3", n_envs=2, env_kwargs={"max_cycles": 400})
    chance = RandomPolicy(env.observation_spaces, env.action_spaces, seed=0)
    share = points_won({agent: Player(chance, agent) for agent in env.agents}, "first_0", env, 2, seed=0)
    rewards = []
    chance_plays(env, rewards)
    env.close()
    won, lost = rewards.count(1.0), rewards.count(-1.0)
    assert won > 0 and lost > 0 and won + lost + rewards.count(0.0) == len(rewards) == 2 * 400
    assert share == won / (won + lost)
