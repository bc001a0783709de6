"""NLVR2's consistency: sentences, not pairs, that a model is right about.

Source: Suhr et al., A Corpus for Reasoning about Natural Language Grounded in Photographs (ACL 2019), and its own
evaluation program (nlvr2/eval/metrics.py of lil-lab/nlvr).
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from vlp_bench.metrics.example_metric import ExampleMetric


def consistency(judged: Iterable[tuple[int, bool]]) -> float:
    """Percent of the sentences whose every pair was judged rightly, of (number of the sentence, right) for each pair.

    Raises:
        ValueError: there is no pair.
    """
    whole: dict[int, bool] = {}
    for sentence, right in judged:
        whole[sentence] = whole.get(sentence, True) and right
    if not whole:
        raise ValueError("there is nothing to judge: the split has no pair")
    return 100 * sum(whole.values()) / len(whole)


class Consistency(ExampleMetric):
    """Percent of the sentences whose every pair was judged rightly, over all processes.

    >>> import torch
    >>> from vlp_bench.metrics import Consistency
    >>> metric = Consistency()
    >>> metric.update(torch.tensor([0, 1, 2]), torch.tensor([7, 7, 8]), torch.tensor([True, False, True]))
    >>> float(metric.compute())  # of sentences 7 and 8
    50.0
    """

    def __init__(self) -> None:
        super().__init__(sentences=torch.int64, right=torch.uint8)

    def update(self, numbers: Tensor, sentences: Tensor, right: Tensor) -> None:
        """(b,) each: numbers of the pairs in their split, of their sentences, and whether they were judged rightly."""
        self.keep(numbers, sentences=sentences, right=right)

    def compute(self) -> Tensor:
        """A float32 scalar. ValueError if there was no pair."""
        rows = self.rows()
        sentences, right = self.column("sentences")[rows].tolist(), self.column("right")[rows].bool().tolist()
        return torch.tensor(consistency(zip(sentences, right, strict=True)), device=self.device)
