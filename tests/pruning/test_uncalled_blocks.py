"""A model may call the parts of a block without the block: that changes nothing."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import vlp_bench
from vlp_bench.pruning.adapter import PlainAdapter
from vlp_bench.pruning.allocation.ecoflap.allocators import BlockSensitivity
from vlp_bench.pruning.statistics.calibration import Calibration

KINDS = ("called", "bypassed", "without a forward", "a dictionary")


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 10), nn.Linear(10, 6)

    def forward(self, x):
        return x + self.fc2(F.gelu(self.fc1(x)))


class Model(nn.Module):
    """The first of its two blocks is not called, but the layers in it are."""

    def __init__(self, kind):
        super().__init__()
        self.kind, first = kind, Block()
        if kind == "without a forward":
            bare = nn.Module()
            bare.fc1, bare.fc2 = first.fc1, first.fc2
            first = bare
        if kind == "a dictionary":
            first = nn.ModuleDict({"fc1": first.fc1, "fc2": first.fc2})
        self.blocks, self.head = nn.ModuleList([first, Block()]), nn.Linear(6, 3)

    def forward(self, x):
        first, second = self.blocks
        fc1, fc2 = first.get_submodule("fc1"), first.get_submodule("fc2")
        x = first(x) if self.kind == "called" else x + fc2(F.gelu(fc1(x)))
        return self.head(second(x).mean(1))


class Headless(PlainAdapter):
    def prunable(self, model):
        return [name for name in super().prunable(model) if not name.startswith("head")]


def model(kind):
    torch.manual_seed(0)
    return Model(kind).double().eval()


def batches():
    g = torch.Generator().manual_seed(1)
    draw = lambda: (torch.randn(2, 5, 6, generator=g, dtype=torch.float64), torch.randint(3, (2,), generator=g))  # noqa: E731
    return [draw() for _ in range(3)]


@pytest.mark.parametrize("kind", KINDS[1:])
@pytest.mark.parametrize("name", ["wanda", "sparsegpt", "ecoflap", "neuroal"])
def test_block_by_block(name, kind):
    found, expected = (vlp_bench.prune(model(own), name, 0.5, batches(), Headless()) for own in (kind, "called"))
    for layer, mask in expected.masks.items():
        assert found.masks[layer].equal(mask)
        if expected.weights:
            torch.testing.assert_close(found.weights[layer], expected.weights[layer])


@pytest.mark.parametrize("kind", KINDS[1:])
@pytest.mark.parametrize("keep_in", ["disk", "memory"])
def test_what_the_loss_says_of_every_layer(kind, keep_in):
    found, expected = (
        BlockSensitivity(keep_in=keep_in).importances(Calibration(model(own), batches(), Headless()))
        for own in (kind, "called")
    )
    assert found == pytest.approx(expected, rel=1e-6)
    assert min(found.values()) > 0


def test_block_gradients_need_the_block():
    with pytest.raises(ValueError, match=r"calls the block of 'blocks\.0\.fc1\.weight' as a module, block\(x\)"):
        vlp_bench.prune(model("bypassed"), "wanda_pp", 0.5, batches(), Headless())
