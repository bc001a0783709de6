"""One thread for each of the processes that share the tests: threads that wait for each other cost more."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

pytest_plugins = ["tests.small_run"]
