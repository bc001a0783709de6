import torch
from torch import nn

from tests.pruning.toys import TwoModalities
from vlp_bench.pruning.statistics.calibration import Calibration
from vlp_bench.pruning.statistics.input_moments import InputMoments, by_row


def test_moments_by_hand():
    batches = [torch.tensor([[[1.0, 2.0], [3.0, 2.0]]]), torch.tensor([[[5.0, 2.0], [7.0, 2.0]]])]
    found = Calibration(nn.Sequential(nn.Linear(2, 2)), batches)[InputMoments()]["0.weight"]
    assert found.tolist() == [[8.0, 4.0], [4.0, 2.0], [5.0, 0.0]]


def test_tokens_that_do_not_count_may_hold_anything():
    x = torch.tensor([[[1.0], [torch.nan]], [[2.0], [4.0]]])
    assert by_row(x, torch.tensor([[True, False], [True, True]])).squeeze(-1).tolist() == [[1, 1, 1], [2, 6, 20]]


def test_they_are_numpys():
    x = torch.randn(30, 7, 5, generator=torch.Generator().manual_seed(0)) + 3
    model = nn.Sequential(nn.Linear(5, 3))
    found = Calibration(model, [(part, 0) for part in x.split(8)], TwoModalities())[InputMoments()]["0.weight"]
    flat = x.double().reshape(-1, 5)
    expected = torch.stack([flat.sum(0) / 30, flat.mean(0), flat.var(0, correction=0)])
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
