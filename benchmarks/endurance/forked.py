"""A sweep whose processes are forks, so that nobody pays for imports in each of them."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vlp_bench.lifetime import bound
from vlp_bench.sweeps.states import FAILED_FILE, LOG_FILE

if TYPE_CHECKING:
    from vlp_bench.sweeps.sweep import Cell


class Forked:
    """What a sweep asks of a process."""

    def __init__(self, words: tuple[str, ...], env: dict[str, str], log: Path) -> None:
        self.returncode: int | None = None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            die_with_this_one = bound()
            self.pid = os.fork()
        if not self.pid:
            die_with_this_one()
            self._child(words, env, log)

    def _child(self, words: tuple[str, ...], env: dict[str, str], log: Path) -> None:
        code = 1
        try:
            torch.set_num_threads(1)
            os.environ.update(env)
            out = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.dup2(out, 1)
            os.dup2(out, 2)
            sys.stdout = sys.stderr = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
            sys.argv = ["vlp_bench", *words]
            from vlp_bench.runs.launch import launch

            launch(list(words))
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.returncode

    def terminate(self) -> None:
        os.kill(self.pid, 15)

    def kill(self) -> None:
        os.kill(self.pid, 9)


def forked(cell: Cell, env: dict[str, str]) -> Any:
    """A `Start` of `vlp_bench.sweeps.sweep.Sweep`."""
    cell.folder.mkdir(parents=True, exist_ok=True)
    (cell.folder / FAILED_FILE).unlink(missing_ok=True)
    return Forked(cell.words, env, cell.folder / LOG_FILE)
