"""One thread for each of the processes that share the tests: threads that wait for each other cost more.

What the embedded world's records are kept in is theirs together, not the user's, and goes with the first of them.
"""

import os
import tempfile

os.environ.setdefault("OMP_NUM_THREADS", "1")
if "VLP_BENCH_CACHE" not in os.environ:
    _kept = tempfile.TemporaryDirectory(prefix="vlp-bench-tests-")
    os.environ["VLP_BENCH_CACHE"] = _kept.name

pytest_plugins = ["tests.small_run"]
