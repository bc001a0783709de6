"""Classification: accuracy by hand, fine-tuning on a tiny world, zero-shot with sentences, and bad input."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer

from vlp_bench.data.datasets.classification import ClassificationData, LabelledCalibration
from vlp_bench.data.datasets.labelled import CLASSES, ShapesLabelled, label_of
from vlp_bench.data.datasets.prompts import TEMPLATES, Prompts, world_tokenizer
from vlp_bench.data.shapes.phrases import vocabulary
from vlp_bench.data.shapes.world import World, parse
from vlp_bench.data.transforms.images import Eval, Light
from vlp_bench.models.clip import XVLMTowers
from vlp_bench.models.dino import DINO, DINOConfig
from vlp_bench.models.xvlm.model import XVLM
from vlp_bench.models.xvlm.towers import XVLMConfig
from vlp_bench.tasks.classification import Classification, ZeroShot
from vlp_bench.tasks.optimisation import Diverged

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*number of training batches.*"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*"),
]

SOURCE = ShapesLabelled(train=48, val=12, test=24, calibration=16)
CONFIG = DINOConfig(image_size=48, patch_size=16, vision_width=16, vision_layers=1, vision_heads=2, classes=48)


def data(**changes) -> ClassificationData:
    calibration = LabelledCalibration(Eval(48), num_batches=2, batch_size=8)
    arguments = {"batch_size": 16, "eval_batch_size": 10} | changes
    return ClassificationData(
        SOURCE, train_transform=Light(48, 1), eval_transform=Eval(48), calibration=calibration, **arguments
    )


def dino() -> DINO:
    torch.manual_seed(0)
    return DINO(CONFIG)


def towers() -> XVLMTowers:
    torch.manual_seed(0)
    config = XVLMConfig(
        image_size=48, patch_size=16, vision_width=16, vision_layers=1, vision_heads=2, local_attn_depth=1,
        text_width=16, text_layers=2, fusion_layers=1, text_heads=2, embed_dim=8, max_positions=20,
        vocab_size=len(vocabulary()),
    )  # fmt: skip
    return XVLMTowers(XVLM(config))


@pytest.fixture
def trainer(tmp_path: Path) -> Trainer:
    return Trainer(
        accelerator="cpu", max_epochs=2, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, default_root_dir=str(tmp_path),
    )  # fmt: skip


# the world's classes


def test_every_class_is_there_equally_often_and_true() -> None:
    records = SOURCE.labelled("train").records
    assert sorted(record.label for record in records) == list(range(48))
    for record in records:
        scene = parse(record.image)
        assert label_of(scene) == record.label
        (large,) = [thing for thing in scene.things if thing.size == 1]
        assert CLASSES[record.label] == f"{('red', 'brown', 'yellow', 'green', 'cyan', 'blue', 'purple', 'pink')[large.colour]} {('circle', 'square', 'triangle', 'diamond', 'cross', 'ring')[large.shape]}"  # noqa: E501  # fmt: skip


def test_splits_share_no_scene() -> None:
    buckets = {
        split: {parse(record.image).bucket() for record in SOURCE.labelled(split).records}
        for split in ("train", "val", "test", "calibration")
    }
    assert all(not a & b for n, a in buckets.items() for m, b in buckets.items() if n != m)
    with pytest.raises(ValueError, match="train, val, test, calibration"):
        SOURCE.labelled("dev")


def test_a_scene_without_one_large_thing_has_no_class() -> None:
    scene, _ = World(0).captioned("itr_train", 0, fewest=4)
    scenes = [World(0).captioned("itr_train", i, fewest=4)[0] for i in range(8)]
    wrong = next(s for s in [scene, *scenes] if sum(thing.size for thing in s.things) != 1)
    with pytest.raises(ValueError, match="large things"):
        label_of(wrong)


# fine-tuning


def test_fine_tuning_learns_and_measures(trainer: Trainer) -> None:
    task = Classification(dino(), classes=48, lr=3e-3, warmup=0.0)
    trainer.fit(task, data())
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert metrics["train/ce"] < 3.87  # ln 48 = 3.871
    assert {"val/accuracy", "val/top5"} <= metrics.keys()
    [tested] = trainer.test(task, data(), verbose=False)
    assert 0 <= tested["test/accuracy"] <= tested["test/top5"] <= 100


def test_the_classifier_is_the_run_s_and_comes_after_the_pruner() -> None:
    seen = []
    task = Classification(dino(), classes=10, pruner=lambda model: seen.append(model.config.classes), seed=3)
    assert seen == [48]
    assert task.model.classifier.out_features == 10
    other, again = (Classification(dino(), classes=10, seed=seed) for seed in (4, 3))
    assert not torch.equal(other.model.classifier.weight, task.model.classifier.weight)
    assert torch.equal(again.model.classifier.weight, task.model.classifier.weight)


def test_data_of_another_number_of_classes_is_refused(trainer: Trainer) -> None:
    with pytest.raises(ValueError, match=r"task\.classes=10, but the data has 48"):
        trainer.fit(Classification(dino(), classes=10), data())
    with pytest.raises(ValueError, match="at least 2"):
        Classification(dino(), classes=1)


def test_calibration_is_the_same_at_every_pass_and_for_every_seed() -> None:
    first, again = (list(data(seed=seed).calibration()) for seed in (0, 1))
    assert len(first) == 2
    assert all(torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels) for a, b in zip(first, again))
    assert data().calibration_fingerprint() == data(seed=5).calibration_fingerprint()
    settings = LabelledCalibration(Eval(48), num_batches=3, batch_size=8)
    short = ClassificationData(SOURCE, train_transform=Eval(48), eval_transform=Eval(48), calibration=settings)
    with pytest.raises(ValueError, match=r"there are 16; lower data\.calibration\.num_batches to 2"):
        short.calibration()


# zero-shot

PROMPTS = Prompts("there is a large {}", world_tokenizer())


def test_zero_shot_needs_no_training(trainer: Trainer) -> None:
    [tested] = trainer.test(ZeroShot(towers()), data(prompts=PROMPTS), verbose=False)
    assert 0 <= tested["test/accuracy"] <= tested["test/top5"] <= 100
    with pytest.raises(ValueError, match=r"data\.prompts is null"):
        trainer.test(ZeroShot(towers()), data(), verbose=False)


def test_the_nearest_sentence_wins(trainer: Trainer) -> None:
    """Towers whose images are their labels' sentences are always right."""
    model, source = towers().eval(), data(prompts=PROMPTS)
    embeds = model.embed_texts(*source.sentences())
    told = {tuple(batch.images.flatten(1).sum(1).tolist()): batch.labels for batch in source.test_dataloader()}
    model.embed_images = lambda images: embeds[told[tuple(images.flatten(1).sum(1).tolist())]]
    [tested] = trainer.test(ZeroShot(model), source, verbose=False)
    assert tested["test/accuracy"] == pytest.approx(100)


def test_calibration_sentences_are_those_of_the_labels() -> None:
    ids, atts = PROMPTS.encode(CLASSES)
    for batch in data(prompts=PROMPTS).calibration():
        assert torch.equal(batch.text_ids, ids[batch.labels])
        assert torch.equal(batch.text_atts, atts[batch.labels])


def test_templates() -> None:
    assert (
        Prompts("oxford_pets", world_tokenizer()).sentence("basset_hound")
        == "a photo of a basset hound, a type of pet."
    )
    assert len(TEMPLATES) == 11
    with pytest.raises(ValueError, match=r"one \{\} for the class"):
        Prompts("a photo", world_tokenizer())


def test_what_was_said_of_each_image_is_kept_in_the_order_of_the_split(trainer: Trainer) -> None:
    task, source = Classification(dino().eval(), classes=48), data()
    [tested] = trainer.test(task, source, verbose=False)
    with torch.no_grad():
        predicted = torch.cat([task.model.classify(batch.images).argmax(1) for batch in source.test_dataloader()])
    right = 100.0 * (predicted == torch.tensor(source.labels("test")))
    assert task.examples["predicted"].tolist() == predicted.tolist()
    assert task.examples["accuracy"].tolist() == right.tolist()
    assert tested["test/accuracy"] == pytest.approx(float(right.mean()))


def test_the_majority_s_accuracy_stands_beside_its_own(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    source = data()
    labels = {"train": [3, 7, 7], "test": [7] * 6 + [3] * 18}
    monkeypatch.setattr(source, "labels", labels.__getitem__)
    [tested] = trainer.test(Classification(dino(), classes=48), source, verbose=False)
    assert tested["test/majority"] == 25.0


def test_scores_that_are_no_numbers_are_told(trainer: Trainer) -> None:
    model = dino()
    model.classifier.weight.data.fill_(torch.nan)
    task = Classification(model, classes=48)
    task.model.classifier.weight.data.fill_(torch.nan)
    with pytest.raises(Diverged, match="not numbers"):
        trainer.test(task, data(), verbose=False)
