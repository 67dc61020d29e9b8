"""Settings of the test processes."""

import os

# Set before torch is imported. Processes of several threads on the same cores
# are slower together than processes of one.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
