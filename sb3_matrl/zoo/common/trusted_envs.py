"""Environment ids that come from files: those that name a module are used only if the user names them, too."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from sb3_matrl.envs.env_ids import is_registered


def check_env_of_file(
    env_id: str, file: Path | str, given: Collection[str | None] = (), trust: bool = False, flag: str = "--env"
) -> None:
    """
    Check that a file does not choose which code runs.

    :param env_id: id of an environment, read from a file
    :param file: the file, for the error
    :param given: ids on the command line
    :param trust: whether the command line has ``--trust``
    :param flag: flag by which the command line names environments; ``""`` if it has none
    :raises ValueError: if the id is ``module:callable`` and the user has not asked for it
    """
    if not (trust or env_id in given or is_registered(env_id)):
        naming = f"{flag} {env_id} or " if flag else ""
        raise ValueError(
            f"{file} names the environment {env_id!r}, whose code would run: if you trust it, add {naming}--trust"
        )
