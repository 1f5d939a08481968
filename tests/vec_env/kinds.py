"""Kinds of vectorised envs whose copies are separate envs, for tests that hold for each of them."""

import pytest

IN_PROCESS = ("dummy", "supersuit")
IN_WORKERS = ("subproc", "supersuit-subproc")


def _marked(kinds):
    # SuperSuit's vectors step the same copies as our loops: they are tested with the end-to-end tests.
    return [pytest.param(kind, marks=pytest.mark.e2e) if kind.startswith("supersuit") else kind for kind in kinds]


EVERY_KIND = pytest.mark.parametrize("kind", _marked([*IN_PROCESS, *IN_WORKERS]))
EVERY_IN_PROCESS = pytest.mark.parametrize("kind", _marked(IN_PROCESS))
EVERY_IN_WORKERS = pytest.mark.parametrize("kind", _marked(IN_WORKERS))
