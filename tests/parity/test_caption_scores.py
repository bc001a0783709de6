"""Caption metrics against what pycocoevalcap's own driver said of recorded captions (40 images, SPICE left out)."""

import json
from pathlib import Path

import pytest

from vlp_bench.data.records import CaptionedImage
from vlp_bench.metrics.captions import CaptionScores
from vlp_bench.metrics.tokenisers import java, package, ptb, regex

RECORDED = json.loads((Path(__file__).parent / "data/captions.json").read_text(encoding="utf-8"))
IMAGES = [CaptionedImage(str(n), tuple(texts), str(n)) for n, texts in enumerate(RECORDED["references"])]
CAPTIONS = dict(enumerate(RECORDED["candidates"]))
NAMES = {
    "bleu1": "Bleu_1",
    "bleu2": "Bleu_2",
    "bleu3": "Bleu_3",
    "bleu4": "Bleu_4",
    "rouge_l": "ROUGE_L",
    "cider": "CIDEr",
}
FLAT = [text for texts in RECORDED["references"] for text in texts]
CUT = [text for texts in RECORDED["cut"] for text in texts]

needs_package = pytest.mark.skipif(package() is None, reason="needs the extra 'caption' (pycocoevalcap)")
needs_java = pytest.mark.skipif(java() is None, reason="needs Java")


def test_the_stand_in_cuts_these_captions_as_stanford_does():
    assert regex(FLAT) == CUT


@needs_package
def test_with_the_stand_in_all_numbers_are_the_driver_s_here():
    scores = CaptionScores(tokenizer="regex", meteor=False)(CAPTIONS, IMAGES)
    assert scores.values.keys() == {f"{name}_regex" for name in NAMES}
    for ours, theirs in NAMES.items():
        assert scores.values[f"{ours}_regex"] == pytest.approx(100 * RECORDED["driver"][theirs], abs=1e-6)


@needs_package
@needs_java
def test_with_stanford_s_tokeniser_all_numbers_are_the_driver_s():
    assert ptb(FLAT) == CUT
    scores = CaptionScores(meteor=False)(CAPTIONS, IMAGES)
    for ours, theirs in NAMES.items():
        assert scores.values[ours] == pytest.approx(100 * RECORDED["driver"][theirs], abs=1e-6)
    for ours, theirs in {"bleu4": "Bleu_4", "rouge_l": "ROUGE_L", "cider": "CIDEr"}.items():
        each = [100 * RECORDED["each"][str(n)][theirs] for n in range(len(IMAGES))]
        assert scores.examples[ours] == pytest.approx(each, abs=1e-6)


@pytest.mark.slow
@needs_package
@needs_java
def test_meteor_is_the_driver_s_and_its_process_is_started_once():
    scorer = CaptionScores(meteor=True)
    scorer.prepare()
    first = scorer._meteor
    for _ in range(2):
        scores = scorer(CAPTIONS, IMAGES)
        assert scores.values["meteor"] == pytest.approx(100 * RECORDED["driver"]["METEOR"], abs=1e-6)
    assert scorer._meteor is first
