"""Where a run computes, and what `precision=auto` stands for there."""

import json

import pytest
import torch
from rich.console import Console

from vlp_bench.pruning.precision import SLOW
from vlp_bench.runs.device import about_precision, training_precision
from vlp_bench.runs.run import Helpers, run
from vlp_bench.runs.trial_construction import construct_all
from vlp_bench.sweeps.grid import Grid
from vlp_bench.sweeps.specifications import specifications


def config(precision, accelerator="cpu"):
    return {"trainer": {"precision": precision, "accelerator": accelerator}}


@pytest.fixture
def processor(monkeypatch):
    """Makes the processor one with, or without, matrix units for bfloat16; there is no GPU."""

    def make(amx):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": amx}, raising=False)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    return make


@pytest.mark.parametrize(
    ("asked", "amx", "used", "said"),
    [
        ("auto", True, "bf16-mixed", "precision=auto: bf16-mixed"),
        ("auto", False, "32-true", f"precision=auto: 32-true ({SLOW})"),
        ("bf16-mixed", True, "bf16-mixed", ""),
        ("bf16-mixed", False, "bf16-mixed", f"precision=bf16-mixed: {SLOW}; precision=32-true or auto is faster here"),
        ("32-true", True, "32-true", ""),
        ("32-true", False, "32-true", ""),
    ],
)
def test_auto_is_what_is_fast_here(processor, asked, amx, used, said):
    processor(amx)
    assert training_precision(config(asked)) == used
    assert about_precision(config(asked)) == said


def test_auto_is_bfloat16_on_a_gpu(processor, monkeypatch):
    processor(False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert training_precision(config("auto", "auto")) == "bf16-mixed"
    assert about_precision(config("bf16-mixed", "gpu")) == ""


@pytest.mark.parametrize("amx", [True, False])
def test_what_auto_stands_for_decides_no_identity(processor, amx):
    """A sweep is planned on one machine and run on another."""
    processor(amx)
    [auto], [half], [full] = (
        specifications(Grid(("omp",), (0.9,), (0,), 1, ("+exp=xvlm_itr", "benchmark=world", *words)))
        for words in ((), ("precision=bf16-mixed",), ("precision=32-true",))
    )
    assert auto.config["trainer"]["precision"] == "auto"
    assert len({auto.run, half.run, full.run}) == 3


@pytest.mark.parametrize("amx", [True, False])
@pytest.mark.parametrize("exp", ["xvlm_itr", "xvlm_vqa", "xvlm_ic"])
def test_what_a_run_is_made_of_can_be_made(processor, exp, amx):
    processor(amx)
    for words in ((), ("trainer=cpu",), ("precision=auto", "task.lr=1e-4")):
        [one] = specifications(Grid(("omp",), (0.9,), (0,), 1, (f"+exp={exp}", "benchmark=world", *words)))
        construct_all(one)


def test_a_run_goes_through_and_says_what_auto_stood_for(processor, tmp_path):
    processor(False)
    words = ("+exp=xvlm_itr", "benchmark=world", "rehearse=true", f"paths.out={tmp_path}")
    [one] = specifications(Grid(("omp",), (0.9,), (0,), 1, words))
    run(one, Helpers(console=Console(quiet=True)))
    rows = [json.loads(line) for line in (one.folder / "rows.jsonl").read_text().splitlines()]
    assert {row["provenance"]["precision"] for row in rows} == {"32-true"}
