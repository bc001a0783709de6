"""Parameters, FLOPs and time of X-VLM and BLIP at the paper's sizes, before and after whole units are cut out.

    python benchmarks/smaller.py xvlm|blip [ROUNDS]

Weights are random: they decide which units go, not what the smaller model costs. One thread; time is that of the
processor, which other work on the machine doesn't add to, of one forward pass as calibration makes it (image, text and
both together), the median of rounds in which all models take turns. Batches of 1 and 8, captions of 30 tokens.
"""

import copy
import sys
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from support.measure import interleaved

import vlp_bench
from vlp_bench.batch import Batch
from vlp_bench.models.blip.model import BLIP
from vlp_bench.models.blip.towers import BLIPConfig
from vlp_bench.models.xvlm.model import XVLM
from vlp_bench.models.xvlm.towers import XVLMConfig
from vlp_bench.pruning.structured.forward_cost import forward_costs
from vlp_bench.pruning.structured.materialise import materialised

MODELS = {"xvlm": lambda: XVLM(XVLMConfig()), "blip": lambda: BLIP(BLIPConfig())}
SPARSITIES, BATCHES, TOKENS = (0.3, 0.5), (1, 8), 30


def smaller(model: Any, sparsity: float) -> tuple[Any, float, float]:
    """The model cut down, the sparsity of its mask, and how far its image states are from the masked model's."""
    solution = vlp_bench.prune(model, "magnitude_sp", sparsity)
    masked = copy.deepcopy(model)
    solution.install(masked)
    small = materialised(masked, solution.masks)
    images = batch(model, 1).images
    with torch.no_grad():
        apart = (masked.encode_image(images) - small.encode_image(images)).abs().max()
    return small, solution.sparsity, float(apart)


def batch(model: Any, rows: int) -> Batch:
    """Noise of the model's sizes."""
    size = model.config.image_size
    ids = torch.randint(5, model.config.vocab_size, (rows, TOKENS))
    return Batch(torch.randn(rows, 3, size, size), ids, torch.ones_like(ids))


def milliseconds(models: list[Any], data: Batch, rounds: int) -> list[float]:
    """The median of each."""
    runs = {str(i): lambda model=model: model.adapter.encode(model, data) for i, model in enumerate(models)}
    return [1000 * median(own) for own in interleaved(runs, rounds, warm_up=0).values()]


def encoding(data: Batch) -> Callable[[Any], None]:
    """What a model is run with."""
    return lambda model: model.adapter.encode(model, data)


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    name, rounds = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 5
    model: Any = MODELS[name]().eval()
    models: list[Any] = [model]
    achieved = [0.0]
    for sparsity in SPARSITIES:
        small, found, apart = smaller(model, sparsity)
        print(f"{name} {sparsity:.0%}: sparsity {found:.4f}, image states within {apart:.1e}", flush=True)
        models.append(small)
        achieved.append(found)
    for rows in BATCHES:
        data = batch(model, rows)
        costs = forward_costs(models, encoding(data), rounds=1)
        for found, cost, spent in zip(achieved, costs, milliseconds(models, data, rounds), strict=True):
            numbers = f"{cost.parameters / 1e6:.1f} M parameters, {cost.flops / 1e9:.1f} GFLOP, {spent:.0f} ms"
            print(f"{name} batch {rows}, sparsity {found:.4f}: {numbers}", flush=True)


if __name__ == "__main__":
    main()
