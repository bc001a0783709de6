"""Captions that are learnt: prompt, order, and back from tokens to words."""

from typing import Any

import pytest
import torch

from vlp_bench.data.datasets.captioning import CaptioningData, ShapesCaptions
from vlp_bench.data.datasets.retrieval import CalibrationSettings
from vlp_bench.data.transforms.images import Eval

SIZES: dict[str, Any] = {"train": 6, "val": 3, "test": 5, "general": 8, "regions": 8}


def data(**changes: Any) -> CaptioningData:
    settings = CalibrationSettings(Eval(48), Eval(48), side=6, num_batches=2, batch_size=4)
    shared: dict[str, Any] = {"train_transform": Eval(48), "eval_transform": Eval(48), "calibration": settings}
    return CaptioningData(ShapesCaptions(**SIZES), **shared | {"batch_size": 4, "eval_batch_size": 2} | changes)


def test_captions_follow_the_prompt_and_end() -> None:
    made = data()
    batch = next(iter(made.train_dataloader()))
    first = made.written.decode(batch.text_ids[0]).split()
    assert first[:4] == ["[CLS]", "a", "picture", "of"]
    assert "[SEP]" in first
    assert torch.equal(made.prompted(2), batch.text_ids[:2, :4])


def test_every_caption_or_one_of_each_image_is_learnt() -> None:
    assert len(data(each="caption", batch_size=10).train_dataloader()) == 3
    assert len(data(each="image", batch_size=3).train_dataloader()) == 2


def test_generated_tokens_become_words_without_the_prompt() -> None:
    made = data()
    known = made.written.get_vocab()
    said = [known[w] for w in ("[CLS]", "a", "picture", "of", "red", "ring", "[SEP]", "[PAD]")]
    ids = torch.tensor([said, [*said[:5], len(known) + 1, *said[6:]]])  # [ENC] of BLIP is no word
    assert made.words(ids) == ["red ring", "red"]
    assert made.end == known["[SEP]"]


def test_evaluation_shows_images_in_order() -> None:
    made = data()
    batches = list(made.test_dataloader())
    assert torch.cat([b.idx for b in batches]).tolist() == list(range(5))
    assert all(b.text_ids is None for b in batches)
    assert len(made.described("test")) == 5
    assert len({r.image for r in made.described("test")} & {r.image for r in made.described("train")}) == 0


def test_a_split_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match="train, val or test, got 'dev'"):
        ShapesCaptions(**SIZES).captions("dev")


def test_another_set_can_be_tested() -> None:
    other = ShapesCaptions(**SIZES | {"test": 2, "world": 3})
    plain, swapped = data(), data(tested=other)
    assert len(swapped.described("test")) == 2
    assert swapped.described("val") == plain.described("val")
    assert swapped.fingerprint() != plain.fingerprint()
    assert swapped.calibration_fingerprint() == plain.calibration_fingerprint()


def test_the_first_stage_sees_other_scenes_under_the_same_calibration() -> None:
    first, second = ShapesCaptions(train_split="pretrain", **SIZES), ShapesCaptions(**SIZES)
    assert {r.image for r in first.captions("train").records}.isdisjoint(
        r.image for r in second.captions("train").records
    )
    assert first.fingerprint("general", "regions") == second.fingerprint("general", "regions")
    with pytest.raises(ValueError, match="ic_train or pretrain, got 'itr_test'"):
        ShapesCaptions(train_split="itr_test", **SIZES)
