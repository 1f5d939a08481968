"""Weights & Biases: one run per training. The package is imported only when tracking is asked for."""

from __future__ import annotations

import importlib.util
import math
import netrc
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter, filter_excluded_keys

from sb3_matrl import MATRL
from sb3_matrl.evaluation import MultiAgentEvalCallback
from sb3_matrl.matrl.metagame_report import MetaGameReport
from sb3_matrl.zoo.training.options import in_sweep
from sb3_matrl.zoo.training.payoff_figures import draw_payoffs, payoff_table

DEFAULT_HOST = "https://api.wandb.ai"


def require_wandb() -> None:
    """
    :raises ImportError: when wandb is not installed; says how to install it
    """
    if importlib.util.find_spec("wandb") is None:
        raise ImportError("--track needs Weights & Biases: pip install 'sb3-matrl[track]'")


def tracking_mode(environ: Mapping[str, str]) -> str:
    """
    Decide once, without asking the network or the user, whether a run is sent to the server.

    :param environ: the process's environment
    :return: ``WANDB_MODE`` if set, else ``"online"`` if a key is configured, else ``"offline"``
    """
    if environ.get("WANDB_MODE"):
        return environ["WANDB_MODE"]
    if environ.get("WANDB_API_KEY") or environ.get("WANDB_IDENTITY_TOKEN_FILE") or _netrc_has_key(environ):
        return "online"
    return "offline"


def _netrc_has_key(environ: Mapping[str, str]) -> bool:
    """Whether ``wandb login`` has left a key for the host in the user's netrc file."""
    host = urlsplit(environ.get("WANDB_BASE_URL") or DEFAULT_HOST).hostname or ""
    home = Path(environ.get("HOME") or Path.home())
    candidates = [Path(environ["NETRC"])] if environ.get("NETRC") else [home / ".netrc", home / "_netrc"]
    for path in candidates:
        try:
            entry = netrc.netrc(str(path)).hosts.get(host)
        except (OSError, netrc.NetrcParseError):
            continue
        if entry is not None and entry[2]:
            return True
    return False


class WandbWriter(KVWriter):
    """
    Output format of SB3's logger that sends every number to a W&B run, at the step that the logger gives.

    :param run: the run
    """

    def __init__(self, run: Any) -> None:
        self.run = run

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Send numbers and texts; pictures, videos and histograms are left to the other formats."""
        values = filter_excluded_keys(key_values, key_excluded, "wandb")
        numbers = {key: float(value) for key, value in values.items() if isinstance(value, Real)}
        texts = {key: value for key, value in values.items() if isinstance(value, str)}
        self.run.log({**numbers, **texts, "global_step": step}, step=step)

    def close(self) -> None:
        """The run is finished by whoever started it."""


@dataclass(frozen=True)
class WandbOptions:
    """
    Where a run belongs.

    :param project: name of the project; in a sweep, the sweep's own counts instead
    :param entity: user or team; ``None`` for the account's default; in a sweep, the sweep's own counts instead
    :param group: of runs that belong together
    :param tags: of the run
    """

    project: str
    entity: str | None = None
    group: str | None = None
    tags: Sequence[str] = ()

    def init_arguments(self, environ: Mapping[str, str]) -> dict[str, Any]:
        """Arguments of ``wandb.init``; in a sweep it warns of a project or entity that it ignores."""
        place = {} if in_sweep(environ) else {"project": self.project, "entity": self.entity}
        return {**place, "group": self.group, "tags": list(self.tags)}


class Tracker:
    """
    One W&B run; a context manager that finishes it whatever happens, as failed when there was an error.

    :param options: where the run belongs
    :param name: of the run
    :param config: everything that determines the run
    :param folder: the run's files are kept in its subfolder ``wandb``
    :param run_id: of the run to go on with; ``None`` for a new one
    :raises ValueError: when W&B cannot start
    """

    def __init__(
        self, options: WandbOptions, name: str, config: Mapping[str, Any], folder: Path, run_id: str | None = None
    ) -> None:
        import wandb

        self.mode = tracking_mode(os.environ)
        self.exit_code = 0
        try:
            self.run = wandb.init(
                **options.init_arguments(os.environ),
                name=name,
                config=dict(config),
                dir=str(folder),
                mode=self.mode,  # type: ignore[arg-type]
                id=run_id,
                resume=None if run_id is None else "allow",
            )
        except wandb.errors.Error as error:
            raise ValueError(f"Weights & Biases could not start: {error}; WANDB_MODE=offline works without it") from error
        self.run.define_metric("*", step_metric="global_step")
        # The files' folder lies one above the one that the run writes media to.
        self.folder = Path(self.run.dir).parent
        if self.mode == "offline":
            print(f"W&B is offline: the run lies in {self.folder}; send it with: wandb sync {self.folder}")

    def writer(self) -> WandbWriter:
        """For SB3's logger."""
        return WandbWriter(self.run)

    def log_evaluation(self, step: int, best: float, report: MetaGameReport | None) -> None:
        """
        Log what stands beside the numbers of an evaluation: the best so far, and the payoffs of the latest meta-game.

        :param step: of the evaluation
        :param best: mean return of the best evaluation; set as a plain number, because a sweep's metric must be one
        :param report: of the latest iteration; without dense payoffs there is no table
        """
        import matplotlib.pyplot  # noqa: F401  wandb.Image reads it without loading it
        import wandb

        self.summarise({"eval/best_mean_reward": best})
        if report is None or report.payoffs is None:
            return
        columns, rows = payoff_table(report)
        figure = draw_payoffs(report, f"meta-game after {step} steps")
        pictures = {
            "metagame/payoffs": wandb.Table(columns=columns, data=rows),
            "metagame/payoffs_heatmap": wandb.Image(figure),
        }
        self.run.log({**pictures, "global_step": step}, step=step)

    def log_results(self, step: int, learning_curve: Path, video: Path) -> None:
        """
        Log the pictures at the end of a training.

        :param step: at which it ended
        :param learning_curve: a picture
        :param video: an mp4; left out when there is no such file
        """
        import wandb

        values: dict[str, Any] = {"eval/learning_curve": wandb.Image(str(learning_curve))}
        if video.is_file():
            values["video"] = wandb.Video(str(video), format="mp4")
        self.run.log({**values, "global_step": step}, step=step)

    def log_model(self, files: Iterable[Path], metadata: Mapping[str, Any]) -> None:
        """
        Log one artifact of type ``model`` for the run.

        :param files: that it has; those that do not exist are left out
        :param metadata: shown beside it
        """
        import wandb

        artifact = wandb.Artifact(f"model-{self.run.id}", type="model", metadata=dict(metadata))
        for file in filter(Path.is_file, files):
            # Immutable: they are read where they lie, also when an offline run is sent later.
            artifact.add_file(str(file), policy="immutable")
        self.run.log_artifact(artifact)

    def mark_preempting(self) -> None:
        """Say that the run was stopped from outside and will go on; a sweep then hands it out again."""
        self.run.mark_preempting()

    def summarise(self, values: Mapping[str, float]) -> None:
        """Set final results, shown beside the run."""
        self.run.summary.update({key: value for key, value in values.items() if math.isfinite(value)})

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        self.run.finish(exit_code=self.exit_code if kind is None else 1)


class TrackEvaluations(BaseCallback):
    """
    Called after every evaluation: what W&B gets beside its numbers.

    :param tracker: of the run
    """

    def __init__(self, tracker: Tracker) -> None:
        super().__init__()
        self.tracker = tracker

    def _on_step(self) -> bool:
        assert isinstance(self.parent, MultiAgentEvalCallback) and isinstance(self.model, MATRL)
        self.tracker.log_evaluation(self.model.num_timesteps, self.parent.best_mean_reward, self.model.report)
        return True
