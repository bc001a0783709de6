"""Question answering on a tiny world: masks are inherited, answers ranked, gathered and scored."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn

from tests.tasks.worlds import questions, tiny
from vlp_bench.data.records import Question
from vlp_bench.metrics.vqa import accuracy, majority
from vlp_bench.models.vqa import BLIPVQA, XVLMVQA
from vlp_bench.pruning.keep_pruned import KeepPruned
from vlp_bench.pruning.solution import Solution
from vlp_bench.tasks.vqa import VQA

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*"),
]
Train = Callable[..., Trainer]
TASK_MODEL = {"xvlm": XVLMVQA.of, "blip": BLIPVQA.of}
FUSION = "text_encoder.bert.encoder.layer.1.output.dense.weight"


def task(family: str = "xvlm", **changes: Any) -> VQA:
    return VQA(tiny(family), **{"task_model": TASK_MODEL[family], "lr": 1e-2, "k_test": 4} | changes)


def halved(model: nn.Module) -> Solution:
    """A mask that removes every second weight of what the adapter says can be pruned."""
    names = model.adapter.prunable(model)
    shapes = {name: model.get_parameter(name).shape for name in names}
    return Solution({n: (torch.arange(s.numel()) % 2).bool().view(s) for n, s in shapes.items()})


@pytest.mark.parametrize("family", ["xvlm", "blip"])
def test_a_pruned_model_hands_its_masks_on_and_stays_pruned(train: Train, family: str) -> None:
    solution = halved(tiny(family))
    made = task(family, pruner=solution.install, image_size=32)
    masks = made.task_masks(solution.masks)
    assert made.model.config.image_size == 32
    assert set(solution.masks) == {made.model.pretrained_name(name) for name in masks}
    data = questions(sep=family == "blip", train_transform=_small, eval_transform=_small)
    train(made, KeepPruned(masks, prefix="model."), data=data, max_epochs=1)
    for name, mask in masks.items():
        weight = made.model.get_parameter(name)
        assert not weight[~mask].any()
        assert weight[mask].any()


def _small(image: Any, rng: Any) -> torch.Tensor:
    from vlp_bench.data.transforms.images import Eval

    return Eval(32)(image, rng)


def test_the_copied_decoder_may_regrow_if_asked() -> None:
    masks = halved(tiny("xvlm")).masks
    twice = [name for name in task().task_masks(masks) if name.startswith("text_decoder.")]
    assert twice
    assert set(task().task_masks(masks)) - set(task(mask_decoder=False).task_masks(masks)) == set(twice)


def test_answers_are_scored_by_the_rule_and_kept_for_the_server(train: Train, tmp_path: Path) -> None:
    made, data = task(), questions()
    trainer = train(made, data=data, max_epochs=1)
    assert "val/accuracy" in trainer.callback_metrics
    [metrics] = trainer.test(made, data, verbose=False)
    asked = data.asked("test")
    told = json.loads((tmp_path / "answers.json").read_text())
    assert [row["question_id"] for row in told] == [q.question_id for q in asked]
    scores = [100 * accuracy(row["answer"], q.answers) for row, q in zip(told, asked, strict=True)]
    assert metrics["test/accuracy"] == pytest.approx(sum(scores) / len(scores))
    assert made.examples["accuracy"].tolist() == pytest.approx(scores)
    usual = majority((q.question_type, q.answers) for q in data.asked("train"))
    expected = sum(accuracy(usual.get(q.question_type, usual[""]), q.answers) for q in asked) / len(asked)
    assert metrics["test/majority"] == pytest.approx(100 * expected)
    assert {f"test/asks/{q.question_type}" for q in asked} <= metrics.keys()


def test_training_lowers_the_loss(train: Train) -> None:
    losses: list[float] = []
    made = task(lr=5e-3)
    made.on_train_batch_end = lambda outputs, batch, batch_idx: losses.append(float(outputs["loss"]))  # pyright: ignore
    train(made, data=questions(), max_epochs=8, limit_val_batches=0)
    assert sum(losses[-4:]) < 0.8 * sum(losses[:4])


def test_questions_without_answers_go_to_the_server_unscored(train: Train, tmp_path: Path, monkeypatch: Any) -> None:
    from dataclasses import replace

    made, data = task(), questions()
    trainer = train(made, data=data, max_epochs=1, limit_train_batches=1)
    asked = data.asked
    hidden = [replace(q, answers=()) for q in asked("test")]
    monkeypatch.setattr(data, "asked", lambda split: hidden if split == "test" else asked(split))
    [metrics] = trainer.test(made, data, verbose=False)
    assert metrics == {}
    assert "answers.json goes to the server" in made.notes["accuracy"]
    assert len(json.loads((tmp_path / "answers.json").read_text())) == 7


@pytest.mark.parametrize(
    "given, message",
    [
        ({"k_test": 0}, "k_test must be at least 1, got 0"),
        ({"pairs": 0}, "pairs must be at least 1"),
        ({"score": "soft"}, "official, released, exact, got 'soft'"),
        ({"lr": 0.0}, "lr must be a positive number"),
    ],
)
def test_arguments_out_of_range_are_refused_before_pruning(given: dict, message: str) -> None:
    calls: list[nn.Module] = []
    with pytest.raises(ValueError, match=message):
        task(pruner=calls.append, **given)
    assert not calls


@pytest.mark.parametrize(
    "silent, says",
    [({"train": 1}, "1 of 2 questions of the train split have no answers, the first is question_id 0: give"),
     ({"val": 2}, "2 of 2 questions of the val split"), ({"test": 1}, "1 of 2 questions of the test split"),
     ({"test": 2}, "")],
)  # fmt: skip
def test_questions_without_answers_are_named_before_anything_is_pruned(silent, says):
    """But for a whole test split's, whose answers a server has."""

    def asked(split: str) -> list[Question]:
        return [Question("a", "q", () if n < silent.get(split, 0) else ("x",), n) for n in range(2)]

    data = SimpleNamespace(asked=asked)
    if not says:
        VQA.check(data, trained=True)
    else:
        with pytest.raises(ValueError, match=f"^{says}"):
            VQA.check(data, trained=True)
    if "test" not in silent:
        VQA.check(data, trained=False)
