"""Kill a run at many moments, start it again each time, and compare what it leaves behind with an undisturbed one.

    python benchmarks/endurance/kill_anywhere.py [--kills 10] [--seed 0] [words of a run, e.g. recipe.epochs=2]

The process kills itself with SIGKILL in the middle of a calibration batch, a training step or an evaluation step, or
when half of a mask, a checkpoint, a statistic or a result has reached the disk. Which step or which write is drawn
from the seed. In the end rows, masks and tested weights must be those of the undisturbed run, bit for bit (on a CPU).
Exit code 0 if they are, 1 if not. The embedded world at 63 % takes about two minutes.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

DEMO = (
    "+exp=xvlm_itr",
    "benchmark=mini",
    "pruner=multiflow",
    "sparsity=0.63",
    "trainer=cpu",
    "recipe.epochs=2",
    "data.num_workers=2",
)
STEPS = {"calibration": 2, "training": 5, "evaluation": 2}  # phase -> largest step that is drawn
WRITES = {"statistics": 1, "masks": 1, "best.ckpt": 1, "last.ckpt": 2, "rows.jsonl": 1}
MEASURED = ("seconds", "shared_seconds", "peak_gb")  # what no two runs share
SLOW = (
    "vlp_bench.runs.run",
    "vlp_bench.data.datasets.retrieval",
    "vlp_bench.tasks.retrieval",
    "vlp_bench.models.checkpoints.read_write",
)
ORDER = ("calibration", "statistics", "masks", "training", "best.ckpt", "last.ckpt", "evaluation", "rows.jsonl")


@dataclass(frozen=True)
class Moment:
    """The `count`-th step or write of a phase, counted from the start of the process."""

    phase: str
    count: int

    def __str__(self) -> str:
        return f"{self.phase}:{self.count}"

    @classmethod
    def parse(cls, text: str) -> Moment:
        phase, _, count = text.partition(":")
        return cls(phase, int(count))


def moments(kills: int, seed: int) -> list[Moment]:
    """Moments in the order of a run; every phase comes before any comes twice."""
    chance = random.Random(seed)
    chosen = [phase for n in range(0, kills, len(ORDER)) for phase in chance.sample(ORDER, min(len(ORDER), kills - n))]
    limits = STEPS | WRITES
    return [Moment(phase, chance.randint(1, limits[phase])) for phase in sorted(chosen, key=ORDER.index)]


def arm(moment: Moment) -> None:
    """From now on this process dies at `moment`."""
    if moment.phase in STEPS:
        _die_in_step(moment)
    else:
        _die_in_write(moment)


def _die_in_step(moment: Moment) -> None:
    import torch
    from lightning.pytorch.loops.evaluation_loop import _EvaluationLoop

    from vlp_bench.models.xvlm.model import XVLMAdapter

    owner, name = {
        "calibration": (XVLMAdapter, "encode"),
        "training": (torch.optim.AdamW, "step"),
        "evaluation": (_EvaluationLoop, "_evaluation_step"),
    }[moment.phase]
    setattr(owner, name, _counted(getattr(owner, name), moment.count))


def _counted(function: Callable[..., Any], count: int) -> Callable[..., Any]:
    seen = 0

    def counting(*args: Any, **kwargs: Any) -> Any:
        nonlocal seen
        seen += 1
        if seen == count:
            _die()
        return function(*args, **kwargs)

    return counting


def _die_in_write(moment: Moment) -> None:
    fsync, seen = os.fsync, 0

    def half(descriptor: int) -> None:
        nonlocal seen
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        if moment.phase in path:
            seen += 1
            if seen == moment.count:
                os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
                _die()
        fsync(descriptor)

    os.fsync = half


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def differences(calm: Path, killed: Path) -> list[str]:
    """What two output folders disagree about: rows (but time and memory), masks and tested weights. Empty: nothing.

    Half-written files that are still in the second count too.
    """
    import torch

    from vlp_bench.pruning.solution import Solution
    from vlp_bench.runs.lock import LEFT

    found = [f"{path} was left behind" for path in killed.rglob(".*") if LEFT.fullmatch(path.name)]
    for run in sorted((calm / "runs").iterdir()):
        other = killed / "runs" / run.name
        if _values(calm, run.name) != _values(killed, run.name):
            found.append(f"rows of {run.name}: {_values(calm, run.name)} and {_values(killed, run.name)}")
        if (run / "best.ckpt").is_file():
            states = [torch.load(place / "best.ckpt", weights_only=True)["state_dict"] for place in (run, other)]
            found += [
                f"{name} of {run.name}" for name in states[0] if not torch.equal(states[0][name], states[1][name])
            ]
    for mask in sorted((calm / "masks").glob("*.safetensors")):
        first, second = Solution.load(mask), Solution.load(killed / "masks" / mask.name)
        found += [f"mask of {name}" for name in first.masks if not torch.equal(first.masks[name], second.masks[name])]
        found += [f"weights of {n}" for n in first.weights if not torch.equal(first.weights[n], second.weights[n])]
    return found


def _values(out: Path, folder: str) -> dict[tuple[str, str], float]:
    from vlp_bench.results.store import Store

    rows = list(Store(out / "runs").rows(folder))
    last = Store(out / "runs").last(rows[-1].run, folder) if rows else []
    return {(row.split, row.metric): row.value for row in last if row.metric not in MEASURED}


def start(words: list[str], out: Path, moment: Moment | None = None) -> int:
    """One process of a run and its exit code, -9 if it was killed; a fork, so that imports are paid for once."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # this process has no thread that holds a lock
        child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 1
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        perform([*words, f"paths.out={out}"], moment)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def perform(words: list[str], moment: Moment | None) -> None:
    """What the child does: the run, armed."""
    import torch

    torch.set_num_threads(1)  # threads do not survive a fork
    if moment is not None:
        arm(moment)
    from vlp_bench.runs.launch import launch

    sys.argv = [sys.argv[0], *words]
    launch(words)


def endure(words: list[str], folder: Path, planned: list[Moment], say: Callable[[str], object]) -> list[str]:
    """Run once undisturbed and once killed at every planned moment; returns the differences."""
    for module in SLOW:
        import_module(module)
    if code := start(words, folder / "calm"):
        return [f"the undisturbed run failed with exit code {code}"]
    for moment in planned:
        code = start(words, folder / "killed", moment)
        if code != -signal.SIGKILL:
            return [f"{moment} was not reached, the exit code was {code}"]
        say(f"killed at {moment}")
    if code := start(words, folder / "killed"):
        return [f"the run that was killed ended with exit code {code} at last"]
    return differences(folder / "calm", folder / "killed")


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    args, words = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        found = endure([*DEMO, *words], Path(folder), moments(args.kills, args.seed), print)
    print("\n".join(found) or "rows, masks and weights are those of the undisturbed run, bit for bit")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
