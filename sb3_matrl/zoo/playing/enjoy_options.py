"""Options of ``enjoy.py``; imports the standard library alone, so that ``--help`` answers fast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ModelChoice:
    """
    Which model of a run is loaded; by default the last one.

    :param best: the model with the best evaluation
    :param checkpoint: steps of a checkpoint
    :param last_checkpoint: the latest checkpoint
    """

    best: bool = False
    checkpoint: int | None = None
    last_checkpoint: bool = False


@dataclass(frozen=True)
class EnjoyOptions:
    """The command line of ``enjoy.py``, which ``--help`` explains."""

    algo: str | None
    env: str | None
    log_folder: str
    exp_id: int
    run_dir: str | None
    pretrained: str | None
    agent: dict[str, str]
    trust: bool
    n_timesteps: int | None
    n_episodes: int | None
    deterministic: bool
    stochastic: bool
    seed: int
    render: bool
    record: str | None
    fps: int | None
    load_best: bool
    load_checkpoint: int | None
    load_last_checkpoint: bool
    env_kwargs: dict[str, Any]
    device: str
    num_threads: int
    progress: bool
    verbose: int

    @property
    def watched(self) -> bool:
        """Whether the game is shown or recorded: then few episodes, one after the other."""
        return self.render or self.record is not None

    @property
    def policies(self) -> dict[str, bool]:
        """Policies to play: name -> whether it is greedy."""
        if self.deterministic:
            return {"greedy": True}
        if self.stochastic or self.watched:
            return {"sampled": False}
        return {"sampled": False, "greedy": True}

    @property
    def episodes(self) -> int | None:
        """Number of episodes with each policy; ``None`` for as many as ``n_timesteps`` takes."""
        if self.n_timesteps is not None:
            return None
        return self.n_episodes or (5 if self.watched else 100)

    @property
    def choice(self) -> ModelChoice:
        """Which model of a run is loaded."""
        return ModelChoice(self.load_best, self.load_checkpoint, self.load_last_checkpoint)
