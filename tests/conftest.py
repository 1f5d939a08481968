"""Settings of all tests: one thread per process, and no limits on time, which other processes share."""

import os
from typing import Any

import pytest
import torch as th
from hypothesis import HealthCheck, settings

from tests.marks import mark_cases

# Tests run beside each other, and small networks are fastest on one thread.
os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the processes that tests start
th.set_num_threads(1)
settings.register_profile("suite", max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[Any]) -> None:
    unknown = mark_cases(items)
    if unknown and not any("::" in word for word in config.args):  # chosen cases do not show which others there are
        raise pytest.UsageError("\n".join(f"{test} has no cases {sorted(names)}" for test, names in sorted(unknown.items())))
