"""Global thresholds over many layers: radix histograms against concatenate and `torch.kthvalue`; LAMP without a sort.

    python benchmarks/thresholds.py [--weights 184] [--rounds 3]

Goal: 10 times faster for 184 million weights, the same masks, at most 100 MiB extra.
LAMP, budgets and masks: 15 times faster than sort, cumulative sum, scatter and `kthvalue`; the masks of the sorted
float64 definition. `kthvalue` is a quick select, whose time depends on the numbers and on the rank.
"""

from __future__ import annotations

import argparse
import resource
from statistics import median

import torch
from support.measure import interleaved, ratio
from support.models import DEVICE
from torch import Tensor

from vlp_bench.pruning import rest
from vlp_bench.pruning.scores import share_of_rest
from vlp_bench.pruning.thresholds import keep_largest, kept_per_layer

SPARSITIES = [0.63, 0.75, 0.9]
BLOCK = [(768, 768)] * 4 + [(3072, 768), (768, 3072)]  # 7.1 million weights


def peak_mib() -> float:
    """Highest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=float, default=184, help="millions")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.manual_seed(0)
    shapes = BLOCK * max(1, round(args.weights * 1e6 / 7077888))
    scores = {str(i): torch.randn(shape, device=DEVICE).abs_() for i, shape in enumerate(shapes)}
    total = sum(score.numel() for score in scores.values())
    budgets = [round((1 - sparsity) * total) for sparsity in SPARSITIES]
    thunks = {name: lambda score=score: score for name, score in scores.items()}

    def radix(wanted: list[int]) -> list[dict[str, int]]:
        return kept_per_layer(thunks, wanted)

    def concatenated(wanted: list[int]) -> list[Tensor]:
        return [torch.cat([s.flatten() for s in scores.values()]).kthvalue(total - k).values for k in wanted]

    before = peak_mib()
    kept = radix(budgets)[-1]
    extra = peak_mib() - before
    (threshold,) = concatenated(budgets[-1:])
    same = all(
        bool((score[keep_largest(score, kept[name]) != (score > threshold)] == threshold).all())
        for name, score in scores.items()
    )
    runs = {
        "radix, one sparsity": lambda: radix(budgets[-1:]),
        "kthvalue, one sparsity": lambda: concatenated(budgets[-1:]),
        "radix, three sparsities": lambda: radix(budgets),
        "kthvalue, three sparsities": lambda: concatenated(budgets),
    }
    found = interleaved(runs, args.rounds, warm_up=0)
    print(f"{total / 1e6:.1f} M scores in {len(scores)} layers, {torch.get_num_threads()} thread(s)")
    for name, spent in found.items():
        print(f"  {name:27s} {median(spent):7.3f} s")
    for number in ("one sparsity", "three sparsities"):
        faster = ratio(found[f"kthvalue, {number}"], found[f"radix, {number}"])
        print(f"  {number}: {faster:.1f} times faster (goal 10)")
    print(f"  extra memory {extra:.0f} MiB (goal 100 or less)")
    print(f"  kept {sum(kept.values())} of {budgets[-1]}; same masks but for ties at the threshold: {same}")
    lamp(scores, budgets[-1], args.rounds)


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
