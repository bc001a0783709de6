"""When a process ends: with the one that started it, and on a signal at a moment of its own choosing.

Nothing outlives its starter. A process that is killed takes its children along (on Linux, by PR_SET_PDEATHSIG). One
that is told to end (`SIGNALS`) does so by an exception, so that whoever started others ends them on the way out.
"""

import atexit
import ctypes
import multiprocessing.util  # noqa: F401 (before `_end_daemons` is registered: what is registered last runs first)
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from multiprocessing import active_children, parent_process
from types import FrameType
from typing import Any

DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux's prctl
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None  # loaded here: a child should not have to
SIGNALS = (  # USR1: SLURM before the time is over; USR2: submitit
    signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2,
)  # fmt: skip


class Interrupted(KeyboardInterrupt):
    """The process was told to end; `number` is that of the signal, `to` names the process that got it, if another."""

    def __init__(self, number: int, to: str = "") -> None:
        super().__init__(signal.Signals(number).name + (f" to {to}" if to else ""))
        self.number = number


def _die_with(parent: int) -> None:
    """Called in a new process: the system kills it when `parent`, which started it, ends, however that happens.

    Nothing can keep it: what a run writes is whole or not there, whenever it is killed.
    """
    _bind()
    if os.getppid() != parent:  # it ended before
        os.kill(os.getpid(), signal.SIGKILL)


def bound() -> Callable[[], None]:
    """`preexec_fn` of a command that is to end with this process."""
    return partial(_die_with, os.getpid())


def begin_worker() -> None:
    """Called in a process of `multiprocessing`: it ends with the one that made it."""
    _bind()
    starter = parent_process()
    if starter is not None and not starter.is_alive():
        os.kill(os.getpid(), signal.SIGKILL)


def begin_as(module: str, function: str, *arguments: Any) -> None:
    """Called first in a spawned process: `begin_worker`, and only then what takes seconds to import.

    `function` of `module` goes on with the arguments.
    """
    begin_worker()
    getattr(import_module(module), function)(*arguments)


def begin_loader(_: int) -> None:
    """Called in a process that prepares batches (`worker_init_fn`): it ends with the run, and only then.

    Signals to the whole group are the run's affair, which may want a last batch.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    begin_worker()


@atexit.register
def _end_daemons() -> None:
    """Kill the daemons that are left when a process ends: multiprocessing would send them SIGTERM and wait.

    A loader ignores that one, and one whose iterator is still referenced, by the traceback of an interruption, would
    be waited for without end. None of them writes anything.
    """
    if left := [child for child in active_children() if child.daemon]:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's takes a killed loader for a fault
        for child in left:
            child.kill()


def _bind() -> None:
    if _LIBC is not None:
        _LIBC.prctl(DIE_WITH_PARENT, signal.SIGKILL)


class Interruptions:
    """The signals that ask this process to end, and whether somebody is about to look at them."""

    def __init__(self) -> None:
        self.patient = False
        self.received: int | None = None
        self.to = ""
        self._process = os.getpid()

    def handle(self, number: int, _: FrameType | None) -> None:
        """End now, or wait for the end of a step; a second Ctrl-C does not wait."""
        if os.getpid() != self._process:  # a fork that does not run anything of ours
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        again = number == signal.SIGINT and self.received == number
        self.received = number
        if again or not self.patient:
            raise Interrupted(number)

    def hear(self, number: int, to: str) -> None:
        """Another process of the run, `to`, was told to end: so is this one."""
        if self.received is None:
            self.received, self.to = number, to

    def install(self) -> None:
        """Take the signals from whoever has them; what is ignored stays so (by nohup, or by a comparison's worker)."""
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    signal.signal(number, self.handle)


_current: Interruptions | None = None


def interruptions() -> Interruptions | None:
    """Those of this process, inside of `interruptible`."""
    return _current


@contextmanager
def interruptible() -> Iterator[None]:
    """Inside, signals that ask the process to end raise `Interrupted`, or wait for the end of a training step."""
    global _current
    before, outer = {number: signal.getsignal(number) for number in SIGNALS}, _current
    _current = Interruptions()
    _current.install()
    try:
        yield
    finally:
        _current = outer
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)
