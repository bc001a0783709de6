"""The Fisher diagonal on a model whose gradients can be written down, and the score made of it."""

import pytest
import torch
from torch import nn

import vlp_bench
from tests.pruning.toys import labelled, sequential
from vlp_bench.pruning.adapter import PlainAdapter
from vlp_bench.pruning.allocation.global_threshold import GlobalThreshold
from vlp_bench.pruning.pruner import Pruner
from vlp_bench.pruning.scores import fisher
from vlp_bench.pruning.solvers.keep_top import KeepTop
from vlp_bench.pruning.statistics.calibration import Calibration
from vlp_bench.pruning.statistics.gradients import FisherDiagonal, MeanGradient


class Sum(PlainAdapter):
    """The loss is the sum of the outputs, so that the gradient of weight ij is the sum of input j over the rows."""

    def loss(self, model, batch):
        return model(batch).sum()


def test_fisher_by_hand():
    """Gradients are (1, -2) and (3, 2): F = (1 + 9, 4 + 4) / 2, where the mean gradient's square is (4, 0)."""
    model = nn.Sequential(nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 2.0], [-3.0, 0.5]]))
    batches = [torch.tensor([[1.0, -2.0]]), torch.tensor([[1.0, 2.0], [2.0, 0.0]])]
    calibration = Calibration(model, batches, Sum())
    assert calibration[FisherDiagonal()]["0.weight"].tolist() == [[5.0, 4.0], [5.0, 4.0]]
    assert calibration[MeanGradient()]["0.weight"].square().tolist() == [[4.0, 0.0], [4.0, 0.0]]
    assert fisher(calibration.layers["0.weight"], calibration).tolist() == [[5.0, 16.0], [45.0, 1.0]]
    pruner = Pruner(allocate=GlobalThreshold(fisher), solve=KeepTop(fisher))
    mask = vlp_bench.prune(model, pruner, 0.5, calibration).masks["0.weight"]
    assert mask.tolist() == [[False, True], [True, False]]


def test_parts_of_a_batch_make_one_gradient_before_the_square():
    """(1 - 3) / 2 squared, not (1 + 9) / 2."""
    model = nn.Sequential(nn.Linear(1, 1, bias=False))
    parts = [[torch.tensor([[1.0]]), torch.tensor([[-3.0]])]]
    parts[0] = [{"input": part} for part in parts[0]]

    class Named(PlainAdapter):
        def loss(self, model, batch):
            return model(**batch).sum()

    assert Calibration(model, parts, Named())[FisherDiagonal()]["0.weight"].item() == 1.0


def test_it_is_at_least_the_square_of_the_mean_gradient():
    calibration = Calibration(sequential(), labelled(4))
    for name, squares in calibration[FisherDiagonal()].items():
        assert (squares >= calibration.gradients()[name].square() * (1 - 1e-5)).all()
        assert squares.mean().item() > calibration.gradients()[name].square().mean().item()


def test_squares_that_overflow_are_refused():
    class Steep(PlainAdapter):
        def loss(self, model, batch):
            return super().loss(model, batch) * 1e30

    with pytest.raises(ValueError, match=r"the FisherDiagonal of '0.weight' hold NaN or infinity, or overflow"):
        Calibration(sequential(), labelled(), Steep())[FisherDiagonal()]


def test_the_pruner_by_name():
    """The weights with the largest w² F of the whole model."""
    model, batches = sequential(), labelled()
    calibration = Calibration(model, batches)
    scores = {name: fisher(layer, calibration) for name, layer in calibration.layers.items()}
    cut = torch.cat([own.flatten() for own in scores.values()]).sort(descending=True).values[74]
    found = vlp_bench.prune(model, "fisher", 1 - 75 / 151, batches)
    assert found.kept == 75
    assert all(found.masks[name].equal(own >= cut) for name, own in scores.items())
