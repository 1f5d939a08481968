"""One thread per process: tests run beside each other, and small networks are fastest so."""

import os

import torch as th

os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the processes that tests start
th.set_num_threads(1)
