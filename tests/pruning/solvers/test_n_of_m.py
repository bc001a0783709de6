"""N:M holds alike for every solver that can be told to."""

import pytest
import torch
from torch import nn

import vlp_bench
from tests.pruning.solvers.test_sparsegpt import inputs, weights
from vlp_bench.batch import Place
from vlp_bench.pruning.pruner import Pruner
from vlp_bench.pruning.scores import magnitude
from vlp_bench.pruning.solvers.dsnot import DSnoT
from vlp_bench.pruning.solvers.keep_top import KeepTop
from vlp_bench.pruning.solvers.sparsegpt import SparseGPT
from vlp_bench.pruning.statistics.calibration import Calibration

BY_GROUPS = ("lmp", "wanda", "ria", "sparsegpt", "alps", "dsnot", "thanos")


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(24, 16), nn.GELU(), nn.Linear(16, 8))


def batches():
    return [inputs(40, seed=seed) for seed in range(3)]


@pytest.mark.parametrize("name", BY_GROUPS)
@pytest.mark.parametrize("within", ["2:4", "4:8", "1:2", "3:4", "1:8", "8:8"])
@pytest.mark.parametrize("compat", ["corrected", "official"])
def test_every_group_keeps_n(name, within, compat):
    n, m = map(int, within.split(":"))
    options = {"solve.within": within, "compat": compat}
    found = vlp_bench.prune(model(), name, 1 - n / m, batches(), options=options)
    for mask in found.masks.values():
        assert (mask.view(len(mask), -1, m).sum(2) == n).all()


@pytest.mark.parametrize("name", BY_GROUPS)
def test_another_budget_and_another_width_name_the_layer(name):
    with pytest.raises(ValueError, match=r"sparsity=0.75: 2:4 keeps 2 of every 4 weights, which is sparsity 0.5: ask"):
        vlp_bench.prune(model(), name, 0.75, None, options={"solve.within": "2:4"})  # whatever it needs of data
    with pytest.raises(ValueError, match=r"weights and '\d.weight' should keep \d+ of \d+: ask for .* uniform budgets"):
        vlp_bench.prune(model(), name, 0.5, batches(), options={"solve.within": "2:4", "allocate": "erk"})
    options = {"solve.within": "8:16", **({"block_size": 32} if name in ("sparsegpt", "thanos") else {})}
    with pytest.raises(ValueError, match=r"'0.weight' has 24 inputs, which 8:16 can't group by 16"):
        vlp_bench.prune(model(), name, 0.5, batches(), options=options)


class Untouched(list):
    """Batches that nobody may read."""

    def __iter__(self):
        raise AssertionError("a pass over the data has begun")


class TwoBlocks(nn.Module):
    """Two blocks of two layers."""

    def __init__(self):
        torch.manual_seed(0)
        super().__init__()
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8)) for _ in range(2))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


class Squares(vlp_bench.PlainAdapter):
    def loss(self, model, batch):
        return model(batch).square().mean()


class InBlocks(Squares):
    """Each of its own modality, or all of one."""

    def __init__(self, modalities=("all", "all")):
        self.modalities = modalities

    def place(self, name):
        block = int(name.split(".")[1])
        return Place(self.modalities[block], str(block))


UNEVEN = ("owl", "dlp", "neuroal", "ecoflap", "ecoflap_first", "das", "snip", "obd", "lamp")


@pytest.mark.parametrize("allocate", UNEVEN)
def test_budgets_that_differ_are_refused_before_the_first_pass(allocate):
    options = {"solve": "wanda_2_4", "allocate": allocate}
    with pytest.raises(ValueError, match=r"^wanda: 2:4 keeps the same share .* use pruner/allocate=uniform, or"):
        vlp_bench.prune(TwoBlocks(), "wanda", 0.5, Untouched([1]), InBlocks(), options=options)
    nothing = vlp_bench.prune(TwoBlocks(), "wanda", 0.0, [torch.randn(4, 8)] * 2, InBlocks(), options=options)
    assert nothing.sparsity == 0


@pytest.mark.parametrize(
    "allocate, options, modalities",
    [
        ("total", {}, ("all", "all")),
        ("evenly", {}, ("all", "all")),
        ("erk", {}, ("all", "all")),  # layers of one shape
        ("ecoflap", {"allocate.granularity": "model"}, ("all", "all")),
        ("ecoflap", {"allocate.granularity": "model", "allocate.group_by": "modality"}, ("text", "vision")),
        ("ecoflap_first", {"allocate.max_sparsity": 0.5}, ("all", "all")),
        ("das", {"allocate.importance": "equal"}, ("all", "all")),
        ("neuroal", {"allocate.spreads": [0.0]}, ("all", "all")),
        ("neuroal", {}, ("text", "vision")),
        ("snip", {"allocate.group_by": "layer"}, ("all", "all")),
    ],
)
def test_budgets_that_cannot_differ_have_groups(allocate, options, modalities):
    options = {"solve": "wanda_2_4", "allocate": allocate, **options}
    batches = [torch.randn(4, 8) for _ in range(2)]
    found = vlp_bench.prune(TwoBlocks(), "wanda", 0.5, batches, InBlocks(modalities), options=options)
    for mask in found.masks.values():
        assert (mask.view(8, 2, 4).sum(2) == 2).all()


def test_one_block_has_groups_whatever_shares_out_among_blocks():
    for allocate in ("owl", "dlp", "ecoflap"):
        options = {"solve": "wanda_2_4", "allocate": allocate}
        found = vlp_bench.prune(nn.Linear(8, 8), "wanda", 0.5, [torch.randn(4, 8)] * 2, Squares(), options=options)
        assert (found.masks["weight"].view(8, 2, 4).sum(2) == 2).all()


def test_a_width_that_is_no_group_is_refused_before_the_first_pass():
    narrow = nn.Sequential(nn.Linear(8, 6), nn.GELU(), nn.Linear(6, 8))
    for name in ("wanda", "sparsegpt", "gblm"):
        with pytest.raises(ValueError, match=r"'2.weight' has 6 inputs, which 2:4 can't group by 4"):
            vlp_bench.prune(narrow, name, 0.5, Untouched([1]), options={"solve.within": "2:4"})


def test_steps_that_pass_through_other_shares_are_refused():
    options = {"solve": "wanda_2_4", "allocate": "uniform", "steps": 2}
    said = r"step 1 of 2 has sparsity 0.2929, which 2:4 can't have: use pruner/schedule=constant"
    with pytest.raises(ValueError, match=said):
        vlp_bench.prune(model(), "itersnip", 0.5, Untouched([1]), options=options)
    found = vlp_bench.prune(model(), "itersnip", 0.5, batches(), options=options | {"schedule": "constant"})
    assert all((mask.view(len(mask), -1, 4).sum(2) == 2).all() for mask in found.masks.values())


@pytest.mark.parametrize(
    "name", [name for name in BY_GROUPS if name != "alps"]
)  # its values have rounding of their own
def test_of_equals_the_lower_index_survives(name):
    layer = nn.Sequential(nn.Linear(8, 2))
    nn.init.constant_(layer[0].weight, 1.0)
    found = vlp_bench.prune(layer, name, 0.5, [torch.eye(8)], options={"solve.within": "2:4"})
    assert found.masks["0.weight"].tolist() == [[True, True, False, False] * 2] * 2


def test_conv1d_groups_are_inputs():
    from transformers.pytorch_utils import Conv1D

    found = vlp_bench.prune(nn.Sequential(Conv1D(6, 8)), "lmp", 0.5, options={"solve.within": "2:4"})
    assert (found.masks["0.weight"].t().reshape(6, 2, 4).sum(2) == 2).all()


def published(w, x, n, m):
    """SparseGPT for n:m written out: the inverse of what remains, a column at a time, a mask when a group begins."""
    w, h = w.double().clone(), x.double().t() @ x.double()
    h += 0.01 * h.diagonal().mean() * torch.eye(len(h))
    mask = torch.ones_like(w, dtype=torch.bool)
    for j in range(len(h)):
        if j % m == 0:
            curvature = torch.stack([torch.linalg.inv(h[i:, i:])[0, 0] for i in range(j, j + m)])
            order = (w[:, j : j + m].square() / curvature).sort(dim=1, descending=True, stable=True).indices
            mask[:, j : j + m] = torch.zeros(len(w), m).scatter_(1, order[:, :n], 1.0).bool()
        inverse = torch.linalg.inv(h[j:, j:])
        w[:, j:] -= torch.outer(w[:, j].masked_fill(mask[:, j], 0) / inverse[0, 0], inverse[0])
        w[:, j].masked_fill_(~mask[:, j], 0)
    return mask, w


@pytest.mark.parametrize("n, m", [(2, 4), (4, 8), (1, 2)])
@pytest.mark.parametrize("block_size", [8, 128])
def test_sparsegpt_is_the_published_algorithm(n, m, block_size):
    w, x = weights(), inputs()
    solve = SparseGPT(block_size=block_size, within=f"{n}:{m}")
    mask, values = solve.solve(w, x.double().t() @ x.double(), 240 * n // m, pattern=(n, m))
    expected_mask, expected = published(w, x, n, m)
    assert mask.equal(expected_mask)
    torch.testing.assert_close(values, expected, rtol=1e-6, atol=1e-8)


def test_blocks_hold_whole_groups():
    with pytest.raises(ValueError, match="block_size must hold whole groups of 4:8, got 12"):
        SparseGPT(block_size=12, within="4:8")


def test_a_start_of_other_groups_is_refused():
    """DSnoT leaves the number in a group as it is; the start decides it."""
    layer, kept = nn.Sequential(nn.Linear(24, 10)), {"0.weight": 120}
    solve = DSnoT(start=KeepTop(magnitude, "2:4"), within="2:4")
    assert (solve(Calibration(layer, batches()), kept).masks["0.weight"].view(-1, 4).sum(1) == 2).all()
    assert isinstance(Pruner(allocate=lambda c, s: kept, solve=solve).prune(layer, 0.5, batches()).masks, dict)
