"""Kinds of vectorised envs whose copies are separate envs, for tests that hold for each of them."""

import pytest

IN_PROCESS = ("dummy", "supersuit")
IN_WORKERS = ("subproc", "supersuit-subproc")

EVERY_KIND = pytest.mark.parametrize("kind", [*IN_PROCESS, *IN_WORKERS])
EVERY_IN_PROCESS = pytest.mark.parametrize("kind", IN_PROCESS)
EVERY_IN_WORKERS = pytest.mark.parametrize("kind", IN_WORKERS)
