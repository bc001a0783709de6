"""A statistic is one class: computed in any pass that fits, remembered by its options, stored, shared."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from tests.pruning.statistics.test_on_disk import Counted
from tests.pruning.toys import labelled, sequential
from vlp_bench.pruning.statistics.calibration import Calibration
from vlp_bench.pruning.statistics.gradients import (
    GradientSizes,
    GradientStatistic,
    MeanGradient,
    MeanGradientMagnitude,
)
from vlp_bench.pruning.statistics.inputs import InputNorms, InputProducts, InputStatistic
from vlp_bench.pruning.statistics.on_disk import StatisticsFolder


@dataclass(frozen=True)
class Powers(GradientStatistic):
    """A user's own: the mean of |g| to some power."""

    power: float = 3

    def measure(self, layer, gradient):
        return gradient.abs() ** self.power


@dataclass(frozen=True)
class Largest(InputStatistic):
    """Another: the sum over calls of the largest input of each feature."""

    def shape(self, layer):
        return (layer.matrix.shape[1],)

    def measure(self, x, mask):
        return x.detach().abs().flatten(0, -2).amax(0)


def counted(model, folder=None):
    """A calibration whose batches have two parts and count how often they are read."""
    batches = Counted([labelled(2, seed=i) for i in range(3)])
    calibration = Calibration(model, batches, stored=StatisticsFolder(folder) if folder else None)
    batches.passes = 0
    return calibration, batches


ALL = (MeanGradient(), GradientSizes(), MeanGradientMagnitude(), Powers(), Powers(2), InputNorms(), InputProducts())


def test_statistics_asked_together_share_passes_and_have_the_bits_of_each_alone():
    model = sequential()
    calibration, batches = counted(model)
    together = calibration.collect(*ALL)
    assert batches.passes == 2  # one of backwards, one of forwards
    for statistic, found in zip(ALL, together, strict=True):
        alone = counted(model)[0][statistic]
        assert all(found[name].equal(alone[name]) for name in found)
        assert calibration[statistic] is found
    assert batches.passes == 2


def test_what_a_pass_gives_along_costs_no_other():
    calibration, batches = counted(sequential())
    sizes = calibration[GradientSizes()]
    gradients = calibration[MeanGradient()]
    assert batches.passes == 1
    assert sizes["0.weight"].shape == (3,)
    assert gradients["0.weight"].equal(counted(calibration.model)[0].gradients()["0.weight"])


@pytest.mark.parametrize("statistic", [*ALL, Largest("official")])
def test_a_new_statistic_is_stored_and_found_again(statistic, tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(Conv1D(10, 6), nn.Tanh(), nn.Linear(10, 3))  # the first is stored as (d_in, d_out)
    calibration, batches = counted(model, tmp_path)
    first = calibration[statistic]
    again, batches = counted(model, tmp_path)
    found = again[statistic]
    assert batches.passes == (0 if statistic.on_disk else 1)
    for name, layer in again.layers.items():
        assert found[name].shape == statistic.shape(layer)
        assert found[name].equal(first[name])
    assert again.data_hash == calibration.data_hash


def test_options_tell_statistics_apart():
    calibration, batches = counted(sequential())
    assert calibration[Powers(2)] is calibration[Powers(2)]
    assert not calibration[Powers(2)]["0.weight"].equal(calibration[Powers(1)]["0.weight"])
    close = torch.testing.assert_close
    close(calibration[Powers(1)]["0.weight"], calibration[MeanGradientMagnitude()]["0.weight"])
    assert batches.passes == 3
    close(calibration[InputProducts()]["0.weight"].diagonal().sqrt(), calibration[InputNorms()]["0.weight"])


def test_nobody_writes_into_a_step_of_a_schedule():
    alive = {"0.weight": torch.ones(10, 6, dtype=torch.bool)}
    stage = Calibration(sequential(), labelled()).stage(1, alive=alive)
    alive.clear()
    assert list(stage.alive) == ["0.weight"]
    with pytest.raises(TypeError, match="does not support item assignment"):
        stage.alive["2.weight"] = torch.ones(7, 10)
    part = stage.subset(["0.weight"])
    assert part.alive["0.weight"] is stage.alive["0.weight"]
    assert stage.subset(["2.weight"]).alive == {}


def test_a_subset_tells_which_batches_it_saw():
    calibration = Calibration(sequential(), labelled())
    assert calibration.data_hash is None
    calibration.subset(["0.weight"]).norms()
    whole = Calibration(sequential(), labelled())
    whole.norms()
    assert calibration.data_hash == whole.data_hash
