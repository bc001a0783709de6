"""The table of a GPU: what pruning costs there in multiples of a plain pass, a line of JSON for each row.

    python -m benchmarks.gpu [--json rows.jsonl] [NAME ...]
    python -m benchmarks.gpu --device cpu --small      # the same code on a processor, at a size for tests

Each row is the median of three calls, after one that doesn't count. XVLM and BLIP have random weights, batches of
32 + 32 captions that lie on the device. `forward` and `backward` say which rate (TFLOP/s) `vlp-bench prune plan=true
tflops=NUMBER` may be given. Without a GPU it says so in one line.

Goals: MULTIFLOW's statistics at most 1.10 forward passes in fp32, 1.25 in tf32 and bf16; three masks from statistics
that are known 0.15 s for OMP, 0.3 s for LAMP and MULTIFLOW, beside `sort`, torch's of all |w|; Wanda block by block at
most 2.2 forward passes; SNIP's gradients at most 1.05 plain ones, IterSNIP's as many as it has steps, TAMT's steps
1.15. `chita` is measured with few batches and with more, each once: 500 batches are estimated from both by a straight
line (goal 500 s), CHITA++ as 60 times CHITA with 50 (goal 2,500 s).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, get_args

import torch
from torch import nn

import vlp_bench
from vlp_bench.batch import Batch
from vlp_bench.models.blip.model import BLIP
from vlp_bench.models.blip.towers import BLIPConfig
from vlp_bench.models.xvlm.model import XVLM
from vlp_bench.models.xvlm.towers import XVLMConfig
from vlp_bench.pruning.adapter import adapter_for
from vlp_bench.pruning.precision import Precision, cast, products_in
from vlp_bench.pruning.statistics.calibration import Calibration
from vlp_bench.runs.provenance import processor

SPARSITIES = [0.63, 0.75, 0.9]
TOKENS, MASKED = 30, 5
STEPS = 3  # of IterSNIP
FEW = (8, 24)  # batches that CHITA is measured with
SMALL: dict[str, Any] = {
    "image_size": 32,
    "vision_width": 32,
    "vision_layers": 2,
    "vision_heads": 2,
    "text_width": 32,
    "text_heads": 2,
}
Parts = list[list[Batch]]


@dataclass(frozen=True)
class Subject:
    """A model, its batches, where it runs and in what."""

    name: str
    model: Any
    data: Parts
    device: torch.device
    precision: Precision

    @property
    def calibration(self) -> Calibration:
        """One that knows nothing yet."""
        return Calibration(self.model, self.data, precision=self.precision)


def built(name: str, device: torch.device, *, small: bool) -> nn.Module:
    """At full size, or one for tests."""
    torch.manual_seed(0)
    if name == "xvlm":
        depths: dict[str, Any] = SMALL | {"text_layers": 3, "fusion_layers": 2, "local_attn_depth": 1}
        return XVLM(XVLMConfig(**depths) if small else XVLMConfig()).eval().to(device)
    sizes: dict[str, Any] = SMALL | {"text_layers": 2, "queue_size": 64}
    return BLIP(BLIPConfig(**sizes) if small else BLIPConfig()).eval().to(device)


def batch(model: Any, rows: int, seed: int, device: torch.device) -> Batch:
    """Captions of 10 to 30 words, an image each."""
    config, generator = model.config, torch.Generator().manual_seed(seed)
    ids = torch.randint(1000, 2000, (rows, TOKENS), generator=generator)
    content = Batch(
        images=torch.randn(rows, 3, config.image_size, config.image_size, generator=generator),
        text_ids=ids,
        text_atts=(torch.arange(TOKENS) < torch.randint(10, TOKENS + 1, (rows, 1), generator=generator)).long(),
        text_ids_masked=ids,
        masked_pos=torch.randint(1, 10, (rows, MASKED), generator=generator),
        masked_ids=torch.randint(1000, 2000, (rows, MASKED), generator=generator),
        idx=torch.arange(rows),
    )
    return content.to(device)


def seconds(run: Callable[[], object], device: torch.device, rounds: int = 3) -> float:
    """Median of the clock, once what is queued is done; the first call doesn't count, unless it is the only one."""
    spent = []
    for _ in range(rounds + 1):
        _wait(device)
        started = time.perf_counter()
        run()
        _wait(device)
        spent.append(time.perf_counter() - started)
    return median(spent[1:] or spent)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def forward(subject: Subject) -> None:
    """The batches once, nobody watching."""
    adapter = adapter_for(subject.model)
    with torch.no_grad(), products_in(subject.precision):
        for part in (part for parts in subject.data for part in parts):
            with cast(subject.precision, subject.device):
                adapter.encode(subject.model, part)


def backward(subject: Subject) -> None:
    """The loss's gradients of the prunable weights, plainly."""
    adapter = adapter_for(subject.model)
    weights = [subject.model.get_parameter(name) for name in adapter.prunable(subject.model)]
    with products_in(subject.precision):
        for part in (part for parts in subject.data for part in parts):
            with cast(subject.precision, subject.device):
                loss = adapter.loss(subject.model, part)
            torch.autograd.grad(loss, weights)


def over(own: Callable[[Subject], object], plain: Callable[[Subject], object], goal: float, faster: float = 0.0) -> Any:
    """A row that is a multiple of a plain pass; `faster`: the goal of TF32 and bfloat16 where it is another one."""

    def row(subject: Subject) -> dict[str, Any]:
        under, spent = (seconds(partial(run, subject), subject.device) for run in (plain, own))
        wanted = goal if subject.precision == "fp32" else faster or goal
        return {"seconds": spent, "plain": under, "ratio": round(spent / under, 3), "goal": wanted}

    return row


def three_masks(pruner: str, goal: float) -> Any:
    """A row of seconds for three sparsities, statistics and the hash of the weights known."""

    def row(subject: Subject) -> dict[str, Any]:
        calibration = subject.calibration
        spent = seconds(partial(vlp_bench.prune, subject.model, pruner, SPARSITIES, calibration), subject.device)
        return {"seconds": spent, "goal": goal}

    return row


def statistics_of(subject: Subject) -> None:
    subject.calibration.norms()


def gradients_of(subject: Subject) -> None:
    subject.calibration.gradients()


def wanda(subject: Subject) -> None:
    vlp_bench.prune(subject.model, "wanda", 0.5, subject.calibration)


def itersnip(subject: Subject) -> None:
    vlp_bench.prune(subject.model, "itersnip", 0.75, subject.calibration, options={"steps": STEPS})


def backward_each_step(subject: Subject) -> None:
    for _ in range(STEPS):
        backward(subject)


def chita(subject: Subject) -> dict[str, Any]:
    """Seconds with few batches and with more, and what these let expect of as many as the papers have."""
    measured = {}
    for count in FEW:
        data = subject.data * (count // len(subject.data))
        calibration = Calibration(subject.model, data, precision=subject.precision)
        run = partial(vlp_bench.prune, subject.model, "chita", 0.75, calibration)
        measured[count] = seconds(run, subject.device, rounds=0)
    (few, first), (more, last) = measured.items()
    each = (last - first) / (more - few)

    def expected(batches: int) -> float:
        return first + (batches - few) * each

    found = {"measured": measured, "seconds": expected(500), "goal": 500, "chita_pp": 60 * expected(50)}
    return found | {"chita_pp_goal": 2500}


def sort(subject: Subject) -> dict[str, Any]:
    """torch's sort of all |w|, laid side by side."""
    names = adapter_for(subject.model).prunable(subject.model)
    sizes = torch.cat([subject.model.get_parameter(name).detach().abs().flatten() for name in names])
    return {"seconds": seconds(sizes.sort, subject.device)}


def tamt(subject: Subject) -> None:
    vlp_bench.prune(subject.model, "tamt", 0.75, subject.calibration)


def rate(subject: Subject) -> dict[str, Any]:
    """TFLOP/s of a product of two square matrices, the ceiling of what passes may reach."""
    size = 8192 if subject.device.type == "cuda" else 256
    a, b = (torch.randn(size, size, device=subject.device) for _ in range(2))

    def product() -> None:
        with products_in(subject.precision), cast(subject.precision, subject.device):
            _ = a @ b

    spent = seconds(product, subject.device)
    return {"seconds": spent, "tflops": round(2 * size**3 / spent / 1e12, 3)}


ROWS: dict[str, tuple[Any, bool]] = {  # and whether it is measured in every precision
    "rate": (rate, True),
    "multiflow": (over(statistics_of, forward, 1.10, 1.25), True),
    "snip": (over(gradients_of, backward, 1.05), True),
    "wanda": (over(wanda, forward, 2.2), False),
    "itersnip": (over(itersnip, backward_each_step, 1.05), False),
    "tamt": (over(tamt, backward, 1.15), False),
    "chita": (chita, False),
    "sort": (sort, False),
    "three_omp": (three_masks("omp", 0.15), False),
    "three_lamp": (three_masks("lamp", 0.3), False),
    "three_multiflow": (three_masks("multiflow", 0.3), False),
}


def table(names: Sequence[str], device: torch.device, *, small: bool) -> list[dict[str, Any]]:
    """Every row that was asked for, of both models."""
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    rows = []
    for name in ("xvlm", "blip"):
        model = built(name, device, small=small)
        count = 2 if small else 32
        data = [[batch(model, count, 2 * i, device), batch(model, count, 2 * i + 1, device)] for i in range(2)]
        for work in names:
            measure, in_all = ROWS[work]
            for precision in get_args(Precision) if in_all else ("fp32",):
                if precision == "tf32" and device.type != "cuda":
                    continue
                found = measure(Subject(name, model, data, device, precision))
                rows.append({"work": work, "model": name, "precision": precision, "card": card} | found)
                print(say(rows[-1]), flush=True)
    return rows


def say(row: dict[str, Any]) -> str:
    """A row in words."""
    goal = f" (goal {row['goal']:g})" if "goal" in row else ""
    times = f", {row['ratio']:.2f} plain passes" if "ratio" in row else ""
    rate = f", {row['tflops']:.1f} TFLOP/s" if "tflops" in row else ""
    more = f"; CHITA++ {row['chita_pp']:.0f} s (goal {row['chita_pp_goal']:g})" if "chita_pp" in row else ""
    return f"  {row['work']:16s}{row['model']:6s}{row['precision']:6s}{row['seconds']:9.4f} s{times}{rate}{goal}{more}"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"rows: {', '.join(ROWS)}; none: all")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="tiny models and batches")
    parser.add_argument("--json", type=Path, help="where rows are appended, a line of JSON for each")
    args = parser.parse_args(argv)
    if args.device == "cuda" and not torch.cuda.is_available():
        print("no GPU: nothing was measured (--device cpu --small runs the same code on the processor)")
        return
    rows = table(args.names or list(ROWS), torch.device(args.device), small=args.small)
    if args.json:
        with args.json.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)


if __name__ == "__main__":
    sys.exit(main())
