"""Options of ``train.py``: the command line and the schema of ``args.yml``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# Those of sb3_matrl.distributed, which is not imported for a command line.
WORKER_BACKENDS = ("process", "ray", "in-turn")
# Options that say how a training is watched and saved, not what is trained. The number of episodes per evaluation is not among
# them: the evaluations of a run are one table.
MAY_CHANGE = frozenset(
    {"eval_freq", "n_eval_envs", "save_freq", "save_every_minutes", "keep_checkpoints", "log_interval", "record", "verbose"}
    | {"snapshots"}
    | {"progress", "device", "num_threads", "kernel_threads", "worker_backend", "ray_address"}
    | {"track", "wandb_project_name", "wandb_entity", "wandb_group", "wandb_tags"}
)


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """
    The command line of ``train.py``, which ``--help`` explains, with its defaults; the schema of ``args.yml``.

    :param seed: seed of everything random; the command line draws one if none is given
    """

    algo: str = "matrl"
    env: str = "checkers_v0"
    n_timesteps: int | None = None
    seed: int
    trained_agent: str | None = None
    trust: bool = False
    conf_file: str | None = None
    hyperparams: dict[str, Any] = field(default_factory=dict)
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    eval_env_kwargs: dict[str, Any] = field(default_factory=dict)
    log_folder: str = "logs"
    run_dir: str | None = None
    uuid: bool = False
    tensorboard_log: str | None = None
    log_interval: int = -1
    eval_freq: int = 10_000
    eval_episodes: int = 20
    n_eval_envs: int | None = None
    save_freq: int = -1
    save_every_minutes: float = 10.0
    keep_checkpoints: int = 3
    snapshots: int = 0
    record: bool = False
    vec_env: str = "auto"
    env_timeout: float | None = None
    rollout_workers: int | None = None
    worker_backend: str = "process"
    ray_address: str | None = None
    device: str = "auto"
    num_threads: int = 1
    kernel_threads: int = -1
    verbose: int = 1
    progress: bool = False
    track: bool = False
    wandb_project_name: str = "sb3-matrl"
    wandb_entity: str | None = None
    wandb_group: str | None = None
    wandb_tags: list[str] = field(default_factory=list)


def in_sweep(environ: Mapping[str, str]) -> bool:
    """Whether ``wandb agent`` started this process."""
    return bool(environ.get("WANDB_SWEEP_ID"))
