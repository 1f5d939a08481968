"""Check the installation, or a saved model: ``sb3-matrl doctor [MODEL]``. The exit code is 0 if nothing is wrong, else 1."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sb3_matrl.zoo.common.cli import StrictParser, user_errors

if TYPE_CHECKING:
    from sb3_matrl.zoo.diagnosis.findings import Finding

EXAMPLES = """\
  sb3-matrl doctor                                             (versions, bridges, a training of a few seconds)
  sb3-matrl doctor logs/matrl/checkers_v0_1/checkers_v0.zip    (format, hashes, content)
"""


def build_parser() -> StrictParser:
    """:return: parser of the flags"""
    parser = StrictParser(
        "doctor", "Check the installation, or a saved model. The exit code is 1 if something is wrong.", EXAMPLES
    )
    add = parser.add_argument
    add("model", metavar="MODEL", nargs="?", type=Path, help="saved model to check instead of the installation")
    add("--seconds", type=float, default=5.0, help="length of the trial training")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """
    :param arguments: words of the command line; those of the process by default
    :return: exit code: 0 if nothing is wrong, else 1
    :raises SystemExit: with code 2 on a mistake of the user
    """
    with user_errors():
        given = build_parser().parse_strictly(list(sys.argv[1:] if arguments is None else arguments))
    wrong = 0
    for finding in _findings(given):
        print(finding, flush=True)
        wrong += finding.ok is False
    print("\nEverything is in order." if wrong == 0 else f"\n{wrong} thing{'s are' if wrong > 1 else ' is'} wrong.")
    return int(wrong > 0)


def _findings(given: argparse.Namespace) -> Iterator[Finding]:
    if given.model is not None:
        from sb3_matrl.zoo.diagnosis.saved_model import check_model  # heavy: after the words are understood

        return check_model(given.model)
    from sb3_matrl.zoo.diagnosis.installation import check_installation

    return check_installation(given.seconds)


if __name__ == "__main__":
    sys.exit(main())
