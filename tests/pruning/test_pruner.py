from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import nn

import vlp_bench
from tests.pruning.toys import SHORT, Tied, TwoModalities, labelled, sequential
from vlp_bench.pruning import catalogue
from vlp_bench.pruning.allocation.global_threshold import GlobalThreshold
from vlp_bench.pruning.allocation.uniform import Uniform
from vlp_bench.pruning.pruner import Pruner, describe
from vlp_bench.pruning.schedule import exponential, linear
from vlp_bench.pruning.scores import magnitude, snip
from vlp_bench.pruning.solvers.keep_top import KeepTop
from vlp_bench.pruning.statistics.calibration import Calibration
from vlp_bench.pruning.structured.budgets import UnitBudgets
from vlp_bench.pruning.structured.upop import UPop

AWKWARD = [0.0, 0.001, 0.1, 1 / 3, 0.5, 0.63, 0.75, 0.9, 0.995]
# those of whole units keep next to what is asked: tests/pruning/structured holds their laws
BY_WEIGHTS = [
    name
    for name, pruner in ((name, catalogue.load(name)) for name in catalogue.names())
    if not isinstance(pruner.allocate, UnitBudgets) and not isinstance(pruner.solve, UPop)
]
# one order of weights for all budgets:
NESTED = ("dense", "random", "omp", "lmp", "l2", "lamp", "snip", "multiflow_edges")


def expected_kept(name, layers, sparsity):
    """What the definition of each pruner says, in all."""
    groups = {"model": lambda layer: "", "modality": lambda layer: layer["modality"], "layer": id}
    between = "modality" if name.startswith(("multiflow", "obd")) else unlisted(name)
    totals = {}
    for layer in layers.values():
        key = groups[between](layer)
        totals[key] = totals.get(key, 0) + layer["total"]
    return sum(totals.values()) if name == "dense" else sum(round((1 - sparsity) * total) for total in totals.values())


def unlisted(name):
    """How a pruner that no list here names shares its budget out: over the model, if its allocator does not say."""
    allocate = catalogue.load(name, quick(name)).allocate
    return "layer" if isinstance(allocate, Uniform) else getattr(allocate, "group_by", "model")


def quick(name):
    """Options that shorten what takes many steps."""
    return SHORT.get(name) or ({"steps": 3} if "steps" in (catalogue.folder() / f"{name}.yaml").read_text() else None)


def equal_weights():
    model = sequential()
    for p in model.parameters():
        nn.init.constant_(p, 0.5)
    return model


def half_zero():
    model = sequential()
    with torch.no_grad():
        model[2].weight.zero_()
        model[0].weight[:5] = 0
    return model


@pytest.mark.parametrize("name", BY_WEIGHTS)
@pytest.mark.parametrize(
    "build", [equal_weights, Tied, *(pytest.param(b, marks=pytest.mark.slow) for b in (sequential, half_zero))]
)
def test_every_pruner_keeps_exactly_what_is_asked(name, build):
    model = build()
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    adapter = None if build is Tied else TwoModalities()
    found = vlp_bench.prune(model, name, AWKWARD, labelled(), adapter, options=quick(name))
    assert list(found) == AWKWARD
    for sparsity, solution in found.items():
        assert solution.kept == expected_kept(name, solution.report["layers"], sparsity) == solution.report["kept"]
        assert all(mask.dtype == torch.bool and mask.shape == before[key].shape for key, mask in solution.masks.items())
    assert all(torch.equal(before[key], p) for key, p in model.named_parameters())


@pytest.mark.parametrize("name", BY_WEIGHTS)
def test_every_pruner_is_deterministic_and_nested(name):
    first, second = (vlp_bench.prune(sequential(), name, [0.5, 0.8], labelled(), options=quick(name)) for _ in range(2))
    for key, mask in first[0.8].masks.items():
        assert mask.equal(second[0.8].masks[key])
        if name in NESTED:
            assert not (mask & ~first[0.5].masks[key]).any()


@pytest.mark.parametrize("name", catalogue.names())
@pytest.mark.parametrize("compat", [pytest.param("corrected", marks=pytest.mark.slow), "official"])
def test_every_pruner_is_told_by_name_what_it_is(name, compat):
    solution = vlp_bench.prune(sequential(), name, 0.5, labelled(), options={"compat": compat, **(quick(name) or {})})
    assert solution.report["method"] == name
    assert solution.report["compat"] == compat
    assert solution.report["settings"]["solve"]["compat"] == compat
    assert "compat" not in solution.report["settings"]


def test_a_tied_weight_is_pruned_once():
    model = Tied()
    solution = vlp_bench.prune(model, "omp", 0.5)
    assert list(solution.masks) == ["encoder.weight", "head.weight"]
    solution.install(model)
    assert model.decoder.weight is model.encoder.weight
    assert int((model.decoder.weight == 0).sum()) == int((~solution.masks["encoder.weight"]).sum())


def test_one_calibration_pass_serves_all_sparsities_and_pruners():
    class Counts(TwoModalities):
        encoded = lost = 0

        def encode(self, model, batch):
            Counts.encoded += 1
            super().encode(model, batch)

        def loss(self, model, batch):
            Counts.lost += 1
            return super().loss(model, batch)

    model = sequential()
    calibration = Calibration(model, labelled(4), Counts())
    for name in ("multiflow", "multiflow_nodes", "snip", "omp"):
        vlp_bench.prune(model, name, [0.63, 0.75, 0.9], calibration)
    assert (Counts.encoded, Counts.lost) == (4, 4)


def test_multiflow_gives_each_modality_its_share():
    solution = vlp_bench.prune(sequential(), "multiflow", 0.9, labelled(), TwoModalities())
    rows = {row.modality: row for row in solution.table() if not row.block}
    assert (rows["vision"].kept, rows["text"].kept) == (6, 9)


def test_random_masks_belong_to_the_seed():
    masks = [
        vlp_bench.prune(sequential(), "random", 0.5, options={"seed": seed}).masks["0.weight"] for seed in (1, 1, 2)
    ]
    assert masks[0].equal(masks[1])
    assert not masks[0].equal(masks[2])


@pytest.mark.parametrize("schedule", [partial(exponential, steps=4), partial(linear, steps=3)])
def test_steps_nest_and_end_exactly(schedule):
    steps = []

    class Solver(KeepTop):
        def __call__(self, calibration, budgets):
            solved = super().__call__(calibration, budgets)
            steps.append(solved.masks)
            return solved

    model = half_zero()
    before = [p.detach().clone() for p in model.parameters()]
    pruner = Pruner(allocate=GlobalThreshold(snip), solve=Solver(snip), schedule=schedule)
    solution = pruner.prune(model, 0.4, labelled())
    assert solution.kept == round(0.6 * 151)
    for earlier, later in pairwise(steps):
        assert all(not (later[name] & ~earlier[name]).any() for name in later)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_weights_come_back_when_a_step_fails():
    def fails(calibration, budgets):
        if calibration.alive:
            raise KeyError("second step")
        return KeepTop(magnitude)(calibration, budgets)

    model = sequential()
    before = model[0].weight.detach().clone()
    with pytest.raises(KeyError, match="second step"):
        Pruner(allocate=Uniform(), solve=fails, schedule=partial(linear, steps=2)).prune(model, 0.9)
    assert model[0].weight.equal(before)


@pytest.mark.parametrize("sparsity", [1.0, -0.1, 1.5, float("nan"), "0.5", True, [0.5, 2.0]])
def test_sparsity_outside_its_range(sparsity):
    with pytest.raises(ValueError, match="at least 0 and below 1; got"):
        vlp_bench.prune(sequential(), "omp", sparsity)


def test_bad_requests():
    model = sequential()
    with pytest.raises(ValueError, match=r"unknown pruner 'multiflo': use one of .*l2, lamp"):
        vlp_bench.prune(model, "multiflo", 0.5)
    with pytest.raises(ValueError, match=r"'omp' has no option 'ridge': use one of .*compat"):
        vlp_bench.prune(model, "omp", 0.5, options={"ridge": 1})
    with pytest.raises(ValueError, match=r"'omp' has no option 'num_batches'"):
        vlp_bench.prune(model, "omp", 0.5, options={"num_batches": 1})
    with pytest.raises(ValueError, match=r"compat=paper: expected one of corrected, official"):
        vlp_bench.prune(model, "multiflow", 0.5, options={"compat": "paper"})
    with pytest.raises(ValueError, match=r"unknown allocate 'ecoflop': use one of .*uniform"):
        vlp_bench.prune(model, "omp", 0.5, options={"allocate": "ecoflop"})
    with pytest.raises(ValueError, match=r"'snip'.* num_batches must be a whole number of at least 1, or None; got 0"):
        vlp_bench.prune(model, "snip", 0.5, labelled(), options={"num_batches": 0})
    with pytest.raises(ValueError, match="pass calibration=batches"):
        vlp_bench.prune(model, "multiflow", 0.5)
    with pytest.raises(ValueError, match="no sparsity was given"):
        vlp_bench.prune(model, "omp", [])
    with pytest.raises(ValueError, match="options are for a pruner given by name"):
        vlp_bench.prune(
            model, Pruner(allocate=Uniform(), solve=KeepTop(magnitude)), 0.5, options={"compat": "official"}
        )


def test_a_calibration_belongs_to_its_model_and_settings():
    model, calibration = sequential(), Calibration(sequential(), labelled())
    with pytest.raises(ValueError, match="made for another model"):
        vlp_bench.prune(model, "omp", 0.5, calibration)
    with pytest.raises(ValueError, match="has an adapter already"):
        vlp_bench.prune(calibration.model, "omp", 0.5, calibration, TwoModalities())
    with pytest.raises(ValueError, match="num_batches is 2 for the pruner and None for its Calibration"):
        vlp_bench.prune(calibration.model, "snip", 0.5, calibration, options={"num_batches": 2})


def test_any_allocator_goes_with_any_solver():
    solution = vlp_bench.prune(sequential(), "multiflow", 0.5, labelled(), options={"allocate": "uniform"})
    assert [layer["kept"] for layer in solution.report["layers"].values()] == [30, 35, 10]
    rows = vlp_bench.prune(sequential(), "lmp", 0.5, options={"solve.within": "output"})
    assert rows.masks["0.weight"].sum(1).tolist() == [3] * 10


def test_iterative_snip_by_name():
    quick_steps = {"steps": 2, "batches_per_step": 2, "schedule": "linear"}
    found = vlp_bench.prune(sequential(), "itersnip", 0.5, labelled(4), options=quick_steps)
    by_hand = Pruner(
        allocate=GlobalThreshold(snip), solve=KeepTop(snip), schedule=partial(linear, steps=2), batches_per_step=2
    ).prune(sequential(), 0.5, labelled(4))
    assert all(found.masks[name].equal(mask) for name, mask in by_hand.masks.items())
    assert found.report["settings"]["schedule"]["steps"] == 2
    assert set(found.report["settings"]) == {
        "_target_",
        "allocate",
        "solve",
        "schedule",
        "sweep",
        "name",
        "batches_per_step",
        "seed",
    }
    official = vlp_bench.prune(sequential(), "itersnip", 0.5, labelled(4), options=quick_steps | {"compat": "official"})
    assert official.kept == 0  # the released code's linear schedule ends at 100 %
    with pytest.raises(ValueError, match=r"unknown schedule 'cubic': use one of .*exponential, linear"):
        vlp_bench.prune(sequential(), "itersnip", 0.5, labelled(4), options={"schedule": "cubic"})


def test_iterative_obd_by_hand():
    model, batches = sequential(), labelled()
    weights, alive = {n: p for n, p in model.named_parameters() if n.endswith("weight")}, {}
    for target in (0.125, 0.5**1.5, 0.5):
        grads = [
            torch.autograd.grad(nn.functional.cross_entropy(model(x), y), list(weights.values())) for x, y in batches
        ]
        scores = {n: sum(g[i].abs() for g in grads) * w.detach().abs() for i, (n, w) in enumerate(weights.items())}
        flat = torch.cat([score.masked_fill(~alive.get(n, score >= 0), -1.0).flatten() for n, score in scores.items()])
        cut = flat.sort(descending=True).values[round((1 - target) * 151) - 1]
        alive = {n: (score >= cut) & alive.get(n, score >= 0) for n, score in scores.items()}
        with torch.no_grad():
            for n, w in weights.items():
                w.mul_(alive[n])
    found = vlp_bench.prune(sequential(), "obd", 0.5, labelled())
    assert all(mask.equal(alive[n]) for n, mask in found.masks.items())


class Momentum(nn.Module):
    """A frozen copy that follows the weights at every loss, as BLIP's."""

    def __init__(self):
        super().__init__()
        self.body, self.copy = sequential(), sequential(1).requires_grad_(False)

    def forward(self, x):
        with torch.no_grad():
            for mine, theirs in zip(self.body.parameters(), self.copy.parameters(), strict=True):
                theirs.mul_(0.9).add_(mine, alpha=0.1)
        return self.body(x) * self.copy(x)


class BodyOnly(vlp_bench.PlainAdapter):
    def prunable(self, model):
        return [name for name in super().prunable(model) if name.startswith("body")]


@pytest.mark.parametrize(
    "name, options", [("itersnip", {"steps": 2}), ("chita", {"block_weights": 20, "memory_gb": 3e-7})]
)
def test_momentum_copies_do_not_drift_from_one_sparsity_to_the_next(name, options):
    model = Momentum()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    both = vlp_bench.prune(model, name, [0.5, 0.8], labelled(), BodyOnly(), options=options)
    assert all(value.equal(before[key]) for key, value in model.state_dict().items())
    alone = vlp_bench.prune(Momentum(), name, 0.8, labelled(), BodyOnly(), options=options)
    assert all(mask.equal(alone.masks[key]) for key, mask in both[0.8].masks.items())
    drifting = vlp_bench.prune(
        model, name, [0.5, 0.8], labelled(), BodyOnly(), options=options | {"compat": "official"}
    )
    assert all(value.equal(before[key]) for key, value in model.state_dict().items())
    alone = vlp_bench.prune(Momentum(), name, 0.8, labelled(), BodyOnly(), options=options)
    parts = [(mask, alone.masks[key]) for key, mask in drifting[0.8].masks.items()]
    parts += [(values, alone.weights[key]) for key, values in drifting[0.8].weights.items()]
    assert not all(one.equal(other) for one, other in parts)  # the released code's quirk


def test_signed_magnitude_removes_the_negative_weights_first():
    options = {"allocate": "signed", "solve": "signed"}
    model = sequential()
    found = vlp_bench.prune(model, "omp", 0.9, options=options)
    assert all((model.get_parameter(name)[mask] > 0).all() for name, mask in found.masks.items())


def test_report_names_weights_and_data():
    model = sequential()
    reports = [vlp_bench.prune(model, "multiflow", 0.5, labelled(seed=seed)).report for seed in (1, 2)]
    assert reports[0]["hashes"]["weights"] == reports[1]["hashes"]["weights"]
    assert reports[0]["hashes"]["calibration"] != reports[1]["hashes"]["calibration"]
    assert reports[0]["sparsity"] == {"asked": 0.5, "achieved": pytest.approx(0.5, abs=0.01)}
    with torch.no_grad():
        model[4].weight[0, 0] += 1e-6
    assert vlp_bench.prune(model, "omp", 0.5).report["hashes"]["weights"] != reports[0]["hashes"]["weights"]


def test_budgets_of_all_sparsities_come_from_one_search(monkeypatch):
    asked, pruner = [], catalogue.load("omp")
    search = GlobalThreshold.for_all
    monkeypatch.setattr(GlobalThreshold, "for_all", lambda *given: asked.append(list(given[2])) or search(*given))
    found = pruner.prune(sequential(), [0.5, 0.75, 0.9])
    assert asked == [[0.5, 0.75, 0.9]]
    for sparsity, solution in found.items():
        alone = pruner.prune(sequential(), sparsity)
        assert all(solution.masks[name].equal(mask) for name, mask in alone.masks.items())
    asked.clear()
    catalogue.load("itersnip", {"steps": 2}).prune(sequential(), [0.5, 0.75], labelled())
    assert [len(sparsities) for sparsities in asked] == [1, 1, 1, 1]  # every step at the weights of the step before


def test_description_is_the_constructor_call():
    found = describe(Pruner(allocate=Uniform(), solve=KeepTop(snip), schedule=partial(linear, steps=3)))
    assert found["allocate"] == {"_target_": "vlp_bench.pruning.allocation.uniform.Uniform", "compat": "corrected"}
    assert found["solve"]["score"] == "vlp_bench.pruning.scores.snip"
    assert found["schedule"] == {"_target_": "vlp_bench.pruning.schedule.linear", "steps": 3}


@pytest.mark.parametrize("batches, steps, own", [(3, 4, 1), (4, 3, 2), (1, 2, 5)])
def test_steps_that_would_see_no_batch_are_refused_before_the_first(batches, steps, own):
    asked = labelled(batches)
    allowed = -(-batches // own)
    said = rf"itersnip: {steps} steps, each with {own} batch.* need {steps * own},.* {batches}: at most {allowed} "
    with pytest.raises(ValueError, match=said):
        vlp_bench.prune(sequential(), "itersnip", 0.5, asked, options={"steps": steps, "batches_per_step": own})
    vlp_bench.prune(sequential(), "itersnip", 0.5, asked, options={"steps": allowed, "batches_per_step": own})
    vlp_bench.prune(sequential(), "itersnip", 0.5, asked, options={"steps": steps, "batches_per_step": None})


class Unsized(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter(labelled(4))


def test_batches_without_a_length_are_counted_as_they_come():
    loader = torch.utils.data.DataLoader(Unsized(), batch_size=None)
    options = {"steps": 2, "batches_per_step": 2}
    found, same = (
        vlp_bench.prune(sequential(), "itersnip", 0.5, data, options=options) for data in (loader, labelled(4))
    )
    assert all(mask.equal(same.masks[name]) for name, mask in found.masks.items())
    with pytest.raises(ValueError, match="empty after the first 4 batches"):
        vlp_bench.prune(sequential(), "itersnip", 0.5, loader, options=options | {"steps": 3})
