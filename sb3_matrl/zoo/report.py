"""Report on runs as one self-contained HTML page: ``sb3-matrl report logs/matrl/checkers_v0_1``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from sb3_matrl.utils.atomic_file import atomic_file
from sb3_matrl.zoo.common.cli import StrictParser, positive_count, user_errors

if TYPE_CHECKING:
    from sb3_matrl.zoo.reporting.run_loading import Run

FILE_NAME = "report.html"
EXAMPLES = """\
  sb3-matrl report logs/matrl/checkers_v0_1
  sb3-matrl report logs/matrl/checkers_v0_1 logs/ippo/checkers_v0_1 --out checkers.html --title "Checkers"
  sb3-matrl report logs/matrl/switch_v0_1 --no-frames --static
"""


@dataclass(frozen=True)
class ReportOptions:
    """Options of ``report.py``, explained by ``--help``."""

    runs: list[Path]
    out: Path | None
    title: str | None
    frames: int
    no_frames: bool
    static: bool = False
    trust: bool = False

    @property
    def path(self) -> Path:
        """Path of the page."""
        if self.out is not None:
            return self.out
        return self.runs[0] / FILE_NAME if len(self.runs) == 1 else Path(FILE_NAME)


def build_parser() -> StrictParser:
    """:return: parser of the flags"""
    parser = StrictParser("report", "Report on one run, or compare several, in one self-contained HTML page.", EXAMPLES)
    add = parser.add_argument
    add("runs", metavar="RUN", type=Path, nargs="+", help="run folder, such as logs/matrl/checkers_v0_1")
    add("--out", type=Path, help="path of the page; default: <run>/report.html for one run, ./report.html for several")
    add("--title", help="title of the page; default: the names of the runs")
    frames = parser.add_mutually_exclusive_group()
    frames.add_argument(
        "--frames",
        type=positive_count,
        default=8,
        help="frames of a greedy episode, played with the saved model, for a run without a video (*.mp4, *.gif)",
    )
    frames.add_argument("--no-frames", action="store_true", help="play nothing (and import no environment)")
    static = "charts as pictures alone: a page without scripts, smaller by one to two megabytes"
    parser.add_argument("--static", action="store_true", help=static)
    trust = "play frames in an environment module:callable that the run folder names, whose code then runs"
    parser.add_argument("--trust", action="store_true", help=trust)
    return parser


def parse_options(words: Sequence[str]) -> ReportOptions:
    """
    :param words: words of the command line, without the program's name
    :raises ValueError: on unknown flags or values that cannot be read
    """
    return ReportOptions(**vars(build_parser().parse_strictly(words)))


def check_output(path: Path) -> None:
    """
    Check that nothing but an older report is overwritten.

    :raises ValueError: if ``path`` is a folder, or a file that is no report
    """
    from sb3_matrl.zoo.reporting.page import GENERATOR

    if path.is_dir():
        raise ValueError(f"--out {path} is a folder; give a file, such as {path / FILE_NAME}")
    if path.exists() and f'content="{GENERATOR}"'.encode() not in path.read_bytes()[:1000]:
        raise ValueError(f"--out {path} exists and is no report; nothing is overwritten: choose another file")


def write_report(options: ReportOptions) -> list[Run]:
    """
    Read the runs and write the page.

    :return: the runs
    :raises ValueError: if a folder is no run or holds no results, or the output would overwrite something else
    :raises OSError: if something cannot be read or written
    """
    from tqdm import tqdm

    from sb3_matrl.zoo.reporting.live_charts import is_available
    from sb3_matrl.zoo.reporting.media import gallery
    from sb3_matrl.zoo.reporting.page import render_page
    from sb3_matrl.zoo.reporting.run_loading import load_runs

    check_output(options.path)
    runs = load_runs(options.runs)
    n_frames = 0 if options.no_frames else options.frames
    shown = tqdm(runs, desc="pictures", unit="run", leave=False, disable=None)
    galleries = [gallery(run, n_frames, options.trust) for run in shown]
    title = options.title or ", ".join(run.name for run in runs)
    page = render_page(runs, galleries, title, datetime.now(), is_live=is_available() and not options.static)
    options.path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(options.path) as file:
        file.write(page.encode("utf-8"))
    return runs


def main(arguments: Sequence[str] | None = None) -> int:
    """
    :param arguments: words of the command line; those of the process by default
    :return: exit code
    :raises SystemExit: with code 2 on a mistake of the user
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with user_errors():
            options = parse_options(words)
            runs = write_report(options)
    except KeyboardInterrupt:
        print("interrupted; no report was written", file=sys.stderr)
        return 130
    for run in runs:
        for problem in run.problems:
            print(f"warning: {run.name}: {problem}", file=sys.stderr)
    _say_if_static(options)
    print(f"{options.path}: {options.path.stat().st_size / 1e6:.1f} MB; open it in a browser")
    return 0


def _say_if_static(options: ReportOptions) -> None:
    """Say how to get charts that can be zoomed, to those who did not choose pictures."""
    from sb3_matrl.zoo.reporting.live_charts import is_available

    if not options.static and not is_available():
        print('The charts are pictures; to zoom in charts: pip install "sb3-matrl[report]"')


if __name__ == "__main__":
    sys.exit(main())
