"""Options of ``push-to-hub`` and ``load-from-hub``; imports the standard library alone, so that ``--help`` answers fast."""

from __future__ import annotations

import re
from dataclasses import dataclass

from sb3_matrl.zoo.playing.enjoy_options import ModelChoice
from sb3_matrl.zoo.training.options import TrainOptions


def repository_id(organization: str, name: str | None, algorithm: str, env_id: str) -> str:
    """
    :param organization: user or organisation on the hub
    :param name: name of the repository; ``None`` for rl-zoo's ``<algorithm>-<environment>``
    :param algorithm: name of the algorithm
    :param env_id: environment of the run
    :return: ``<organization>/<name>``, with ``-`` for what the hub does not allow in a name
    """
    allowed = re.sub(r"[^\w.]+|--+|\.\.+", "-", name or f"{algorithm}-{env_id}").strip("-.")
    return f"{organization}/{allowed}"


@dataclass(frozen=True)
class PushOptions:
    """The command line of ``push-to-hub``, which ``--help`` explains."""

    organization: str
    repo_name: str | None
    algo: str | None
    env: str | None
    log_folder: str
    exp_id: int
    run_dir: str | None
    load_best: bool
    load_checkpoint: int | None
    load_last_checkpoint: bool
    commit_message: str
    private: bool
    out: str | None

    @property
    def choice(self) -> ModelChoice:
        """Which model of the run is sent."""
        return ModelChoice(self.load_best, self.load_checkpoint, self.load_last_checkpoint)


@dataclass(frozen=True)
class LoadOptions:
    """The command line of ``load-from-hub``, which ``--help`` explains."""

    organization: str
    repo_name: str | None
    algo: str | None
    env: str | None
    log_folder: str
    revision: str | None

    @property
    def repo_id(self) -> str:
        """Id of the repository on the hub."""
        algorithm, env_id = self.algo or TrainOptions.algo, self.env or TrainOptions.env
        return repository_id(self.organization, self.repo_name, algorithm, env_id)
