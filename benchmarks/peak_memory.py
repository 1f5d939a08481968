"""
Peak memory of a training of a few iterations, in a process of its own.

    python -m benchmarks.peak_memory --column checkers --backend torch

Prints MiB: the largest resident set of the process, imports included.
"""

from __future__ import annotations

import argparse
import resource
import warnings
from pathlib import Path

import torch as th

from benchmarks.contestants import Contestant, Ours, SharedPPO
from benchmarks.speed_columns import BACKENDS, COLUMNS, IPPO, MATRL

#: Peer 1, in place of a backend.
PEER = "peer"


def peak_mib() -> float:
    """Largest resident set of this process so far, in MiB."""
    try:
        # Linux hands ru_maxrss on from the parent through fork and exec; VmHWM begins with the program.
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--column", choices=COLUMNS, default="checkers")
    parser.add_argument("--backend", choices=(PEER, *BACKENDS), default="torch")
    parser.add_argument("--iterations", type=int, default=3)
    args = parser.parse_args()
    th.set_num_threads(1)
    warnings.simplefilter("ignore")
    column = COLUMNS[args.column]
    if args.backend == PEER:
        contestant: Contestant = SharedPPO(column.settings(IPPO), column.env)
    else:
        contestant = Ours(args.backend, column.settings(MATRL, args.backend), column.env)
    for _ in range(args.iterations):
        contestant.training.iterate()
    contestant.close()
    print(f"{peak_mib():.1f}")


if __name__ == "__main__":
    main()
