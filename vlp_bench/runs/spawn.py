"""Starts the processes of one run on this machine and ends them together."""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO

from vlp_bench.runs.console import stderr

GRACE = 10.0  # seconds the others have to say what is wrong with them, once one has failed
RANKS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT")
DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux's prctl


@dataclass
class Member:
    """One process; those but the first speak into a file, which is shown if they fail alone."""

    process: subprocess.Popen[bytes]
    said: IO[bytes] | None


def spawn(count: int, arguments: Sequence[str]) -> int:
    """Start `python -m vlp_bench` with these arguments `count` times, wait, return the exit code (0 if all are 0)."""
    port = _free_port()
    members = [_member(rank, count, port, arguments) for rank in range(count)]
    try:
        first = _first_failure(members)
        if first is not None:
            _report(members, first)
    finally:
        end([member.process for member in members])
    codes = [member.process.returncode for member in members]
    return 0 if first is None else next((code for code in [codes[first], *codes] if code > 0), 1)


def _member(rank: int, count: int, port: int, arguments: Sequence[str]) -> Member:
    env = inherited() | {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count), "NODE_RANK": "0",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    env.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    said = tempfile.TemporaryFile() if rank else None  # noqa: SIM115
    command = [sys.executable, "-m", "vlp_bench", *arguments]
    quiet = [] if said is None else ["hydra.output_subdir=null"]
    process = subprocess.Popen([*command, *quiet], env=env, stdout=said, stderr=said, preexec_fn=die_with_parent)
    return Member(process, said)


def inherited() -> dict[str, str]:
    """The environment for a new process: without what this one has told Hydra about errors, and without a rank."""
    left_out = {*RANKS, "HYDRA_FULL_ERROR", "OC_CAUSE"}
    return {name: value for name, value in os.environ.items() if name not in left_out}


def die_with_parent() -> None:
    """Called in a new process: the system ends it when the one that started it ends, however that happens (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGTERM)


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


def _report(members: Sequence[Member], first: int) -> None:
    """What the process that failed first has said, unless the main one has said the same."""
    member, main = members[first], members[0].process.poll()
    if member.said is not None and member.process.returncode != main:
        member.said.seek(0)
        stderr.print(f"process {first} of {len(members)} failed with exit code {member.process.returncode}:")
        stderr.print(member.said.read().decode(errors="replace")[-4000:], markup=False)


def end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Terminate what still runs; kill what does not listen."""
    for process in processes:
        if process.poll() is None:
            process.terminate()
    for process in processes:
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
