import pytest
import torch
from torch import nn

import vlp_bench
from tests.pruning.toys import TwoModalities, labelled, sequential
from vlp_bench.pruning.allocation.budgets import spread
from vlp_bench.pruning.allocation.owl import DLP, OWL
from vlp_bench.pruning.pruner import Pruner
from vlp_bench.pruning.scores import wanda
from vlp_bench.pruning.solvers.keep_top import KeepTop
from vlp_bench.pruning.statistics.calibration import Calibration
from vlp_bench.pruning.statistics.inputs import InputNorms


@pytest.mark.parametrize(
    "values, sizes, width, kept, expected",
    [
        ((1, 3, 2), (100, 100, 100), 0.16, 90, [22, 38, 30]),  # sparsities .78, .62, .70: the paper's order
        ((0, 1), (100, 300), 0.16, 120, [18, 102]),  # the mean over weights, not over groups, is .3
        ((1, 3, 2), (100, 100, 100), 0.16, 15, [0, 12, 3]),  # -.03 is cut; the others give .015 each: 11.5 and 3.5
        ((1, 3, 2), (100, 100, 100), 0.16, 285, [89, 100, 96]),  # 1.03 is cut: .885, 1, .965
        ((2, 2, 2), (10, 20, 30), 0.16, 30, [5, 10, 15]),
        ((5,), (10,), 0.16, 3, [3]),
        ((1, 2), (10, 10), 5.0, 20, [10, 10]),
        ((1, 2), (10, 10), 5.0, 0, [0, 0]),
    ],
)
def test_spread_by_hand(values, sizes, width, kept, expected):
    assert spread(values, sizes, width, kept) == expected


def test_spread_always_adds_up():
    g = torch.Generator().manual_seed(0)
    for _ in range(300):
        n = int(torch.randint(1, 9, (), generator=g))
        sizes = torch.randint(1, 400, (n,), generator=g).tolist()
        values, width = torch.rand(n, generator=g).tolist(), float(torch.rand((), generator=g) * 2)
        kept = int(torch.randint(0, sum(sizes) + 1, (), generator=g))
        counts = spread(values, sizes, width, kept)
        assert sum(counts) == kept
        assert all(0 <= count <= size for count, size in zip(counts, sizes, strict=True))
        density = [count / size for count, size in zip(counts, sizes, strict=True)]
        slack = 1 / min(sizes) + 1e-9
        assert all(density[i] <= density[j] + slack for i in range(n) for j in range(n) if values[i] <= values[j])


def test_outliers_by_hand():
    """Two blocks of two by two, inputs of length 1: the second has one outlier above twice its mean of 2.75."""
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    model[0].weight = nn.Parameter(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    model[1].weight = nn.Parameter(torch.tensor([[8.0, -1.0], [1.0, 1.0]]))
    calibration = Calibration(model, [torch.tensor([[1.0, 1.0]])])
    owl = OWL(outlier=2.5, spread=0.25)
    shares = [owl.value([layer], calibration) for layer in calibration.layers.values()]
    assert shares == [0.0, 0.25]
    assert owl(calibration, 0.5) == {"0.weight": 1, "1.weight": 3}  # densities .25 and .75


def test_medians_and_means_by_hand():
    """Inputs of length 1: |w| is (1, 1, 1, 9) in the first block, (2, 2, 2, 2) in the second."""
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    model[0].weight = nn.Parameter(torch.tensor([[1.0, -1.0], [1.0, 9.0]]))
    model[1].weight = nn.Parameter(torch.full((2, 2), 2.0))
    calibration = Calibration(model, [torch.tensor([[1.0, 0.0]])])
    calibration._known[InputNorms()] = {name: torch.ones(2) for name in calibration.layers}
    assert DLP(spread=0.25)(calibration, 0.5) == {"0.weight": 3, "1.weight": 1}  # medians 1 and 2: .75 and .25
    assert DLP(spread=0.25, compat="official")(calibration, 0.5) == {"0.weight": 1, "1.weight": 3}  # means 3 and 2


@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.63, 0.97])
def test_the_model_keeps_what_is_asked_and_layers_of_a_block_the_same_share(sparsity):
    calibration = Calibration(sequential(), labelled(), TwoModalities())
    kept = OWL(outlier=1.5)(calibration, sparsity)
    assert sum(kept.values()) == round((1 - sparsity) * 151)
    assert list(kept) == list(calibration.layers)
    found = Pruner(allocate=OWL(outlier=1.5), solve=KeepTop(wanda)).prune(calibration.model, sparsity, calibration)
    assert {name: layer["kept"] for name, layer in found.report["layers"].items()} == kept


def test_by_name():
    solution = vlp_bench.prune(
        sequential(), "wanda", 0.5, labelled(), options={"allocate": "owl", "allocate.outlier": 2}
    )
    assert solution.report["settings"]["allocate"] == {
        "_target_": "vlp_bench.pruning.allocation.owl.OWL",
        "outlier": 2,
        "spread": 0.08,
    }
    assert solution.kept == 76


@pytest.mark.parametrize("part, option", [(OWL, "outlier"), (OWL, "spread"), (DLP, "spread")])
def test_bad_settings(part, option):
    with pytest.raises(ValueError, match=f"{option} must be positive, got 0"):
        part(**{option: 0})
