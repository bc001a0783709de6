"""Masks made on a device that isn't the processor, and how often that must be waited for. No card is needed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import pretend_device
from vlp_bench.pruning import catalogue

pytestmark = pytest.mark.skipif(not pretend_device.POSSIBLE, reason="this torch has no backends written in Python")


@pytest.fixture(scope="module")
def found():
    command = [sys.executable, "-m", "tests.pruning.on_another_device"]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_every_pruner_gives_the_processors_masks_and_values(found):
    assert {name: found[name] for name in catalogue.names()} == dict.fromkeys(catalogue.names(), "equal")
    assert found["xvlm, multiflow"] == found["blip, multiflow"] == "equal"


def test_the_same_seed_draws_the_same_negatives(found):
    assert found["draws"] is True


@pytest.mark.parametrize("model", ["xvlm", "blip"])
def test_statistics_wait_for_the_device_a_few_times_a_batch_whatever_the_layers(found, model):
    """A batch of two parts: what tells it from others, its whole numbers by part, and whether all is finite."""
    two, four = found[f"{model}, waits"]
    assert four - two <= 2 * 4
