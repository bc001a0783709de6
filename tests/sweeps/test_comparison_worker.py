"""A process of a comparison ends when the comparison does, however that happens."""

import ctypes
import os
import signal
import sys

import pytest

from vlp_bench.lifetime import begin_as
from vlp_bench.sweeps import comparison_worker as worker

GET_PDEATHSIG = 2  # of Linux's prctl


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of a fork beside threads
def test_a_worker_is_ended_with_the_process_that_started_it():
    child = os.fork()
    if not child:
        found = ctypes.c_int(0)
        try:
            begin_as(worker.__name__, "begin", None)
            ctypes.CDLL(None).prctl(GET_PDEATHSIG, ctypes.byref(found))
        finally:
            os._exit(found.value)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == signal.SIGKILL
