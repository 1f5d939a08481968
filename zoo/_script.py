"""The start of every script in this folder."""

import sys
from pathlib import Path


def run() -> None:
    """Run the command that is named as the script is."""
    # Python puts this folder first on the path, where its files would hide installed packages of the same names.
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from sb3_matrl.zoo.main import run_script

    sys.exit(run_script(sys.argv[0]))
