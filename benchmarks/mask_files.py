"""What masks and packed sparse checkpoints take on disk, and the seconds to write and read them.

    python benchmarks/mask_files.py [--size shipped|small|paper] [--pruners random,omp,multiflow]

Goals: plain mask files at most 1.02 bit a weight, compact ones at most 1.05 times the masks' entropy (each layer's
density known), packed fp32 checkpoints of the pruned layers at most 0.53 byte a weight at 90 %, back bit for bit. The
sizes are those of whole files, headers included. `shipped` is the small XVLM of the package, `paper` one of 184 M.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from support.models import batch, xvlm
from torch import Tensor, nn

import vlp_bench
from vlp_bench import Batch, Calibration, Solution
from vlp_bench.models.checkpoints.read_write import load_model
from vlp_bench.pruning.masks import packed_checkpoint as packed
from vlp_bench.pruning.masks.bit_packing import entropy

SHIPPED = "pkg://vlp_bench/assets/xvlm_shapes.safetensors"
SPARSITIES = (0.63, 0.75, 0.9)
PLAIN, COMPACT, PACKED = 1.02, 1.05, 0.53


def model_and_batch(size: str) -> tuple[nn.Module, Batch]:
    """The model, and four random images with captions for it."""
    if size != "shipped":
        return xvlm(size), batch(size, 4, 0)
    model: Any = load_model(SHIPPED)
    g, side = torch.Generator().manual_seed(0), model.config.image_size
    ids = torch.randint(5, model.config.vocab_size, (4, 12), generator=g)
    return model, Batch(torch.randn(4, 3, side, side, generator=g), ids, torch.ones(4, 12, dtype=torch.long))


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    started = time.perf_counter()
    found = call()
    return found, time.perf_counter() - started


def same_bits(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> bool:
    return all(found[name].view(torch.int32).equal(tensor.view(torch.int32)) for name, tensor in wanted.items())


def show(name: str, solution: Solution, dense: dict[str, Tensor], folder: Path) -> None:
    """One line for the masks of one pruner at one sparsity."""
    masks, total = solution.masks, solution.total
    plain = solution.save(folder / "plain").stat().st_size * 8 / total
    path, writing = timed(lambda: solution.save(folder / "compact", "compact"))
    back, reading = timed(lambda: Solution.load(path))
    assert all(back.masks[layer].equal(mask) for layer, mask in masks.items())
    bits, least = path.stat().st_size * 8 / total, entropy(list(masks.values())) / total
    weights = {layer: dense[layer].cpu().masked_fill(~mask.cpu(), 0) for layer, mask in masks.items()}
    sizes = []
    for form in ("plain", "compact"):
        path = packed.write(folder / "packed", weights, form=form)
        assert same_bits(packed.read(path)[0], weights)
        sizes.append(path.stat().st_size / total)
    marks = [plain <= PLAIN, bits <= COMPACT * least, solution.sparsity < 0.895 or max(sizes) <= PACKED]
    print(
        f"{name:10s} {solution.sparsity:5.2f}  {plain:7.4f}  {bits:8.4f} {least:8.4f} {bits / least:6.3f}"
        f"  {sizes[0]:8.4f} {sizes[1]:8.4f}  {writing:6.2f} {reading:6.2f}  {'ok' if all(marks) else 'GOAL MISSED'}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--size", choices=["shipped", "small", "paper"], default="shipped")
    parser.add_argument("--pruners", default="random,omp,multiflow")
    args = parser.parse_args()
    model, content = model_and_batch(args.size)
    calibration, dense = Calibration(model, [content]), {n: p.detach() for n, p in model.named_parameters()}
    print(f"XVLM {args.size}, {calibration.total:,} prunable weights; goals {PLAIN}, {COMPACT} and (at 0.9) {PACKED}")
    print("                     plain   compact  entropy  ratio    packed, bytes/w    compact, s")
    print("pruner      spars.  bits/w    bits/w   bits/w           plain  compact   write   read")
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        for name in args.pruners.split(","):
            solutions: Any = vlp_bench.prune(model, name, SPARSITIES, calibration)
            for solution in solutions.values():
                show(name, solution, dense, Path(folder))


if __name__ == "__main__":
    main()
