"""
Results in the layout of marl-eval's raw experiment data, for its tools and for papers' supplements.

Source: "Data Structure for Raw Experiment data" in marl-eval's README, and Gorsane et al. 2022.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sb3_matrl.zoo.benchmarking.run_results import RunResult

OWN_ENVIRONMENTS = "sb3_matrl"


def marl_eval_data(results: Iterable[RunResult]) -> dict[str, Any]:
    """
    ``{environment: {task: {algorithm: {seed_0: {step_1: {...}, ..., absolute_metrics: {...}}}}}}``.

    :param results: results of the runs
    :return: nested mapping; an environment is a package of environments, a task one of them; ``elapsed_time`` is in seconds
    """
    data: dict[str, Any] = {}
    for result in results:
        run = result.run
        tasks = data.setdefault(environment_name(run.env), {})
        tasks.setdefault(run.env, {}).setdefault(run.setting, {})[f"seed_{run.seed}"] = _run_data(result)
    return data


def environment_name(env_id: str) -> str:
    """First part of ``package.module:callable``; ``sb3_matrl`` for the environments that it ships."""
    module, colon, _ = env_id.partition(":")
    return module.split(".")[0] if colon else OWN_ENVIRONMENTS


def _run_data(result: RunResult) -> dict[str, Any]:
    steps: dict[str, Any] = {
        f"step_{i + 1}": {
            "step_count": int(result.timesteps[i]),
            "elapsed_time": float(result.seconds[i]),
            **{metric: values[i] for metric, values in result.metrics.items()},
        }
        for i in range(len(result.timesteps))
    }
    return {**steps, "absolute_metrics": result.absolute_metrics}
