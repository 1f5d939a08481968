"""Options of ``crossplay.py`` and ``exploit.py``; imports the standard library alone, so that ``--help`` answers fast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class CrossPlayOptions:
    """The command line of ``crossplay.py``, which ``--help`` explains."""

    players: list[str]
    log_folder: str
    out: str
    env: str | None
    env_kwargs: dict[str, Any]
    per_run: int | None
    games: int
    width: float | None
    max_games: int
    design: str
    deterministic: bool
    seed: int
    jobs: int
    num_threads: int
    device: str
    trust: bool


@dataclass(frozen=True)
class ExploitOptions:
    """The command line of ``exploit.py``, which ``--help`` explains."""

    run: str
    log_folder: str
    out: str | None
    env: str | None
    env_kwargs: dict[str, Any]
    checkpoint: int | None
    best: bool
    agents: list[str]
    n_timesteps: int
    seeds: int
    starts: list[str] | None
    evaluations: int
    eval_episodes: int
    deterministic: bool
    hyperparams: dict[str, Any]
    seed: int
    jobs: int
    num_threads: int
    device: str
    trust: bool
