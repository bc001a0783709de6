"""How a fine-tuning step is taken: batches that add up, who decays, and the learning rate over time."""

import math
from collections.abc import Callable
from functools import partial

from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

SCHEDULES = ("linear", "cosine")
MOST_TRIED, MOST_SHOWN = 10_000, 12  # of the numbers that divide a batch


class Diverged(ValueError):
    """A loss that is no longer a number: the training is lost from here on."""


def finite(scores: Tensor) -> Tensor:
    """The scores. Diverged if one is not a number."""
    if not bool(scores.isfinite().all()):
        raise Diverged("the model gives scores that are not numbers: its weights are broken; lower task.lr")
    return scores


def accumulation(target: int, per_device: int, devices: int = 1, nodes: int = 1) -> int:
    """Batches to accumulate so that one optimiser step sees `target` examples over all devices.

    Raises:
        ValueError: a count is below 1, or `target` is no multiple of what one step of all devices holds.
    """
    counts = {"target": target, "per_device": per_device, "devices": devices, "nodes": nodes}
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} must be at least 1, got {count}")
    world = devices * nodes
    if target % (per_device * world):
        raise ValueError(_misfit(target, per_device, world))
    return target // (per_device * world)


def _misfit(target: int, per_device: int, world: int) -> str:
    given = f"a target batch of {target} cannot be made of {per_device} examples on each of {world} device(s)"
    if target % world:
        near = max(world, target // world * world)
        return f"{given}: {world} devices share only multiples of {world}; try a target of {near}"
    share = target // world
    small = [n for n in range(1, min(math.isqrt(share), MOST_TRIED) + 1) if share % n == 0]
    fit = sorted({*small, *(share // n for n in small)})
    near = sorted(sorted(fit, key=lambda n: abs(n - per_device))[:MOST_SHOWN])
    return f"{given}; a batch per device that fits is {'one of ' if len(near) > 1 else ''}{', '.join(map(str, near))}"


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Parameter groups for AdamW: matrices decay; biases, norms and single numbers (below two dimensions) do not."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def warmed(step: int, *, total: int, warmup: int, schedule: str) -> float:
    """Share of the peak learning rate at optimiser step `step` of `total`.

    Rises linearly over the first `warmup` steps, then falls to 0 at `total`, along a line or half a cosine.
    """
    if step < warmup:
        return step / warmup
    done = min(1.0, (step - warmup) / max(1, total - warmup))
    return 1.0 - done if schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))


def warmed_adamw(
    model: nn.Module,
    *,
    lr: float,
    betas: tuple[float, float],
    weight_decay: float,
    schedule: str,
    warmup: float,
    total: int,
    fused: bool = False,
) -> tuple[AdamW, LambdaLR]:
    """The optimiser of the papers' fine-tuning and its learning rate; `warmup` is a share of the `total` steps."""
    optimiser = AdamW(decay_groups(model, weight_decay), lr=lr, betas=betas, fused=fused or None)
    rate: Callable[[int], float] = partial(warmed, total=total, warmup=round(warmup * total), schedule=schedule)
    return optimiser, LambdaLR(optimiser, rate)


def check_recipe(*, lr: float, betas: tuple[float, float], weight_decay: float, schedule: str, warmup: float) -> None:
    """Raise ValueError, saying what is allowed, if the optimiser cannot be built from these."""
    if not 0 < lr < math.inf:
        raise ValueError(f"lr must be a positive number, got {lr}")
    if len(betas) != 2 or not all(0 <= b < 1 for b in betas):
        raise ValueError(f"betas must be two numbers in [0, 1), got {list(betas)}")
    if not 0 <= weight_decay < math.inf:
        raise ValueError(f"weight_decay must be 0 or more, got {weight_decay}")
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)}, got {schedule!r}")
    if not 0 <= warmup < 1:
        raise ValueError(f"warmup is a share of the steps in [0, 1), got {warmup}")
