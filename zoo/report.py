"""``python zoo/report.py``: the same as ``sb3-matrl report``."""

import sys
from pathlib import Path

if __name__ == "__main__":
    # Python puts this folder first on the path, where its files would hide installed packages of the same names.
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from sb3_matrl.zoo.report import main

    sys.exit(main())
