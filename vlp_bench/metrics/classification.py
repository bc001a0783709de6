"""Accuracy of a classification, ties counted as ignorance, and the accuracy of always saying the commonest class.

Without ties it is torchmetrics' `MulticlassAccuracy` (micro). That one gives a model that scores all classes alike the
first of them; here it is right about nothing.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from vlp_bench.metrics.example_metric import ExampleMetric


def class_ranks(logits: Tensor, labels: Tensor) -> Tensor:
    """(m,) rank of the true class, from 0, of (m, c) logits and (m,) labels; of equal scores half stand before it.

    Raises:
        ValueError: a logit is no number, or there is no such class.
    """
    if bool(((labels < 0) | (labels >= logits.shape[1])).any()):
        raise ValueError(f"labels must be 0 to {logits.shape[1] - 1}, got {int(labels.min())} to {int(labels.max())}")
    if not bool(logits.isfinite().all()):
        raise ValueError("the scores of some classes are not numbers; are the weights?")
    true = logits.gather(1, labels[:, None])
    above, equal = (logits > true).sum(1), (logits == true).sum(1) - 1
    return above + equal / 2


def majority_accuracy(known: Sequence[int], labels: Sequence[int]) -> float:
    """Percent of `labels` that are the commonest of `known` (of equals the smallest).

    Raises:
        ValueError: one of them is empty.
    """
    if not known or not labels:
        raise ValueError("the commonest class is that of a training split, asked about one with images; one is empty")
    commonest = int(torch.tensor(known).bincount().argmax())
    return 100 * sum(label == commonest for label in labels) / len(labels)


class ClassAccuracy(ExampleMetric):
    """Percent of images whose class is the likeliest, and among the five likeliest, over all processes.

    `predicted` (n,) and `right` (n,) of single images, in the order of their numbers, are there after `compute`.

    >>> import torch
    >>> from vlp_bench.metrics import ClassAccuracy
    >>> metric = ClassAccuracy()
    >>> metric.update(torch.arange(2), torch.tensor([[3.0, 1.0], [0.0, 2.0]]), torch.tensor([0, 0]))
    >>> metric.compute()
    {'accuracy': tensor(50.)}
    """

    def __init__(self) -> None:
        super().__init__(ranks=torch.float32, chosen=torch.int64)
        self.add_state("classes", default=torch.tensor(0), dist_reduce_fx="max")
        self.classes: Tensor
        self.predicted = self.right = torch.empty(0)

    def update(self, numbers: Tensor, logits: Tensor, labels: Tensor) -> None:
        """(b,) numbers of the images in their split, (b, c) logits, (b,) true classes. ValueError for NaN."""
        self.classes = self.classes.clamp(min=logits.shape[1])
        self.keep(numbers, ranks=class_ranks(logits, labels), chosen=logits.argmax(1))

    def compute(self) -> dict[str, Tensor]:
        """`accuracy` and, of more than five classes, `top5`, float32. ValueError if there was no image."""
        rows = self.rows()
        if not len(rows):
            raise ValueError("there is nothing to classify: the split has no image")
        ranks = self.column("ranks")[rows]
        self.predicted, self.right = self.column("chosen")[rows], ranks < 0.5
        within = {"accuracy": 0.5, "top5": 4.5} if int(self.classes) > 5 else {"accuracy": 0.5}
        return self.tensors({name: 100 * int((ranks < limit).sum()) / len(rows) for name, limit in within.items()})
