"""Options of ``sweep.py``, and the files of a study; imports neither PyTorch nor Optuna, so that ``--help`` answers fast."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sb3_matrl.zoo.sweeping.sweep_file import SweepConfig

SAMPLERS = ("tpe", "random", "grid")
PRUNERS = ("median", "halving", "hyperband", "none")
SAMPLER_OF_METHOD = {"bayes": "tpe", "random": "random", "grid": "grid"}
DEFAULT_TRIALS = 20


@dataclass(frozen=True)
class Budget:
    """
    Changes to the length of every trial; ``None`` leaves what the sweep's command says.

    :param n_timesteps: steps to train for
    :param eval_freq: steps between evaluations
    :param n_evaluations: evaluations per training, instead of ``eval_freq``
    :param eval_episodes: episodes per evaluation
    """

    n_timesteps: int | None
    eval_freq: int | None
    n_evaluations: int | None
    eval_episodes: int | None


@dataclass(frozen=True)
class SweepOptions:
    """The command line of ``sweep.py``, which ``--help`` explains."""

    sweep: str
    backend: str
    n_trials: int | None
    study_name: str | None
    storage: str | None
    sampler: str | None
    pruner: str | None
    n_startup_trials: int
    seed: int
    n_timesteps: int | None
    eval_freq: int | None
    n_evaluations: int | None
    eval_episodes: int | None
    log_folder: str
    optimization_log_path: str | None
    out: str | None
    summary: str | None
    comparison_seeds: int
    comparison_episodes: int
    wandb_project_name: str | None
    wandb_entity: str | None
    trust: bool = False
    n_jobs: int = 1
    #: Number of the process: 0, or that of one of the ``n_jobs - 1`` others.
    worker: int = 0
    ray_address: str | None = None

    @property
    def budget(self) -> Budget:
        """Changes to the length of the trials."""
        return Budget(self.n_timesteps, self.eval_freq, self.n_evaluations, self.eval_episodes)

    @property
    def name(self) -> str:
        """Name of the study."""
        return self.study_name or Path(self.sweep).stem

    def sampler_for(self, config: SweepConfig) -> str:
        """One of ``SAMPLERS``."""
        return self.sampler or SAMPLER_OF_METHOD[config.method]


@dataclass(frozen=True)
class StudyFolder:
    """
    Where the files of one study lie.

    :param path: the folder
    """

    path: Path

    @classmethod
    def of(cls, options: SweepOptions) -> StudyFolder:
        """The folder that the command line names."""
        from sb3_matrl.zoo.common.run_folder import safe_name

        if options.optimization_log_path is not None:
            return cls(Path(options.optimization_log_path))
        return cls(Path(options.log_folder) / "sweeps" / safe_name(options.name))

    @property
    def database(self) -> Path:
        return self.path / "study.db"

    @property
    def storage(self) -> str:
        return f"sqlite:///{self.database}"

    @property
    def trials(self) -> Path:
        return self.path / "trials"

    @property
    def table(self) -> Path:
        return self.path / "trials.csv"

    @property
    def picture(self) -> Path:
        return self.path / "study.png"

    @property
    def turn(self) -> Path:
        """Lock of the process that starts the next trial."""
        return self.path / ".turn"

    def output_of(self, worker: int) -> Path:
        """Output of one of the other processes of ``--n-jobs``."""
        return self.path / f"process_{worker}.log"

    def output_of_trial(self, number: int) -> Path:
        """Output of a trial that ran as a task of Ray."""
        return self.trials / f"trial_{number}.log"

    @property
    def best(self) -> Path:
        return self.path / "best.yml"

    @property
    def summary(self) -> Path:
        return self.path / "summary.json"
