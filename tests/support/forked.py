"""Several processes for a test, as forks: imports are paid for once, and a function needs no pickling."""

import os
import traceback
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist


def together(count: int, function: Callable[[], Any], folder: Path) -> list[Any]:
    """What `function` returns (plain values and tensors) in each of `count` processes that form a gloo group."""
    folder.mkdir(parents=True, exist_ok=True)
    children = [_forked(rank, count, function, folder) for rank in range(count)]
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert not any(codes), "\n".join(file.read_text() for file in sorted(folder.glob("*.txt")))
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(count)]


def _forked(rank: int, count: int, function: Callable[[], Any], folder: Path) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads: the child uses none of them
        child = os.fork()
    if child:
        return child
    code = 1
    try:
        torch.set_num_threads(1)
        where = f"file://{folder}/meet"
        if count > 1:
            dist.init_process_group(
                "gloo", init_method=where, rank=rank, world_size=count, timeout=timedelta(seconds=60)
            )
        torch.save(function(), folder / f"{rank}.pt")
        code = 0
    except BaseException:
        (folder / f"{rank}.txt").write_text(f"process {rank}: {traceback.format_exc()}")
    finally:
        os._exit(code)
