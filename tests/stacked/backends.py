"""Backends of the tests: those that this installation has."""

import pytest

from sb3_matrl.stacked.native_kernel import native_obstacle


def require_kernel(backend: str) -> None:
    """
    Skip the test if the backend is not available here.

    :param backend: value of MATRL's argument ``backend``
    """
    reason = native_obstacle() if backend == "native" else None
    if reason is not None:
        pytest.skip(f"the native kernel is not available: {reason}")
