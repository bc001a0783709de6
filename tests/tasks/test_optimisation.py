"""The recipe of a step: worked by hand, and against torch's own schedules."""

import math

import pytest
import torch
from torch import nn

from vlp_bench.tasks.optimisation import accumulation, check_recipe, decay_groups, warmed, warmed_adamw

RECIPE = {"lr": 3e-5, "betas": (0.9, 0.98), "weight_decay": 0.01, "schedule": "linear", "warmup": 0.1}


@pytest.mark.parametrize(
    "target, per_device, devices, nodes, batches",
    [(128, 32, 4, 1, 1), (128, 8, 2, 2, 4), (48, 48, 1, 1, 1), (6, 1, 1, 1, 6)],
)
def test_accumulation_fills_the_target(target: int, per_device: int, devices: int, nodes: int, batches: int) -> None:
    assert accumulation(target, per_device, devices, nodes) == batches


def test_accumulation_names_the_batches_that_fit() -> None:
    with pytest.raises(ValueError, match=r"128 cannot be made of 48 .* fits is one of 1, 2, 4, 8, 16, 32, 64$"):
        accumulation(128, 48, devices=2)


def test_accumulation_names_the_target_that_fits_the_devices() -> None:
    with pytest.raises(ValueError, match=r"multiples of 3; try a target of 126$"):
        accumulation(128, 1, devices=3)


@pytest.mark.parametrize("name", ["target", "per_device", "devices", "nodes"])
def test_accumulation_refuses_zero(name: str) -> None:
    counts = {"target": 8, "per_device": 2, "devices": 1, "nodes": 1} | {name: 0}
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        accumulation(**counts)


def test_biases_norms_and_numbers_do_not_decay() -> None:
    model = nn.Module()
    model.linear, model.norm, model.words = nn.Linear(3, 2), nn.LayerNorm(2), nn.Embedding(4, 2)
    model.temp = nn.Parameter(torch.tensor(0.07))
    model.frozen = nn.Parameter(torch.zeros(2, 2), requires_grad=False)
    decayed, kept = decay_groups(model, 0.01)
    names = {id(p): n for n, p in model.named_parameters()}
    assert {names[id(p)] for p in decayed["params"]} == {"linear.weight", "words.weight"}
    assert {names[id(p)] for p in kept["params"]} == {"linear.bias", "norm.weight", "norm.bias", "temp"}
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.01, 0.0)


def test_a_tied_weight_is_in_one_group_once() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    assert sum(len(group["params"]) for group in decay_groups(model, 0.1)) == 3


def test_the_rate_rises_then_falls_along_a_line() -> None:
    rates = [warmed(step, total=10, warmup=2, schedule="linear") for step in range(12)]
    assert rates == pytest.approx([0, 0.5, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8, 0, 0])


def test_the_cosine_is_half_way_at_half_time() -> None:
    rates = [warmed(step, total=8, warmup=0, schedule="cosine") for step in (0, 2, 4, 8)]
    assert rates == pytest.approx([1, (1 + math.sqrt(0.5)) / 2, 0.5, 0])


def test_no_step_left_after_the_warm_up_is_no_division_by_zero() -> None:
    assert warmed(1, total=1, warmup=1, schedule="linear") == 1.0


def test_the_optimiser_follows_the_schedule() -> None:
    model = nn.Linear(2, 2)
    optimiser, schedule = warmed_adamw(model, **RECIPE, total=20)
    rates = []
    for _ in range(20):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()
    assert rates == pytest.approx([3e-5 * warmed(s, total=20, warmup=2, schedule="linear") for s in range(20)])
    assert optimiser.defaults["betas"] == (0.9, 0.98)


def test_fused_steps_are_the_same_but_for_rounding() -> None:
    weights = []
    for fused in (False, True):
        model = nn.Linear(3, 3)
        nn.init.ones_(model.weight)
        optimiser, _ = warmed_adamw(model, **RECIPE | {"lr": 0.1, "warmup": 0.0}, total=20, fused=fused)
        assert bool(optimiser.defaults["fused"]) is fused
        for step in range(3):
            model.weight.grad = torch.arange(9.0).reshape(3, 3) - step
            optimiser.step()
        weights.append(model.weight.detach())
    torch.testing.assert_close(weights[0], weights[1])
    assert (weights[0] - 1).abs().min() > 0.05


@pytest.mark.parametrize(
    "given, message",
    [
        ({"lr": 0.0}, "lr must be a positive number, got 0.0"),
        ({"lr": float("nan")}, "lr must be"),
        ({"betas": (0.9, 1.0)}, r"betas must be two numbers in \[0, 1\)"),
        ({"weight_decay": -1.0}, "weight_decay must be 0 or more, got -1.0"),
        ({"schedule": "step"}, "one of linear, cosine, got 'step'"),
        ({"warmup": 1.0}, r"in \[0, 1\), got 1.0"),
    ],
)
def test_a_recipe_out_of_range_is_refused(given: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_recipe(**(RECIPE | given))
