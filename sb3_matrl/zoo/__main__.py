"""``python -m sb3_matrl.zoo``: the same as ``sb3-matrl``."""

import sys

from sb3_matrl.zoo.common.invocation import MODULE
from sb3_matrl.zoo.main import main

if __name__ == "__main__":
    sys.exit(main(form=MODULE))
