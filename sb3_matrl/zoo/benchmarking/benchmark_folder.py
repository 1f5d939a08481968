"""Names of the files of a benchmark."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sb3_matrl.zoo.common.run_folder import RunFolder, safe_name


@dataclass(frozen=True)
class BenchmarkFolder:
    """
    Names of the files of one benchmark.

    :param path: path of the folder
    """

    path: Path

    def run(self, env: str, setting: str, seed: int) -> RunFolder:
        """Folder of one run."""
        return RunFolder(self.path / "runs" / safe_name(env) / safe_name(setting) / str(seed), env)

    def log(self, env: str, setting: str, seed: int) -> Path:
        """Output of one run's process."""
        return self.path / "logs" / safe_name(env) / safe_name(setting) / f"{seed}.log"

    @property
    def table(self) -> Path:
        """Table as Markdown."""
        return self.path / "table.md"

    @property
    def csv(self) -> Path:
        """Table as CSV."""
        return self.path / "table.csv"

    @property
    def curves(self) -> tuple[Path, Path]:
        """Learning curves, as PNG and as SVG."""
        return self.path / "learning_curves.png", self.path / "learning_curves.svg"

    @property
    def results(self) -> Path:
        """Results in the format of marl-eval."""
        return self.path / "results.json"

    @property
    def record(self) -> Path:
        """Options, machine, table and every run's curves."""
        return self.path / "record.json"
