"""Times alternatives in turn, so that whatever else the machine does meets all of them."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

import torch


def seconds(run: Callable[[], object]) -> float:
    """Processor seconds of a call (all threads together), or wall-clock seconds where a GPU works."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        started = time.perf_counter()
        run()
        torch.cuda.synchronize()
        return time.perf_counter() - started
    started = time.process_time()
    run()
    return time.process_time() - started


def interleaved(runs: Mapping[str, Callable[[], object]], rounds: int, *, warm_up: int = 1) -> dict[str, list[float]]:
    """Seconds of every run in every round; odd rounds go backwards, the first `warm_up` rounds don't count."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + warm_up):
        for name in list(runs) if number % 2 == 0 else reversed(list(runs)):
            spent = seconds(runs[name])
            if number >= warm_up:
                found[name].append(spent)
    return found


def ratio(over: list[float], under: list[float]) -> float:
    """Median over the rounds of one run's seconds divided by the other's in the same round."""
    return median(a / b for a, b in zip(over, under, strict=True))


def peak() -> float:
    """Highest resident memory of this process so far, or memory of the GPU, in bytes."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


def alone(script: str, *arguments: str) -> dict[str, Any]:
    """What a script prints as JSON in its last line, run in a process of its own: peaks don't hide one another."""
    done = subprocess.run([sys.executable, script, *arguments], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])
