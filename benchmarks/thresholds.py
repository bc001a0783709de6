"""Thresholds over many layers without laying them side by side, against concatenate and `torch.kthvalue`; LAMP's too.

    python benchmarks/thresholds.py [--weights 184] [--rounds 3] [--part all|thresholds|lamp]

Goals: for 184 million weights 10 times faster, for one sparsity and for three, over the whole model, by modality and by
layer; the same masks; at most 100 MiB extra. LAMP, budgets and masks: 15 times faster than sort, cumulative sum,
scatter and `kthvalue`; the masks of the sorted float64 definition. `kthvalue` is a quick select, whose time depends on
the numbers and on the rank.
"""

from __future__ import annotations

import argparse
import resource
from itertools import pairwise
from statistics import median

import torch
from support.measure import interleaved, ratio
from support.models import DEVICE
from torch import Tensor

from vlp_bench.pruning.scores import share_of_rest
from vlp_bench.pruning.selection import lamp_order as rest
from vlp_bench.pruning.selection.thresholds import keep_largest, kept_per_layer

SPARSITIES = [0.63, 0.75, 0.9]
BLOCK = [(768, 768)] * 4 + [(3072, 768), (768, 3072)]  # 7.1 million weights
MODALITIES = 0.46, 0.69, 1.0  # where vision, text and fusion end, as in XVLM
Scores = dict[str, Tensor]


def peak_mib() -> float:
    """Highest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def parts_of(scores: Scores) -> dict[str, list[Scores]]:
    """What competes with what: everything, the layers of a modality, or each layer's weights among themselves."""
    names = list(scores)
    ends = [0, *(round(end * len(names)) for end in MODALITIES)]
    modalities = [names[a:b] for a, b in pairwise(ends) if a < b]
    groups = {"model": [names], "modality": modalities, "layer": [[name] for name in names]}
    return {what: [{name: scores[name] for name in own} for own in parts] for what, parts in groups.items()}


def ours(parts: list[Scores], sparsities: list[float]) -> list[list[dict[str, int]]]:
    """Per part and sparsity what each layer keeps."""
    found = []
    for part in parts:
        total = sum(score.numel() for score in part.values())
        thunks = {name: lambda score=score: score for name, score in part.items()}
        found.append(kept_per_layer(thunks, [round((1 - s) * total) for s in sparsities]))
    return found


def concatenated(parts: list[Scores], sparsities: list[float]) -> list[list[Tensor]]:
    """Per part and sparsity the largest score that goes."""
    found = []
    for part in parts:
        total = sum(score.numel() for score in part.values())
        removed = [total - round((1 - s) * total) for s in sparsities]
        found.append([torch.cat([s.flatten() for s in part.values()]).kthvalue(k).values for k in removed])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--weights", type=float, default=184, help="millions")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--part", choices=["all", "thresholds", "lamp"], default="all")
    args = parser.parse_args()
    torch.manual_seed(0)
    shapes = BLOCK * max(1, round(args.weights * 1e6 / 7077888))
    scores = {str(i): torch.randn(shape, device=DEVICE).abs_() for i, shape in enumerate(shapes)}
    total = sum(score.numel() for score in scores.values())
    print(f"{total / 1e6:.1f} M scores in {len(scores)} layers, {torch.get_num_threads()} thread(s)")
    if args.part != "lamp":
        compete(scores, args.rounds)
    if args.part != "thresholds":
        lamp(scores, round((1 - SPARSITIES[-1]) * total), args.rounds)


def compete(scores: Scores, rounds: int) -> None:
    """Prints how much faster thresholds are found, and whether the masks are the same."""
    parts = parts_of(scores)
    before = peak_mib()
    for what in parts:
        ours(parts[what], SPARSITIES)
    extra = peak_mib() - before
    for what, own in parts.items():
        for name, wanted in {"one sparsity": SPARSITIES[-1:], "three sparsities": SPARSITIES}.items():
            runs = {"kthvalue": lambda o=own, w=wanted: concatenated(o, w), "ours": lambda o=own, w=wanted: ours(o, w)}
            found = interleaved(runs, rounds, warm_up=0)
            faster = ratio(found["kthvalue"], found["ours"])
            spent = ", ".join(f"{run} {median(seconds):.3f} s" for run, seconds in found.items())
            print(f"  by {what}, {name}: {faster:.1f} times faster (goal 10); {spent}")
    print(f"  extra memory {extra:.0f} MiB (goal 100 or less)")
    same = 0
    for own in parts.values():
        for part, (kept,), (threshold,) in zip(
            own, ours(own, SPARSITIES[-1:]), concatenated(own, SPARSITIES[-1:]), strict=True
        ):
            differ = {n: keep_largest(score, kept[n]) != (score > threshold) for n, score in part.items()}
            same += all(bool((part[name][where] == threshold).all()) for name, where in differ.items())
    print(f"  groups with the same masks, but for ties at the threshold: {same} of {sum(map(len, parts.values()))}")


def lamp(weights: dict[str, Tensor], kept: int, rounds: int) -> None:
    """Prints how much faster LAMP is than with a sort, and whether a layer's mask is that of the definition."""
    total = sum(w.numel() for w in weights.values())

    def binned() -> dict[str, Tensor]:
        memory = {}
        budgets = rest.kept_per_layer({n: lambda n=n: weights[n] for n in weights}, kept, memory=memory)
        return {name: rest.keep_largest(w, budgets[name], name=name, memory=memory) for name, w in weights.items()}

    def by_sorting() -> list[Tensor]:
        scores = []
        for w in weights.values():
            squares, order = w.flatten().square().sort()
            shares = squares / (squares.sum() - squares.cumsum(0) + squares)
            scores.append(torch.empty_like(squares).scatter_(0, order, shares))
        threshold = torch.cat(scores).kthvalue(total - kept).values
        return [score > threshold for score in scores]

    found = interleaved({"LAMP, bins": binned, "LAMP, sorted": by_sorting}, rounds, warm_up=0)
    for name, spent in found.items():
        print(f"  {name:27s} {median(spent):7.3f} s")
    print(f"  {ratio(found['LAMP, sorted'], found['LAMP, bins']):.1f} times faster (goal 15)")
    masks = binned()
    differ = 0
    for name, w in weights.items():
        differ += int((keep_largest(share_of_rest(w), int(masks[name].sum())) != masks[name]).sum())
    print(f"  kept {sum(int(m.sum()) for m in masks.values())} of {kept}; entries unlike the definition's: {differ}")


if __name__ == "__main__":
    main()
