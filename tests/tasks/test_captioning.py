"""Captioning on a tiny world: generated, scored by every scorer, kept for the server."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn

from tests.tasks.worlds import SIZES, captions, shared, tiny
from vlp_bench.data.datasets.captioning import CaptioningData, ShapesCaptions
from vlp_bench.data.records import CaptionedImage
from vlp_bench.metrics.caption_scores import Scores
from vlp_bench.metrics.captions import CaptionScores
from vlp_bench.metrics.truth import Truth
from vlp_bench.models.captioning import BLIPCaptioner, XVLMCaptioner
from vlp_bench.tasks.captioning import Captioning, read_captions, server_id, write_captions

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*"),
]
Train = Callable[..., Trainer]
TASK_MODEL = {"xvlm": XVLMCaptioner.of, "blip": BLIPCaptioner.of}


class Length:
    """A scorer that counts words, and notes what it does not count."""

    def __init__(self) -> None:
        self.prepared = 0
        self.seen: dict[int, str] = {}

    def prepare(self) -> None:
        self.prepared += 1

    def names(self, images: Sequence[CaptionedImage]) -> Sequence[str]:
        return ["words"]

    def __call__(self, captions: Mapping[int, str], images: Sequence[CaptionedImage]) -> Scores:
        self.seen = dict(captions)
        lengths = [float(len(captions[n].split())) for n in range(len(images))]
        return Scores({"words": sum(lengths) / len(lengths)}, {"words": lengths}, {"letters": "not computed: a test"})


def task(family: str = "xvlm", **changes: Any) -> Captioning:
    given = {
        "task_model": TASK_MODEL[family],
        "scorers": [Truth(), Length()],
        "best": "words",
        "lr": 1e-2,
        "max_length": 12,
    }
    return Captioning(tiny(family), **given | changes)


@pytest.mark.parametrize("family", ["xvlm", "blip"])
def test_every_image_of_a_split_is_described_and_scored(train: Train, tmp_path: Path, family: str) -> None:
    made, data = task(family), captions(sep=family == "blip")
    trainer = train(made, data=data, max_epochs=1)
    assert {"val/truth", "val/grammatical", "val/words"} <= set(trainer.callback_metrics)
    [metrics] = trainer.test(made, data, verbose=False)
    told = json.loads((tmp_path / "captions.json").read_text())
    counter = made.scorers[1]
    assert isinstance(counter, Length)
    assert [row["caption"] for row in told] == [counter.seen[n] for n in range(7)]
    assert metrics["test/words"] == pytest.approx(sum(len(row["caption"].split()) for row in told) / 7)
    assert all(len(row["caption"].split()) <= 12 - 4 for row in told)
    assert made.examples["words"].tolist() == [len(row["caption"].split()) for row in told]
    assert made.notes == {"letters": "not computed: a test"}
    assert counter.prepared
    assert made.monitor == "words"


def test_masks_are_handed_on() -> None:
    model = tiny("blip")
    masks = {n: torch.ones_like(model.get_parameter(n), dtype=torch.bool) for n in model.adapter.prunable(model)}
    task_masks = task("blip").task_masks(masks)
    assert all(name.startswith(("vision_model.", "text_decoder.")) for name in task_masks)
    assert "text_decoder.bert.encoder.layer.0.output.dense.weight" in task_masks


def test_training_lowers_the_loss(train: Train) -> None:
    losses: list[float] = []
    made = task(lr=5e-3)
    made.on_train_batch_end = lambda outputs, batch, batch_idx: losses.append(float(outputs["loss"]))  # pyright: ignore
    train(made, data=captions(each="image"), max_epochs=12, limit_val_batches=0)
    assert sum(losses[-4:]) < 0.9 * sum(losses[:4])


@pytest.mark.parametrize(
    "image, expected",
    [
        (CaptionedImage("val2014/COCO_val2014_000000391895.jpg", ("a",), "x"), 391895),
        (CaptionedImage("val/0013ea2087020901.jpg", ("a",), "17"), "17"),  # hexadecimal names are no numbers
        (CaptionedImage("img.jpg", ("a",), "img"), "img"),
    ],
)
def test_coco_s_numbers_are_those_of_its_file_names(image: CaptionedImage, expected: int | str) -> None:
    assert server_id(image) == expected


def test_images_whose_names_end_in_one_number_are_told_apart(tmp_path: Path) -> None:
    """In the file of captions, whose readers know an image by its id."""
    images = [CaptionedImage(name, ("a",), name) for name in ("cat_1.jpg", "dog_1.jpg", "dog_2.jpg")]
    told = {0: "a cat", 1: "a dog", 2: "two dogs"}
    write_captions(tmp_path / "captions.json", images, told)
    rows = json.loads((tmp_path / "captions.json").read_text())
    assert [row["image_id"] for row in rows] == ["cat_1.jpg", "dog_1.jpg", "dog_2.jpg"]
    assert read_captions(tmp_path / "captions.json", images) == told
    write_captions(tmp_path / "captions.json", images[1:], {0: "a dog", 1: "two dogs"})
    assert [row["image_id"] for row in json.loads((tmp_path / "captions.json").read_text())] == [1, 2]


@pytest.mark.parametrize(
    "given, message",
    [
        ({"scorers": []}, "scorers: at least one"),
        ({"beams": 0}, "beams must be 1 to 1000, got 0"),
        ({"min_length": 30}, "min_length must be 0 to max_length 12"),
    ],
)
def test_arguments_out_of_range_are_refused_before_pruning(given: dict, message: str) -> None:
    calls: list[nn.Module] = []
    with pytest.raises(ValueError, match=message):
        task(pruner=calls.append, **given)
    assert not calls


def test_a_second_stage_goes_on_from_the_first_s_weights_at_its_own_image_size(train: Train, tmp_path: Path) -> None:
    first = task(image_size=32)
    torch.save({"state_dict": first.state_dict()}, tmp_path / "best.ckpt")
    second = task(image_size=48, start=str(tmp_path / "best.ckpt"))
    name = "text_decoder.bert.encoder.layer.1.output.dense.weight"
    assert torch.equal(first.model.get_parameter(name), second.model.get_parameter(name))
    table = second.model.vision_encoder.embeddings.position_embedding.weight
    assert table.shape == (10, 16)
    assert torch.equal(table[0], first.model.vision_encoder.embeddings.position_embedding.weight[0])


def test_a_first_stage_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    calls: list[nn.Module] = []
    with pytest.raises(ValueError, match="there is no such checkpoint"):
        task(start=str(tmp_path / "best.ckpt"), pruner=calls.append)
    assert not calls
    torch.save({"state_dict": {"other": torch.zeros(1)}}, tmp_path / "best.ckpt")
    with pytest.raises(ValueError, match="is no checkpoint of this task and model"):
        task(start=str(tmp_path / "best.ckpt"))


def test_domains_are_scored_by_themselves_too(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    made, data = task(), captions()
    described = data.described
    kinds = ["in-domain", "out-domain", "in-domain", "", "out-domain", "in-domain", "in-domain"]

    def with_domains(split: str) -> list[CaptionedImage]:
        return [replace(i, domain=kind) for i, kind in zip(described(split), kinds, strict=split == "test")]

    monkeypatch.setattr(data, "described", with_domains)
    trainer = train(made, data=data, max_epochs=1, limit_train_batches=1, limit_val_batches=0)
    [metrics] = trainer.test(made, data, verbose=False)
    words = made.examples["words"]
    for domain in ("in-domain", "out-domain"):
        own = [float(words[n]) for n, kind in enumerate(kinds) if kind == domain]
        assert metrics[f"test/{domain}/words"] == pytest.approx(sum(own) / len(own))
    assert metrics["test/words"] == pytest.approx(float(words.mean()))


class Own(CaptioningData):
    """A user's own pictures: keys that are no scenes."""

    def described(self, split: str) -> list[CaptionedImage]:
        return [replace(image, image=f"{n}.jpg") for n, image in enumerate(super().described(split))]


def own(**changes: Any) -> CaptioningData:
    return Own(ShapesCaptions(**SIZES), **shared(**changes))


def regex_scores() -> CaptionScores:
    pytest.importorskip("pycocoevalcap")
    return CaptionScores(tokenizer="regex", meteor=False)


def test_on_the_embedded_world_truth_chooses_the_epoch() -> None:
    made = task(scorers=[Truth(), regex_scores()], best="truth")
    made.meet(captions())
    assert made.monitor == "truth"


def test_on_own_pictures_cider_chooses_the_epoch(train: Train) -> None:
    made, data = task(scorers=[Truth(), regex_scores()], best="truth"), own()
    made.meet(data)
    assert made.monitor == "cider_regex"
    trainer = train(made, data=data, max_epochs=1)
    assert "val/cider_regex" in trainer.callback_metrics
    assert "val/truth" not in trainer.callback_metrics
    assert made.notes["truth, grammatical"].startswith("not computed: the images are not the embedded world's")


def test_a_choice_that_is_not_computed_is_refused_before_the_training() -> None:
    scorers = [Truth(), regex_scores()]
    with pytest.raises(ValueError, match=r"task\.best=cider is not computed of the 5 .*bleu4_regex.*cider_regex"):
        task(scorers=scorers, best="cider").meet(own())
    one = Own(ShapesCaptions(**SIZES | {"val": 1}), **shared())
    with pytest.raises(ValueError, match=r"task\.best=truth is not computed of the 1 validation"):
        task(scorers=scorers, best="truth").meet(one)
