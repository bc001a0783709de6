"""Every pruner on the processor and on a device that isn't it; prints a JSON object: name -> what came out.

Run in a process of its own: python -m tests.pruning.on_another_device
"""

import json
from typing import Any

import torch

import vlp_bench
from benchmarks import gpu
from tests.pruning.toys import labelled, sequential
from tests.support import pretend_device
from vlp_bench.models.negatives import draw
from vlp_bench.pruning import catalogue
from vlp_bench.pruning.solution import Solution
from vlp_bench.pruning.statistics.calibration import Calibration

OPTIONS = {"ecoflap": {"allocate.keep_in": "memory"}, "chita_pp": {"steps": 2}, "itersnip": {"steps": 3}}


def compared(name: str, model: Any, data: Any, sparsity: float = 0.5) -> str:
    """ "equal", or what differs."""
    own, away = (
        vlp_bench.prune(model if here else pretend_device.moved(model), name, sparsity, data, options=OPTIONS.get(name))
        for here in (True, False)
    )
    return differs(own, away) or "equal"


def differs(own: Solution, away: Solution) -> str:
    """The first layer whose mask or new weights aren't those of the processor."""
    for name, mask in own.masks.items():
        if not mask.equal(away.masks[name].cpu()):
            return f"the mask of {name}"
    for name, weight in own.weights.items():
        if not torch.allclose(weight, away.weights[name].cpu(), atol=1e-5):
            return f"the weights of {name}"
    return ""


def waits(model: Any, batches: int) -> int:
    """How often MULTIFLOW's statistics of so many batches, which lie on the device, make the program wait."""
    device = torch.device(pretend_device.DEVICE)
    data = [[gpu.batch(model, 2, 2 * i, device), gpu.batch(model, 2, 2 * i + 1, device)] for i in range(batches)]
    calibration = Calibration(model, data)
    pretend_device.waits.clear()
    calibration.norms()
    return pretend_device.waits.total()


def drawn(device: torch.device) -> list[int]:
    """The negatives of 64 rows, drawn with one seed."""
    weights = torch.rand(64, 64, generator=torch.Generator().manual_seed(0)).to(device)
    torch.manual_seed(5)
    return draw(weights).tolist()


def main() -> None:
    library, found = pretend_device.install(), {}
    for name in catalogue.names():
        try:
            found[name] = compared(name, sequential(), labelled())
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"
    for name in ("xvlm", "blip"):
        model = gpu.built(name, torch.device("cpu"), small=True)
        data = [[gpu.batch(model, 2, 0, torch.device("cpu")), gpu.batch(model, 2, 1, torch.device("cpu"))]]
        found[f"{name}, multiflow"] = compared("multiflow", model, data, 0.9)
        found[f"{name}, waits"] = [waits(model, batches) for batches in (2, 4)]
    found["draws"] = drawn(torch.device("cpu")) == drawn(torch.device(pretend_device.DEVICE))
    print(json.dumps(found))
    del library


if __name__ == "__main__":
    main()
