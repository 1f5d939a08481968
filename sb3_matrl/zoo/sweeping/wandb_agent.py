"""A sweep on W&B's server, whose trials W&B's agent runs on this machine."""

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
    Register the sweep on the server.

    :param config: the sweep
    :param project: project of W&B
    :param entity: user or team; ``None`` for the account's default
    :return: path of the sweep, ``entity/project/id`` or ``project/id``
    :raises ImportError: if wandb is not installed
    :raises ValueError: if there is no key or no server, or the server rejects the sweep
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
    Run trials until ``count`` are finished or the sweep ends.

    :param sweep: path of the sweep on the server
    :param count: number of trials
    :return: exit code of the agent
    """
    # The agent starts the `python` on the path, which must be this one.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    agent = [sys.executable, "-m", "wandb", "agent", "--count", str(count), sweep]
    return subprocess.run(agent, env={**os.environ, "PATH": path}, check=False).returncode
