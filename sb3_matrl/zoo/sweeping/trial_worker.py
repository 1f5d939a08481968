"""A process of ``--n-jobs``: runs trials of a study until there are none left; or one trial, as a task of Ray."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sb3_matrl.zoo.common.signals import SignalWatch
from sb3_matrl.zoo.sweeping.local import LocalSweep
from sb3_matrl.zoo.sweeping.sweep_file import sweep_from_mapping
from sb3_matrl.zoo.sweeping.sweep_options import SweepOptions
from sb3_matrl.zoo.sweeping.trial import first_options


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run trials until the study is complete, or the one that the task names.

    :param arguments: the task as JSON, see :func:`~sb3_matrl.zoo.sweeping.trial_processes.worker_command`; by default that of
        the process
    :return: exit code
    """
    (text,) = sys.argv[1:] if arguments is None else arguments
    task: dict[str, Any] = json.loads(text)
    config = replace(sweep_from_mapping(task["sweep"]), trust=task["trust"])
    with SignalWatch() as signals, signals.at_once():
        sweep = LocalSweep(SweepOptions(**task["options"]), config, first_options(config))
        return sweep.run_beside() if task["trial"] is None else sweep.run_trial(task["trial"])


if __name__ == "__main__":
    sys.exit(main())
