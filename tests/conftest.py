"""Settings of the test processes."""

import os

import torch

# Processes of several threads on the same cores are slower together than
# processes of one. Programs that tests start read the variable.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
