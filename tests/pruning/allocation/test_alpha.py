import math

import numpy as np
import pytest
import torch
from torch import nn

from tests.pruning.toys import labelled, sequential
from vlp_bench.pruning.allocation.alpha import AlphaPruning, TailExponents, hill, in_proportion
from vlp_bench.pruning.statistics.calibration import Calibration


def model_of(*matrices):
    linears = [nn.Linear(w.shape[1], w.shape[0], bias=False) for w in matrices]
    for linear, w in zip(linears, matrices, strict=True):
        linear.weight = nn.Parameter(w.clone())
    return nn.Sequential(*linears)


def alphas(model, tail, compat="corrected"):
    return list(Calibration(model)[TailExponents(tail, compat)].values())


def by_numpy(w, tail, compat):
    """The estimate as one reads it in the paper's code, loop by loop."""
    values = np.sort(np.linalg.svd(w, compute_uv=False).astype(np.float64) ** 2)
    n = len(values)
    if tail == "mid":
        i = n // 2
        return 1 + (n - i) / np.log(values[i:] / values[i]).sum()
    logs = np.log10(values)
    counts, edges = np.histogram(logs, bins=100)
    peak = 10 ** edges[np.argmax(counts)]
    least = math.log10(0.95 * peak) if compat == "official" else 0.95 * peak
    best, found = math.inf, None
    for i in range(n - 1):
        if least <= values[i] <= 1.5 * peak:
            alpha = 1 + (n - i) / np.log(values[i:] / values[i]).sum()
            law = 1 - (values[i:] / values[i]) ** (1 - alpha)
            distance = np.abs(law - np.arange(n - i) / (n - i)).max()
            if distance < best:
                best, found = distance, alpha
    return found


def test_alpha_of_a_diagonal_by_hand():
    """Eigenvalues 1, 4, 9, 16: from the third on 1 + 2 / ln(16 / 9)."""
    (found,) = alphas(model_of(torch.diag(torch.tensor([1.0, 2.0, 3.0, 4.0]))), "mid")
    assert found == pytest.approx(1 + 2 / math.log(16 / 9))
    assert found == pytest.approx(4.4761, abs=1e-4)  # of the released code


def test_sparsities_by_hand():
    """.49, .91, .70 of the released code; and 1.35, which it asks for as well, is cut."""
    assert in_proportion([2.0, 4.0, 3.0], [100, 100, 200], 0.3, 120) == [51, 9, 60]
    assert in_proportion([2.0, 4.0], [100, 100], 0.5, 20) == [20, 0]


@pytest.mark.parametrize("tail", ["mid", "peak"])
@pytest.mark.parametrize("compat", ["corrected", "official"])
def test_parity_with_numpy(tail, compat):
    torch.manual_seed(0)
    matrices = [torch.randn(40, 60) * scale @ torch.diag(torch.rand(60) ** 3) for scale in (0.3, 1.0, 3.0)]
    expected = [by_numpy(w.double().numpy(), tail, compat) for w in matrices]
    assert alphas(model_of(*matrices), tail, compat) == pytest.approx(expected, rel=1e-6)


def test_the_released_bound_lets_low_candidates_pass():
    """A power law from 0.01 on, and a peak of six at 0.05: the logarithm of a bound below 1 excludes nothing."""
    law = 0.01 * (1 - torch.arange(40, dtype=torch.float64) / 40) ** (-1 / 1.5)
    values = torch.cat([law, 0.05 * (1 + 1e-4 * torch.arange(6))]).sort().values
    from_the_peak, from_the_start = (float(hill(values)[i]) for i in (42, 0))
    model = model_of(torch.diag(values.sqrt()))
    assert alphas(model, "peak") == pytest.approx([from_the_peak])
    assert alphas(model, "peak", "official") == pytest.approx([from_the_start])


@pytest.mark.parametrize("tail", ["mid", "peak"])
def test_the_scale_and_the_order_of_rows_and_columns_do_not_matter(tail):
    torch.manual_seed(2)
    w = torch.randn(30, 20, dtype=torch.float64)
    turned = w[torch.randperm(30)][:, torch.randperm(20)]
    one, scaled, permuted, transposed = alphas(model_of(w, 4 * w, turned, w.t().contiguous()), tail)
    assert [scaled, permuted, transposed] == pytest.approx([one] * 3)


def test_layers_without_a_tail_count_as_the_lightest():
    """Of zeros, of rank one, with equal singular values."""
    torch.manual_seed(3)
    heavy, light = torch.randn(8, 8) ** 3, torch.randn(8, 8)
    odd = [torch.zeros(8, 8), torch.ones(8, 8), torch.eye(8)]
    found = alphas(model_of(heavy, light, *odd), "mid")
    assert found[2:] == [max(found[:2])] * 3
    assert alphas(model_of(*odd), "peak") == [0.0] * 3
    assert AlphaPruning()(Calibration(model_of(*odd)), 0.5) == {"0.weight": 32, "1.weight": 32, "2.weight": 32}


def test_granularity_and_spread():
    calibration = Calibration(sequential(), labelled())
    for granularity in ("block", "layer"):
        kept = AlphaPruning(granularity=granularity, spread=0.9)(calibration, 0.9)
        assert sum(kept.values()) == round(0.1 * 151)
    with pytest.raises(ValueError, match="spread must be above 0 and below 1, got 1"):
        AlphaPruning(spread=1)
    with pytest.raises(ValueError, match="unknown tail 'end': use one of mid, peak"):
        AlphaPruning(tail="end")
