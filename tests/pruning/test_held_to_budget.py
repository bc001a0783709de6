"""Allocators, solvers and scores that don't do what they were asked for are refused by name."""

from functools import partial

import numpy as np
import pytest
import torch

from tests.pruning.toys import TwoModalities, labelled, sequential
from vlp_bench.batch import Place
from vlp_bench.pruning import catalogue
from vlp_bench.pruning.allocation.global_threshold import GlobalThreshold
from vlp_bench.pruning.allocation.uniform import Dense, GlobalBudget, Uniform
from vlp_bench.pruning.pruner import Pruner
from vlp_bench.pruning.schedule import exponential
from vlp_bench.pruning.scores import inverted, magnitude, snip
from vlp_bench.pruning.solution import Solved
from vlp_bench.pruning.solvers.chita.solver import Chita
from vlp_bench.pruning.solvers.keep_top import KeepTop
from vlp_bench.pruning.solvers.sparsegpt import SparseGPT
from vlp_bench.pruning.statistics.calibration import Calibration

SIZES = {"0.weight": 60, "2.weight": 70, "4.weight": 21}


def pruner(**parts):
    return Pruner(**{"allocate": Uniform(), "solve": KeepTop(magnitude), **parts})


def giving(**counts):
    """An allocator named `trial`: half of every layer, but for the counts given (by the first word of the name)."""

    def trial(calibration, sparsity):
        half = {name: round(layer.size / 2) for name, layer in calibration.layers.items()}  # 30, 35, 10 of 151
        return half | {f"{name.strip('l')}.weight": count for name, count in counts.items()}

    return trial


@pytest.mark.parametrize(
    "counts, told",
    [
        ({"l4": 20}, r"trial was asked for 76 of 151 weights \(sparsity 0.5\) and gives 85 \(sparsity 0.4371\)"),
        ({"l4": 10}, r"trial was asked for 76 of 151 weights .* and gives 75"),
        ({"l0": 61, "l4": 0}, r"trial gives '0.weight' 61 of its 60 weights"),
        ({"l0": -1}, "trial gives '0.weight' -1 of its 60 weights"),
        ({"l0": 30.0}, "trial gives '0.weight' 30.0 of its 60 weights: a whole number"),
        ({"l0": None}, "trial gives '0.weight' None"),
        ({"l9": 1}, "trial gives '9.weight' 1 of its 0 weights"),
    ],
)
def test_an_allocator_is_held_to_the_sparsity(counts, told):
    with pytest.raises(ValueError, match=told):
        pruner(allocate=giving(**counts)).prune(sequential(), 0.5)


def test_an_allocator_that_adds_up_is_nobody_s_business():
    model = sequential()
    found = pruner(allocate=giving(l4=np.int64(11))).prune(model, 0.5)
    assert [int(mask.sum()) for mask in found.masks.values()] == [30, 35, 11]
    with pytest.raises(ValueError, match=r"partial_budget gives '2.weight' None"):
        pruner(allocate=partial_budget).prune(model, 0.5)


def partial_budget(calibration, sparsity):
    return {"0.weight": 60, "4.weight": 16}


class TwoBlocks(TwoModalities):
    def place(self, name):
        return Place("vision", "a" if name.startswith("0") else "b")


@pytest.mark.parametrize(
    "allocate, asked, given",
    [
        (Dense(), 0.5, 151),
        (Uniform(), 0.5, 30 + 35 + 10),
        (Uniform(compat="official"), 0.5, 30 + 35 + 11),
        (GlobalThreshold(magnitude), 0.5, 76),
        (GlobalThreshold(magnitude, "layer"), 0.5, 75),
        (GlobalBudget(compat="official"), 0.63, int((1 - 0.63) * 151)),
        (GlobalBudget(compat="official", truncate="removed"), 0.63, 151 - int(0.63 * 151)),
    ],
)
def test_our_allocators_say_what_they_may_give(allocate, asked, given):
    calibration = Calibration(sequential(), None, TwoBlocks())
    assert allocate.may_give(calibration, asked) == range(given, given + 1)
    assert sum(allocate(calibration, asked).values()) == given


def test_released_thresholds_may_lose_ties_and_ratios_gain_a_weight_each():
    calibration = Calibration(sequential(), None, TwoBlocks())
    assert GlobalThreshold(magnitude, compat="official").may_give(calibration, 0.5) == range(77)
    ratios = GlobalThreshold(magnitude, compat="official", hand_over="ratios")
    assert ratios.may_give(calibration, 0.5) == range(77 + 3)


def losing(calibration, budgets):
    """A solver that keeps one weight too few of the second layer."""
    solved = KeepTop(magnitude)(calibration, budgets)
    mask = solved.masks["2.weight"]
    mask.view(-1)[mask.view(-1).nonzero()[0]] = False
    return solved


def forgetting(calibration, budgets):
    solved = KeepTop(magnitude)(calibration, budgets)
    return Solved({name: mask for name, mask in solved.masks.items() if name != "4.weight"}, {})


def adding(calibration, budgets):
    """A solver with a mask of a layer that nobody asked it for."""
    masks = KeepTop(magnitude)(calibration, budgets).masks
    return Solved(masks | {"head.weight": torch.ones(3, 3, dtype=torch.bool)}, {})


def floating(calibration, budgets):
    solved = KeepTop(magnitude)(calibration, budgets)
    return Solved({name: mask.float() for name, mask in solved.masks.items()}, {})


def transposing(calibration, budgets):
    return Solved({name: mask.t() for name, mask in KeepTop(magnitude)(calibration, budgets).masks.items()}, {})


@pytest.mark.parametrize(
    "solve, told",
    [
        (losing, "losing keeps 34 of 70 weights of '2.weight', its budget is 35"),
        (forgetting, r"forgetting gives '4.weight' no mask of torch.bool \(3, 7\), but None"),
        (adding, "adding gives a mask of 'head.weight', which has no budget"),
        (floating, r"floating gives '0.weight' no mask of torch.bool \(10, 6\), but torch.float32 \(10, 6\)"),
        (transposing, r"transposing gives '0.weight' no mask of torch.bool \(10, 6\), but torch.bool \(6, 10\)"),
    ],
)
@pytest.mark.parametrize("steps", [1, 2])
def test_a_solver_is_held_to_its_budgets(solve, told, steps):
    model = sequential()
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(ValueError, match=told if steps == 1 else solve.__name__):
        pruner(solve=solve, schedule=partial(exponential, steps=steps)).prune(model, 0.5)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_our_solvers_say_what_they_may_keep():
    layer = Calibration(sequential(), None, TwoModalities()).layers["2.weight"]  # (7, 10)
    assert KeepTop(magnitude).may_keep(layer, 30) == range(30, 31)
    assert KeepTop(magnitude, compat="official").may_keep(layer, 30) == range(31)  # less by ties
    assert KeepTop(magnitude, "matrix", "official").may_keep(layer, 30) == range(30)
    assert KeepTop(magnitude, "output", "official").may_keep(layer, 30) == range(35, 36)  # 5 in each of 7 rows
    assert SparseGPT(compat="official", block_size=4).may_keep(layer, 30) == range(
        11 + 11 + 5 + 1
    )  # 4, 4 and 2 columns
    assert Chita().may_keep(layer, 30) == range(71)
    assert Chita().may_keep_in_all(30) == range(30, 31)


def test_a_solver_that_shares_the_budget_out_is_held_to_the_sum():
    class Generous(Chita):
        def __call__(self, calibration, budgets):
            solved = super().__call__(calibration, budgets)
            solved.masks["0.weight"].fill_(True)
            return solved

    with pytest.raises(ValueError, match=r"Generous keeps \d+ weights in all, the budget is 75"):
        pruner(solve=Generous(block_size=20)).prune(sequential(), 0.5, labelled())


# Scores


def per_output(layer, calibration):
    return layer.matrix.abs().sum(1)


def turned(layer, calibration):
    return layer.matrix.abs().t()


def nothing(layer, calibration):
    layer.matrix.abs()


def numbers(layer, calibration):
    return layer.matrix.abs().numpy()


def whole(layer, calibration):
    return (layer.matrix * 10).long()


def undefined(layer, calibration):
    return layer.matrix.clone().index_fill_(0, torch.tensor([1]), float("nan"))


def in_place(layer, calibration):
    return layer.matrix.abs_()


def in_place_and_lost(layer, calibration):
    layer.matrix.mul_(2)
    raise ZeroDivisionError


@pytest.mark.parametrize(
    "score, told",
    [
        (per_output, r"the score per_output returns shape \(10,\) for '0.weight': .* of shape \(10, 6\)"),
        (turned, r"the score turned returns shape \(6, 10\) for '0.weight'"),
        (nothing, "the score nothing returns None for '0.weight'"),
        (numbers, "the score numbers returns ndarray for '0.weight'"),
        (whole, "the score whole returns torch.int64 for '0.weight'"),
        (undefined, "the score undefined returns NaN for '0.weight'"),
        (in_place, "the score in_place changes the weight in place for '0.weight'"),
        (partial(inverted, score=in_place), "the score inverted changes the weight in place for '0.weight'"),
    ],
)
@pytest.mark.parametrize("schedule", [lambda s: [s], partial(exponential, steps=2)])
@pytest.mark.parametrize("competes", [True, False])
def test_a_score_of_the_wrong_kind_is_refused_and_the_model_stays(score, told, schedule, competes):
    model = sequential()
    before = [p.detach().clone() for p in model.parameters()]
    allocate = GlobalThreshold(score) if competes else Uniform()
    with pytest.raises(ValueError, match=told):
        pruner(allocate=allocate, solve=KeepTop(score), schedule=schedule).prune(model, 0.5)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_a_score_that_fails_half_way_leaves_the_model_as_it_was():
    model = sequential()
    before = model[0].weight.detach().clone()
    with pytest.raises(ZeroDivisionError):
        pruner(solve=KeepTop(in_place_and_lost)).prune(model, 0.5)
    assert model[0].weight.equal(before)


def test_infinite_scores_and_the_weight_itself_are_fine():
    def endless(layer, calibration):
        return layer.matrix.clone().fill_(torch.inf).index_fill_(0, torch.tensor([0]), -torch.inf)

    masks = pruner(solve=KeepTop(endless)).prune(sequential(), 0.5).masks
    assert not masks["0.weight"][0].any()
    assert pruner(solve=KeepTop(lambda layer, calibration: layer.matrix)).prune(sequential(), 0.5).kept == 75


# The pruner's own fields


def test_a_pruner_takes_its_own_fields_alone():
    fields = "allocate, solve, schedule, sweep, tokens, values, name, modality, num_batches, batches_per_step, seed"
    for given in ({"ridge": 7.0}, {"granularity": "nonsense"}, {"compat": "official"}):
        with pytest.raises(ValueError, match=rf"Pruner has no {next(iter(given))}: it has {fields}; .* its part"):
            pruner(**given)


@pytest.mark.parametrize(
    "parts, compat",
    [
        ({}, "corrected"),
        ({"allocate": Dense(), "solve": losing}, "corrected"),
        ({"allocate": Uniform(compat="official"), "solve": KeepTop(magnitude, compat="official")}, "official"),
        ({"solve": KeepTop(magnitude, compat="official")}, "mixed"),
        (
            {"allocate": Dense(), "solve": SparseGPT(compat="official"), "schedule": partial(exponential, steps=2)},
            "mixed",
        ),
    ],
)
def test_its_compat_is_that_of_its_parts(parts, compat):
    assert pruner(**parts).compat == compat


def test_the_report_names_what_the_parts_have():
    found = catalogue.load("multiflow", {"allocate.compat": "official"}).prune(sequential(), 0.5, labelled())
    assert found.report["compat"] == "mixed"
    assert found.report["settings"]["allocate"]["compat"] == "official"
    snipped = pruner(allocate=GlobalThreshold(snip, compat="official"), solve=KeepTop(snip, compat="official"))
    assert snipped.prune(sequential(), 0.5, labelled()).report["compat"] == "official"
