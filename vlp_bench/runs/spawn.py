"""Starts the processes of one run on this machine and ends them together."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import IO

from vlp_bench.lifetime import bound
from vlp_bench.runs.terminal.console import stderr

GRACE = 10.0  # seconds the others have to say what is wrong with them, once one has failed
RANKS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass
class Member:
    """One process; those but the first speak into a file, which is shown if they fail alone."""

    process: subprocess.Popen[bytes]
    said: IO[bytes] | None


def spawn(count: int, arguments: Sequence[str]) -> int:
    """Start `python -m vlp_bench` with these arguments `count` times, wait, return the exit code (0 if all are 0).

    The code is that of the process that failed first, 128 + n if signal n ended it. One that a signal ended counts as
    first: the others may miss it before it is gone.
    """
    port = _free_port()
    with ExitStack() as files:
        members = [_member(rank, count, port, arguments, files) for rank in range(count)]
        first, others = None, list[int]()
        try:
            first = _first_failure(members)
            others = [rank for rank, member in enumerate(members) if member.process.poll() is None]
        finally:
            end([member.process for member in members])
        if first is None:
            return 0
        first = next((rank for rank in _signalled(members) if rank not in others), first)
        _report(members, first, others)
    code = members[first].process.returncode
    return code if code > 0 else 128 - code


def _member(rank: int, count: int, port: int, arguments: Sequence[str], files: ExitStack) -> Member:
    env = inherited() | {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count), "NODE_RANK": "0",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    env.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    said = files.enter_context(tempfile.TemporaryFile()) if rank else None  # noqa: SIM115
    command = [sys.executable, "-m", "vlp_bench", *arguments]
    quiet = [] if said is None else ["hydra.output_subdir=null"]
    process = subprocess.Popen([*command, *quiet], env=env, stdout=said, stderr=said, preexec_fn=bound())
    return Member(process, said)


def inherited() -> dict[str, str]:
    """The environment for a new process: without what this one has told Hydra about errors, and without a rank."""
    left_out = {*RANKS, "HYDRA_FULL_ERROR", "OC_CAUSE"}
    return {name: value for name, value in os.environ.items() if name not in left_out}


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _first_failure(members: Sequence[Member]) -> int | None:
    """Wait for all, or until one has failed and the others had their time; which failed first."""
    first, since = None, 0.0
    while any(member.process.poll() is None for member in members):
        if first is None:
            first, since = _failed(members), time.monotonic()
        if first is not None and time.monotonic() - since > GRACE:
            break
        time.sleep(0.05)
    return _failed(members) if first is None else first


def _failed(members: Sequence[Member]) -> int | None:
    return next((rank for rank, member in enumerate(members) if member.process.poll()), None)


def _signalled(members: Sequence[Member]) -> list[int]:
    """Those that a signal has ended, whether they could say so (128 + n) or not."""
    return [rank for rank, m in enumerate(members) if m.process.returncode < 0 or m.process.returncode > 128]


def _report(members: Sequence[Member], first: int, ended: Sequence[int]) -> None:
    """How each process ended, unless all said the same; and what the first to fail has said, if it spoke into a file.

    Args:
        ended: those that were still at work and have been ended here.
    """
    codes = [member.process.returncode for member in members]
    if len(set(codes)) == 1 and codes[0] > 0:
        return  # the main process has told why
    for rank, code in enumerate(codes):
        when = " first" if rank == first else ", ended by the others' end" if rank in ended else ""
        stderr.print(f"process {rank} of {len(members)} {how_ended(code)}{when}", soft_wrap=True)
    said = members[first].said
    if said is not None:
        said.seek(0)
        stderr.print(said.read().decode(errors="replace")[-4000:], markup=False)


def how_ended(code: int) -> str:
    """'was killed by SIGKILL' or 'ended with exit code 1', of a code as `subprocess` gives it."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


def end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Terminate what still runs, which may finish a step and save it; kill what does not listen."""
    for process in processes:
        if process.poll() is None:
            process.terminate()
    until = time.monotonic() + GRACE
    for process in processes:
        try:
            process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
