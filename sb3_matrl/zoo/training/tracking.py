"""Runs in Weights & Biases, one per training. The package is imported only with ``--track``."""

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

from sb3_matrl.evaluation import MultiAgentEvalCallback
from sb3_matrl.matrl.metagame_report import MetaGameReport
from sb3_matrl.utils.suggest import unknown
from sb3_matrl.zoo.training.options import in_sweep
from sb3_matrl.zoo.training.payoff_figures import draw_payoffs, payoff_table

# What WANDB_MODE can be.
MODES = ("online", "offline", "shared", "disabled", "dryrun", "run")
DEFAULT_HOST = "https://api.wandb.ai"


def require_wandb() -> None:
    """
    :raises ImportError: if wandb is not installed
    """
    if importlib.util.find_spec("wandb") is None:
        raise ImportError("--track needs Weights & Biases: pip install 'sb3-matrl[track]'")


def tracking_mode(environ: Mapping[str, str]) -> str:
    """
    Whether a run is sent to the server, decided without network or user.

    :param environ: environment variables
    :return: ``WANDB_MODE`` if set, else ``"online"`` if a key is configured, else ``"offline"``
    :raises ValueError: if W&B has no such mode
    """
    mode = environ.get("WANDB_MODE")
    if mode:
        if mode not in MODES:
            raise ValueError(unknown("WANDB_MODE", mode, MODES))
        return mode
    if environ.get("WANDB_API_KEY") or environ.get("WANDB_IDENTITY_TOKEN_FILE") or _netrc_has_key(environ):
        return "online"
    return "offline"


def _netrc_has_key(environ: Mapping[str, str]) -> bool:
    """Whether the user's netrc file has a key for the host, as ``wandb login`` writes it."""
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
    Output format of SB3's logger that sends every number to a W&B run, at the logger's step.

    :param run: run of W&B
    """

    def __init__(self, run: Any) -> None:
        self.run = run

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Send numbers and texts; pictures, videos and histograms are for the other formats."""
        values = filter_excluded_keys(key_values, key_excluded, "wandb")
        numbers = {key: float(value) for key, value in values.items() if isinstance(value, Real)}
        texts = {key: value for key, value in values.items() if isinstance(value, str)}
        self.run.log({**numbers, **texts, "global_step": step}, step=step)

    def close(self) -> None:
        """Leave the run open: :class:`Tracker` finishes it."""


@dataclass(frozen=True)
class WandbOptions:
    """
    Place of a run.

    :param project: name of the project; ignored in a sweep, which has its own
    :param entity: user or team; ``None`` for the account's default; ignored in a sweep, which has its own
    :param group: group of runs
    :param tags: tags of the run
    """

    project: str
    entity: str | None = None
    group: str | None = None
    tags: Sequence[str] = ()

    def init_arguments(self, environ: Mapping[str, str]) -> dict[str, Any]:
        """Arguments of ``wandb.init``, which in a sweep would warn of a project or entity."""
        place = {} if in_sweep(environ) else {"project": self.project, "entity": self.entity}
        return {**place, "group": self.group, "tags": list(self.tags)}


class Tracker:
    """
    One W&B run; a context manager that finishes it, as failed after an error.

    :param options: place of the run
    :param name: name of the run
    :param config: everything that determines the run
    :param folder: run folder, whose subfolder ``wandb`` gets the files unless the variable ``WANDB_DIR`` names a folder
    :param run_id: id of the run to resume; ``None`` for a new run
    :raises ValueError: if W&B cannot start
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
                dir=os.environ.get("WANDB_DIR") or str(folder),
                mode=self.mode,  # type: ignore[arg-type]
                id=run_id,
                resume=None if run_id is None else "allow",
            )
        except wandb.errors.Error as error:
            raise ValueError(f"Weights & Biases could not start: {error}; WANDB_MODE=offline works without it") from error
        self.run.define_metric("*", step_metric="global_step")
        # One folder above that of the run's media.
        self.folder = Path(self.run.dir).parent
        if self.mode == "offline":
            print(f"W&B is offline: the run is in {self.folder}; send it with: wandb sync {self.folder}")

    def writer(self) -> WandbWriter:
        """Output format for SB3's logger."""
        return WandbWriter(self.run)

    def log_evaluation(self, step: int, best: float, report: MetaGameReport | None) -> None:
        """
        Log the best evaluation so far, and the payoffs of the latest meta-game.

        :param step: step of the evaluation
        :param best: mean return of the best evaluation; set as a plain number, because a sweep's metric must be one
        :param report: report of the latest iteration; ``None`` or one without dense payoffs gives no table
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

        :param step: last step of the training
        :param learning_curve: path of a picture
        :param video: path of an mp4 file; skipped if there is none
        """
        import wandb

        values: dict[str, Any] = {"eval/learning_curve": wandb.Image(str(learning_curve))}
        if video.is_file():
            values["video"] = wandb.Video(str(video), format="mp4")
        self.run.log({**values, "global_step": step}, step=step)

    def log_model(self, files: Iterable[Path], metadata: Mapping[str, Any]) -> None:
        """
        Log one artifact of type ``model`` for the run.

        :param files: files of the artifact; those that do not exist are skipped
        :param metadata: metadata of the artifact
        """
        import wandb

        artifact = wandb.Artifact(f"model-{self.run.id}", type="model", metadata=dict(metadata))
        for file in filter(Path.is_file, files):
            # Immutable: W&B reads the files in place, also when an offline run is sent later.
            artifact.add_file(str(file), policy="immutable")
        self.run.log_artifact(artifact)

    def mark_preempting(self) -> None:
        """Mark the run as stopped from outside and to be resumed; a sweep then assigns it again."""
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
    Log what W&B gets after every evaluation beside its numbers.

    :param tracker: tracker of the run
    """

    def __init__(self, tracker: Tracker) -> None:
        super().__init__()
        self.tracker = tracker

    def _on_step(self) -> bool:
        assert isinstance(self.parent, MultiAgentEvalCallback)
        # Algorithms without a meta-game have no report.
        report = getattr(self.model, "report", None)
        self.tracker.log_evaluation(self.model.num_timesteps, self.parent.best_mean_reward, report)
        return True
