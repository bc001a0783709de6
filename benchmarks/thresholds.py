"""Thresholds over many layers without laying them side by side, against concatenate and `torch.kthvalue`.

    python benchmarks/thresholds.py [--weights 184] [--rounds 3]

Goals: for 184 million weights 10 times faster, for one sparsity and for three, over the whole model, by modality and by
layer; the same masks; at most 100 MiB extra. `kthvalue` is a quick select, whose time depends on the numbers and on
the rank. A kernel's figures: those of whole calls are in `whole_calls.py`.
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
    args = parser.parse_args()
    torch.manual_seed(0)
    shapes = BLOCK * max(1, round(args.weights * 1e6 / 7077888))
    scores = {str(i): torch.randn(shape, device=DEVICE).abs_() for i, shape in enumerate(shapes)}
    total = sum(score.numel() for score in scores.values())
    print(f"{total / 1e6:.1f} M scores in {len(scores)} layers, {torch.get_num_threads()} thread(s)")
    compete(scores, args.rounds)


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


if __name__ == "__main__":
    main()
