"""Progress of a benchmark on the screen: a bar for the whole, and one for each active run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from sb3_matrl.zoo.benchmarking.plan import PlannedRun

LOG_LINES = 8
# Seconds over which the speed is estimated; long, because steps arrive in bursts, one per rollout.
SPEED_PERIOD = 600.0
BAR_WIDTH = 16


class ProgressDisplay:
    """
    Progress in environment steps; a context manager.

    On a terminal it shows bars, elsewhere only a line for each run that has ended.

    :param finished: runs that were finished before
    :param left: runs to be done
    :param console: console for the output; standard error by default
    """

    def __init__(self, finished: Sequence[PlannedRun], left: Sequence[PlannedRun], console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, soft_wrap=True)
        bar = (BarColumn(bar_width=BAR_WIDTH), MofNCompleteColumn(), TextColumn("steps, left"), TimeRemainingColumn())
        self._progress = Progress(
            TextColumn("{task.description}"), *bar, console=self._console, speed_estimate_period=SPEED_PERIOD
        )
        self._n_runs, self._n_ended = len(finished) + len(left), len(finished)
        done = sum(_planned_steps(run) for run in finished)
        self._total = done + sum(_planned_steps(run) for run in left)
        self._done = done
        self._overall = self._progress.add_task(self._title(), total=self._total, completed=done)
        self._tasks: dict[Path, tuple[TaskID, int]] = {}
        if finished:
            self._console.print(f"{len(finished)} of {self._n_runs} runs were finished before", highlight=False)

    def _title(self) -> str:
        return f"{self._n_ended} of {self._n_runs} runs"

    def started(self, run: PlannedRun) -> None:
        """Add the bar of a run."""
        task = self._progress.add_task(escape(run.name), total=_planned_steps(run))
        self._tasks[run.folder.path] = task, 0

    def advanced(self, run: PlannedRun, steps: int) -> None:
        """
        Move a run's bar.

        :param run: an active run
        :param steps: its steps so far
        """
        task, _ = self._tasks[run.folder.path]
        self._tasks[run.folder.path] = task, min(steps, _planned_steps(run))
        self._progress.update(task, completed=min(steps, _planned_steps(run)))
        self._refresh()

    def finished(self, run: PlannedRun) -> None:
        """Report that a run is finished, and remove its bar."""
        self._done += _planned_steps(run)
        self._end(run)
        self._console.print(f"[{self._n_ended}/{self._n_runs}] {run.name}: finished", markup=False, highlight=False)

    def failed(self, run: PlannedRun, exit_code: int) -> None:
        """
        Report that a run failed, and print the end of its log.

        :param run: an active run
        :param exit_code: exit code of its process
        """
        self._total -= _planned_steps(run)
        self._end(run)
        self._console.print(
            f"[{self._n_ended}/{self._n_runs}] {run.name}: FAILED with exit code {exit_code}; {run.log} ends with:",
            *(f"    {line}" for line in last_lines(run.log)),
            sep="\n",
            markup=False,
            highlight=False,
        )

    def _end(self, run: PlannedRun) -> None:
        task, _ = self._tasks.pop(run.folder.path)
        self._progress.remove_task(task)
        self._n_ended += 1
        self._refresh()

    def _refresh(self) -> None:
        running = sum(steps for _, steps in self._tasks.values())
        self._progress.update(self._overall, description=self._title(), total=self._total, completed=self._done + running)

    def __enter__(self) -> ProgressDisplay:
        # Without a terminal rich would print the bars once at the end.
        if self._console.is_terminal:
            self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._console.is_terminal:
            self._progress.stop()


def _planned_steps(run: PlannedRun) -> int:
    return run.hyperparameters.n_timesteps


def last_lines(path: Path, count: int = LOG_LINES) -> list[str]:
    """
    The last lines of a text file.

    :param path: path of the file
    :param count: number of lines, without empty ones
    :return: the lines; empty if the file cannot be read
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return [line for line in text.splitlines() if line.strip()][-count:]
