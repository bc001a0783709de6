"""Accuracy of classes by hand, and against torchmetrics where no scores are equal."""

import pytest
import torch
from torchmetrics.classification import MulticlassAccuracy

from vlp_bench.metrics import ClassAccuracy
from vlp_bench.metrics.classification import class_ranks, majority_accuracy


def measured(*parts: tuple[torch.Tensor, torch.Tensor]) -> dict[str, float]:
    metric, seen = ClassAccuracy(), 0
    for logits, labels in parts:
        metric.update(seen + torch.arange(len(labels)), logits, labels)
        seen += len(labels)
    return {name: float(value) for name, value in metric.compute().items()}


def test_accuracy_by_hand() -> None:
    """Rank 0, rank 1, and the last of six: one of three is right, two are among five."""
    first = torch.tensor([[3.0, 1, 2, 0, 0, 0], [3, 1, 2, 0, 0, 0]]), torch.tensor([0, 2])
    second = torch.tensor([[6.0, 5, 4, 3, 2, 1]]), torch.tensor([5])
    assert measured(first, second) == pytest.approx({"accuracy": 100 / 3, "top5": 200 / 3})


def test_among_two_classes_the_five_likeliest_say_nothing() -> None:
    assert measured((torch.tensor([[1.0, 2], [2, 1]]), torch.tensor([1, 1]))) == {"accuracy": 50.0}


def test_equal_scores_are_no_knowledge() -> None:
    assert measured((torch.zeros(4, 48), torch.tensor([0, 1, 2, 47]))) == {"accuracy": 0.0, "top5": 0.0}


def test_without_ties_it_is_torchmetrics_accuracy() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(200, 12, generator=generator), torch.randint(12, (200,), generator=generator)
    values = measured((logits[:70], labels[:70]), (logits[70:], labels[70:]))
    for name, k in (("accuracy", 1), ("top5", 5)):
        reference = MulticlassAccuracy(12, top_k=k, average="micro")(logits, labels)
        assert values[name] == pytest.approx(100 * float(reference))


def test_what_was_said_of_each_image_is_kept_once_and_in_order() -> None:
    metric = ClassAccuracy()
    metric.update(torch.tensor([2, 0]), torch.tensor([[0.0, 2.0, 1.0], [3.0, 1.0, 2.0]]), torch.tensor([1, 2]))
    metric.update(torch.tensor([1, 2]), torch.tensor([[0.0, 1.0, 5.0], [0.0, 2.0, 1.0]]), torch.tensor([2, 1]))
    assert float(metric.compute()["accuracy"]) == pytest.approx(200 / 3)
    assert metric.predicted.tolist() == [0, 2, 1]
    assert metric.right.tolist() == [False, True, True]


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(ValueError, match="not numbers"):
        class_ranks(torch.full((1, 3), torch.nan), torch.tensor([0]))
    with pytest.raises(ValueError, match="labels must be 0 to 2, got 1 to 3"):
        class_ranks(torch.zeros(2, 3), torch.tensor([1, 3]))
    metric = ClassAccuracy()
    metric.update(torch.empty(0, dtype=torch.int64), torch.empty(0, 3), torch.empty(0, dtype=torch.int64))
    with pytest.raises(ValueError, match="no image"):
        metric.compute()


def test_always_saying_the_commonest_class_by_hand() -> None:
    assert majority_accuracy([3, 7, 7, 3, 7], [7, 7, 0, 3]) == 50.0
    assert majority_accuracy([1, 0], [0, 0, 1, 1]) == 50.0  # of equals the smallest
    with pytest.raises(ValueError, match="one is empty"):
        majority_accuracy([], [1])
