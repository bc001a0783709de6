"""Typing errors in their short form; `benchmarks/endurance/typing_errors.py` tries thousands."""

import pytest

from benchmarks.endurance.typing_errors import (
    FAULTS,
    Input,
    inputs,
    is_wrong,
    tried,
    verdict,
)
from vlp_bench.runs.specification import specification_of


@pytest.mark.parametrize(
    ("experiment", "most"),
    [("xvlm_itr", 16), ("blip_vqa", 12), ("dino_cls", 12), *(pytest.param(name, 700, marks=pytest.mark.slow)
     for name in ("xvlm_itr", "blip_vqa", "dino_cls"))],
)  # fmt: skip
def test_every_typing_error_is_one_line_that_names_its_key(experiment, most):
    counts, faults = tried([experiment], most, 0, lambda text: None)
    assert faults == []
    assert sum(counts.values()) == most
    assert counts["refused"] > most / 2


def test_the_generator_reaches_every_key_with_every_kind_of_mistake():
    found = {given.word for given in inputs(specification_of(["+exp=xvlm_itr"]).config)}
    assert {"sparsity=½", "~sparsity", "seed=${seed}", "pruner=[omp]", "task.k_test=null", "+trainer.max_steps=5",
            "+data.calibration.unknown=1", "force=abc", "data.source.train=1e400"} <= found  # fmt: skip
    assert len(found) > 1000


def test_what_is_right_is_not_called_wrong():
    assert is_wrong("task.lr", 1e-4, "1.5") is None
    assert is_wrong("task.k_test", 20, "1.5") is True
    assert verdict("xvlm_itr", Input("task.lr=0.5", "task.lr", None)) == ("accepted", "")
    assert verdict("xvlm_itr", Input("task.lr=0.5", "task.lr", True))[0] == "silently wrong"
    assert "silently wrong" in FAULTS


@pytest.mark.parametrize("key", ["pruning_seed", "pruning_precision", "checkpoint_minutes"])
def test_what_has_a_default_may_be_taken_away_and_the_run_is_the_same(key):
    words = ["+exp=dino_cls", f"~{key}"]
    assert specification_of(words).run == specification_of(words[:1]).run
