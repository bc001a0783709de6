"""The pre-training commands: a few steps, from nothing to a checkpoint that loads, and on from the last saved step."""

import csv
import json

import pytest
import torch

from vlp_bench.commands import pretrain, pretrain_dino
from vlp_bench.models.checkpoints.read_write import load_model
from vlp_bench.runs.pretraining import PretrainingRun

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:lightning"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*"),
]

TINY = ["--batch-size", "4", "--width", "32", "--probe-every", "2", "--warmup-steps", "1", "--precision", "32-true"]


def dino(out, steps):
    pretrain_dino.main(["--out", str(out), "--steps", str(steps), "--layers", "1", *TINY])
    return load_model(out / pretrain_dino.NAME)


def curves(out):
    files = sorted(out.glob("curves/*/metrics.csv"))
    rows = [row for file in files for row in csv.DictReader(file.read_text().splitlines())]
    return [row for row in rows if row.get("told/shape")]


def test_the_small_vit_is_trained_probed_and_described(tmp_path):
    model = dino(tmp_path, 4)
    assert type(model).__name__ == "DINO"
    assert model.config.vision_width == 32
    assert len(curves(tmp_path)) == 2  # at steps 2 and 4
    run = json.loads((tmp_path / "pretraining.json").read_text())
    assert run["first_step"] == 0
    assert run["arguments"]["steps"] == "4"
    assert "supervised" in run["trained_on"]


def test_a_run_goes_on_from_its_last_saved_step(tmp_path):
    dino(tmp_path, 2)
    args = pretrain_dino.parser().parse_args(["--out", str(tmp_path), "--steps", "2"])
    assert PretrainingRun(args).done == 0
    torch.save({"global_step": 250}, tmp_path / "last.ckpt")
    assert PretrainingRun(args).done == 250


def test_a_small_xvlm_is_trained(tmp_path):
    sizes = ["--vision-layers", "2", "--text-layers", "1", "--fusion-layers", "1"]
    pretrain.main(["--out", str(tmp_path), "--steps", "2", *sizes, *TINY, "--probe-every", "100", "--workers", "0"])
    assert type(load_model(tmp_path / "xvlm_shapes.safetensors")).__name__ == "XVLM"
