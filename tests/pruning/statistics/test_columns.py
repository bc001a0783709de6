"""A layer that reads the tokens of all rows in one column (OPT's feed-forward) reads as many rows as any other."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import vlp_bench
from vlp_bench.pruning.adapter import PlainAdapter
from vlp_bench.pruning.statistics.block_gradients import BlockGradients
from vlp_bench.pruning.statistics.calibration import Calibration
from vlp_bench.pruning.statistics.input_moments import Fluctuations, InputMoments, RowVariances
from vlp_bench.pruning.statistics.inputs import InputNorms, InputProducts, in_rows

KEPT = torch.arange(5) < torch.tensor([[5], [3]])


class Block(nn.Module):
    def __init__(self, flat, gives_column):
        super().__init__()
        self.flat, self.gives_column = flat, gives_column
        self.mix, self.fc1, self.fc2 = nn.Linear(8, 8), nn.Linear(8, 12), nn.Linear(12, 8)

    def forward(self, x):
        rows = x.reshape(2, 5, 8)
        rows = rows + self.mix(rows).tanh()
        y = self.fc2(F.gelu(self.fc1(rows.flatten(0, 1) if self.flat else rows)))
        x = rows + y.view_as(rows)
        return x.flatten(0, 1) if self.gives_column else x


class Model(nn.Module):
    def __init__(self, flat, gives_column=False):
        super().__init__()
        self.blocks = nn.ModuleList(Block(flat, gives_column) for _ in range(2))

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


class Padded(PlainAdapter):
    def loss(self, model, batch):
        return (model(batch).view(2, 5, 8) * KEPT[..., None]).square().mean()

    def token_mask(self, batch, name, tokens):
        return KEPT


def model(**options):
    torch.manual_seed(0)
    return Model(**options).double()


def batches():
    return list(torch.randn(4, 2, 5, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64))


STATISTICS = [InputNorms(), InputProducts(), InputMoments(), RowVariances(), Fluctuations(), BlockGradients()]


@pytest.mark.parametrize("adapter", [PlainAdapter, Padded])
@pytest.mark.parametrize("statistic", STATISTICS, ids=lambda statistic: type(statistic).__name__)
def test_statistics(statistic, adapter):
    found, expected = (Calibration(model(flat=flat), batches(), adapter())[statistic] for flat in (True, False))
    for name, own in expected.items():
        torch.testing.assert_close(found[name], own)


@pytest.mark.parametrize("adapter", [PlainAdapter, Padded])
def test_gradients_of_what_a_block_gives_in_one_column(adapter):
    found, expected = (
        Calibration(model(flat=False, gives_column=own), batches(), adapter())[BlockGradients()]
        for own in (True, False)
    )
    for name, own in expected.items():
        torch.testing.assert_close(found[name], own)


@pytest.mark.parametrize("name", ["owl", "dlp", "gblm", "wanda_pp", "dsnot", "tamp", "sparsegpt"])
@pytest.mark.parametrize("compat", ["corrected", "official"])
def test_masks(name, compat):
    found, expected = (
        vlp_bench.prune(model(flat=flat), name, 0.5, batches(), Padded(), options={"compat": compat})
        for flat in (True, False)
    )
    assert all(found.masks[layer].equal(mask) for layer, mask in expected.masks.items())


def test_what_is_a_column():
    assert in_rows(torch.zeros(10, 3), 2).shape == (2, 5, 3)
    assert in_rows(torch.zeros(10, 1, 3), 2).shape == (2, 5, 3)
    for shape, rows in (((2, 3), 2), ((10, 3), 3), ((10, 3), 0), ((2, 5, 3), 2), ((1, 3), 2), ((3,), 1)):
        assert in_rows(torch.zeros(shape), rows).shape == shape


def test_some_tokens_only_are_rows_each():
    """As an expert is sent them: how many of them come from one row is not known."""
    layers = nn.ModuleDict({"first": nn.Linear(8, 8), "expert": nn.Linear(8, 8)}).double()

    class Sent(PlainAdapter):
        def encode(self, model, batch):
            layers["expert"](layers["first"](batch).flatten(0, 1)[:6])

    x = batches()[0]
    norms = Calibration(layers, [x], Sent()).norms()["expert.weight"]
    sent = layers["first"](x).detach().flatten(0, 1)[:6]
    torch.testing.assert_close(norms, (sent.square().sum(0) / 6).sqrt())
