"""Statistics on disk: one pass over the data serves every sparsity, pruner, seed and program."""

import logging

import pytest
import torch

from tests.pruning.test_xvlm import CONFIG, batch
from vlp_bench.models.xvlm.model import XVLM
from vlp_bench.pruning import catalogue
from vlp_bench.pruning.statistics.calibration import Calibration
from vlp_bench.pruning.statistics.on_disk import StatisticsFolder


class Counted(list):
    """Batches that count how often they are read."""

    passes = 0

    def __iter__(self):
        self.passes += 1
        return super().__iter__()


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return XVLM(CONFIG).eval()


def calibrated(model, folder):
    batches = Counted([batch(i, region=False) for i in range(2)])
    calibration = Calibration(model, batches, stored=StatisticsFolder(folder) if folder else None)
    batches.passes = 0
    return calibration, batches


@pytest.mark.parametrize("first, second", (("multiflow", "multiflow_edges"), ("snip", "snip")))
def test_a_second_sparsity_or_pruner_costs_no_second_pass(model, tmp_path, first, second):
    calibration, batches = calibrated(model, tmp_path)
    catalogue.load(first).prune(model, 0.5, calibration)
    assert batches.passes == 1
    calibration, batches = calibrated(model, tmp_path)
    found = catalogue.load(second).prune(model, 0.75, calibration)
    assert batches.passes == 0
    fresh, _ = calibrated(model, None)
    expected = catalogue.load(second).prune(model, 0.75, fresh)
    assert all(torch.equal(found.masks[name], mask) for name, mask in expected.masks.items())
    assert found.report["hashes"] == expected.report["hashes"]
    assert calibration.losses == fresh.losses


def test_a_broken_file_is_reported_and_made_again(model, tmp_path, caplog):
    calibration, _ = calibrated(model, tmp_path)
    norms = calibration.norms()
    [file] = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-9])
    calibration, batches = calibrated(model, tmp_path)
    with caplog.at_level(logging.WARNING):
        again = calibration.norms()
    assert batches.passes == 1
    assert str(file) in caplog.text
    assert all(torch.equal(again[name], norm) for name, norm in norms.items())
    calibration, batches = calibrated(model, tmp_path)
    calibration.norms()
    assert batches.passes == 0


def test_later_steps_of_a_schedule_ask_the_data_themselves(model, tmp_path):
    calibration, batches = calibrated(model, tmp_path)
    calibration.norms()
    later = calibration.stage(1)
    batches.passes = 0
    later.norms()
    assert batches.passes == 1
