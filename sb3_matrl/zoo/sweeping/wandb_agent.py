"""A sweep on W&B's server: registered there, its trials run here by W&B's agent."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from sb3_matrl.zoo.sweeping.sweep_file import PROGRAM, SweepConfig
from sb3_matrl.zoo.training.tracking import require_wandb, tracking_mode

LOCALLY = "or search locally with --backend optuna"


def register(config: SweepConfig, project: str, entity: str | None) -> str:
    """
    Make the sweep known to the server.

    :param config: the sweep
    :param project: of W&B
    :param entity: user or team; ``None`` for the account's default
    :return: the sweep's path, ``entity/project/id`` or ``project/id``
    :raises ImportError: when wandb is not installed
    :raises ValueError: when there is no key, no server, or the server refuses
    """
    require_wandb()
    if tracking_mode(os.environ) != "online":
        mode = os.environ.get("WANDB_MODE")
        fix = f"WANDB_MODE is {mode}; unset it," if mode else "no API key was found; run `wandb login`,"
        raise ValueError(f"a W&B sweep needs its server, but {fix} {LOCALLY}")
    if not Path(PROGRAM).is_file():
        raise ValueError(f"W&B's agent runs {PROGRAM}, which is not here; start the sweep in the repository's folder")
    import wandb

    try:
        sweep_id = wandb.sweep(config.source, entity=entity, project=project)
    except (wandb.errors.Error, OSError) as error:
        raise ValueError(f"W&B did not take the sweep: {error}; check network and key, {LOCALLY}") from error
    return "/".join(part for part in (entity, project, sweep_id) if part)


def run_agent(sweep: str, count: int) -> int:
    """
    Run trials until ``count`` are done or the sweep has no more.

    :param sweep: its path on the server
    :param count: number of trials
    :return: exit code of the agent
    """
    # The agent starts `python` as the shell finds it: that has to be this one.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    agent = [sys.executable, "-m", "wandb", "agent", "--count", str(count), sweep]
    return subprocess.run(agent, env={**os.environ, "PATH": path}, check=False).returncode
