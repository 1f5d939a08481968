"""Weights & Biases: one run per training. The package is imported only when tracking is asked for."""

from __future__ import annotations

import importlib.util
import math
import netrc
import os
from collections.abc import Mapping
from numbers import Real
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from stable_baselines3.common.logger import KVWriter, filter_excluded_keys

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


class Tracker:
    """
    One W&B run; a context manager that finishes it whatever happens, as failed when there was an error.

    :param project: name of the project
    :param entity: user or team; ``None`` for the account's default
    :param name: of the run
    :param config: everything that determines the run
    :param folder: the run's files are kept in its subfolder ``wandb``
    """

    def __init__(self, project: str, entity: str | None, name: str, config: Mapping[str, Any], folder: Path) -> None:
        import wandb

        self.mode = tracking_mode(os.environ)
        try:
            self.run = wandb.init(
                project=project,
                entity=entity,
                name=name,
                config=dict(config),
                dir=str(folder),
                mode=self.mode,  # type: ignore[arg-type]
            )
        except wandb.errors.Error as error:
            raise ValueError(f"Weights & Biases could not start: {error}; WANDB_MODE=offline works without it") from error
        # The files' folder lies one above the one that the run writes media to.
        self.folder = Path(self.run.dir).parent
        if self.mode == "offline":
            print(f"W&B is offline: the run lies in {self.folder}; send it with: wandb sync {self.folder}")

    def writer(self) -> WandbWriter:
        """For SB3's logger."""
        return WandbWriter(self.run)

    def summarise(self, values: Mapping[str, float]) -> None:
        """Set final results, shown beside the run."""
        self.run.summary.update({key: value for key, value in values.items() if math.isfinite(value)})

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        self.run.finish(exit_code=0 if kind is None else 1)
