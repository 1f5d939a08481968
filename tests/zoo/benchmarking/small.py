"""A benchmark small enough for tests, and results made by hand."""

import numpy as np

from sb3_matrl.zoo.benchmarking import worker
from sb3_matrl.zoo.benchmarking.plan import BenchmarkOptions, Setting, plan_runs
from sb3_matrl.zoo.benchmarking.run_results import RunResult

STAG_HUNT = "matrix_game_v0: {game: stag_hunt}"
CHANGES = {"n_envs": 4, "n_steps": 25, "batch_size": 50, "n_epochs": 2, "br_n_epochs": 1, "policy_kwargs.net_arch": [8]}
WORDS = ["--eval-freq", "100", "--eval-episodes", "2", "--device", "cpu", "--env-kwargs", STAG_HUNT]
WORDS += ["-params", *(f"{key}:{value}" for key, value in CHANGES.items()), "-n", "200"]


def options(out, **changes):
    given = {
        "settings": (Setting("matrl", "matrl", {}), Setting("ippo", "ippo", {})),
        "envs": ("matrix_game_v0",),
        "seeds": (0, 1),
        "n_timesteps": 200,
        "hyperparams": CHANGES,
        "eval_freq": 100,
        "eval_episodes": 2,
        "device": "cpu",
    }
    return BenchmarkOptions(out=str(out), **{**given, **changes})


def plan(out, **changes):
    return plan_runs(options(out, **changes))


class Ended:
    """A run that has ended before it is looked at."""

    def __init__(self, exit_code):
        self.exit_code = exit_code

    def poll(self):
        return self.exit_code

    def terminate(self):
        raise AssertionError("it has ended")

    kill = terminate


def in_this_process(lock):
    """Replaces ``local_launcher``, to save the time of starting processes."""

    def launch(run):
        try:
            return Ended(worker.main(run.words))
        except SystemExit as error:
            return Ended(int(error.code))

    return launch


def result(run, sampled, greedy, gradient_steps=10, measures=None):
    """:param sampled: return of every episode of every evaluation, (m, k); ``greedy`` too"""
    sampled, greedy = np.array(sampled, dtype=float), np.array(greedy, dtype=float)
    lengths = np.ones_like(sampled)
    metrics = {"return": sampled, "return_greedy": greedy, "episode_length": lengths, "episode_length_greedy": lengths}
    return RunResult(
        run=run,
        timesteps=100 * np.arange(1, len(sampled) + 1),
        seconds=np.arange(len(sampled), dtype=float),
        metrics=metrics,
        absolute_metrics={name: np.repeat(values[-1], 10) for name, values in metrics.items()},
        gradient_steps={"agent_0": gradient_steps, "agent_1": gradient_steps},
        total_seconds=2.0,
        machine={"processor": "abacus"},
        measures=measures or {},
    )
