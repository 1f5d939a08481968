"""Small networks are many times faster on one thread, above all beside other processes."""

import os

import torch as th

os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes that tests start
th.set_num_threads(1)
