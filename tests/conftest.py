"""Settings of all tests: one thread per process, and no limits on time, which other processes share."""

import os

import torch as th
from hypothesis import HealthCheck, settings

# Tests run beside each other, and small networks are fastest on one thread.
os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the processes that tests start
th.set_num_threads(1)
settings.register_profile("suite", max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")
