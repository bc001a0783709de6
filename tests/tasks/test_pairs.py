"""NLVR2 on a tiny world: masks are inherited twice, training learns, accuracy is that of the answers."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer

from tests.tasks.worlds import SIZES, shared, tiny_blip
from vlp_bench.data.datasets.pairs import PairData, ShapesPairs
from vlp_bench.data.datasets.sources import Split
from vlp_bench.data.records import ImagePair
from vlp_bench.models.blip.nlvr import BLIPNLVR
from vlp_bench.pruning.keep_pruned import KeepPruned
from vlp_bench.tasks.pairs import Pairs

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*"),
]
Train = Callable[..., Trainer]


def data(**changes: Any) -> PairData:
    given = shared(sep=True, max_words=38, max_tokens=40) | changes
    return PairData(ShapesPairs(**SIZES), **given)


def task(**changes: Any) -> Pairs:
    return Pairs(tiny_blip(), **{"task_model": BLIPNLVR.of, "lr": 1e-2} | changes)


def test_masks_are_inherited_by_both_cross_attentions_and_kept(train: Train) -> None:
    model = tiny_blip()
    shapes = {name: model.get_parameter(name).shape for name in model.adapter.prunable(model)}
    masks = {n: (torch.arange(s.numel()) % 2).bool().view(s) for n, s in shapes.items()}
    with torch.no_grad():
        for name, mask in masks.items():
            model.get_parameter(name).mul_(mask)
    made = Pairs(model, task_model=BLIPNLVR.of, lr=1e-2)
    task_masks = made.task_masks(masks)
    cross = "text_encoder.encoder.layer.0.crossattention"
    assert {f"{cross}.self0.query.weight", f"{cross}.self1.query.weight"} <= task_masks.keys()
    assert not any("merge_layer" in name or "cls_head" in name for name in task_masks)
    train(made, KeepPruned(task_masks, prefix="model."), data=data(), max_epochs=1)
    for name, mask in task_masks.items():
        assert not made.model.get_parameter(name)[~mask].any()
        assert made.model.get_parameter(name)[mask].any()


def test_accuracy_is_the_share_of_right_answers(train: Train) -> None:
    made, pairs = task(), data()
    trainer = train(made, data=pairs, max_epochs=1)
    [metrics] = trainer.test(made, pairs, verbose=False)
    assert set(metrics) == {"test/accuracy", "test/consistency", "test/majority"}
    made.eval()
    with torch.no_grad():
        right = [
            logits.argmax(1) == batch.labels
            for batch in pairs.test_dataloader()
            for logits in [made.model.judge(batch.images, batch.text_ids, batch.text_atts)]
        ]
    answers = torch.cat(right)
    assert metrics["test/accuracy"] == pytest.approx(100 * float(answers.float().mean()))
    paired = answers[: len(answers) // 2 * 2].unflatten(0, (-1, 2)).all(1)  # each sentence is said twice; a last once
    whole = torch.cat([paired, answers[len(paired) * 2 :]])
    assert metrics["test/consistency"] == pytest.approx(100 * float(whole.float().mean()))
    assert metrics["test/consistency"] < metrics["test/accuracy"]


class AllTrue(ShapesPairs):
    """Pairs that are all said to be true: quickly learnt."""

    def pairs(self, split: str) -> Split[ImagePair]:
        found = super().pairs(split)
        return Split([replace(record, label=True) for record in found.records], found.images)


def test_training_lowers_the_loss(train: Train) -> None:
    losses: list[float] = []
    made = task(lr=5e-3)
    made.on_train_batch_end = lambda outputs, batch, batch_idx: losses.append(float(outputs["loss"]))  # pyright: ignore
    pairs = PairData(AllTrue(**SIZES), **shared(sep=True, max_words=38, max_tokens=40))
    train(made, data=pairs, max_epochs=16, limit_val_batches=0)
    assert sum(losses[-4:]) < 0.8 * sum(losses[:4])
