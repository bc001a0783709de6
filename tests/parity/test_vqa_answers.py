"""VQA accuracy against what the official evaluator, and its older copy, say of recorded answers: to the last bit."""

import json
from pathlib import Path

from vlp_bench.metrics.vqa import accuracy, normalised, server_accuracy, without_signs

RECORDED = json.loads((Path(__file__).parent / "data/vqa_answers.json").read_text(encoding="utf-8"))


def test_every_recorded_answer_scores_what_it_scored_there():
    assert len(RECORDED["scored"]) == 200
    for row in RECORDED["scored"]:
        for rule in ("official", "released"):
            told = (row["predicted"], row["answers"])
            assert server_accuracy(*told, rule=rule) == row[rule], (rule, row)
            if len(row["answers"]) > 3:  # fewer than the server's rule is made for: see tests/metrics/test_vqa.py
                assert accuracy(*told, rule=rule) == row[rule], (rule, row)


def test_every_recorded_text_has_the_normal_form_it_had_there():
    for text, (bare, normal) in RECORDED["normalised"].items():
        assert without_signs(text) == bare
        assert normalised(text) == normal
