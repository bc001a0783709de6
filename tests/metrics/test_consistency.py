"""Consistency by hand."""

import pytest
import torch

from vlp_bench.metrics import Consistency
from vlp_bench.metrics.consistency import consistency


def test_a_sentence_counts_if_all_its_pairs_were_judged_rightly() -> None:
    judged = [(3, True), (3, True), (5, True), (5, False), (3, True), (7, False), (9, True)]
    assert consistency(judged) == 50.0


def test_the_order_of_pairs_does_not_matter() -> None:
    assert consistency([(1, False), (1, True)]) == consistency([(1, True), (1, False)]) == 0.0


def test_nothing_to_judge_is_an_error() -> None:
    with pytest.raises(ValueError, match="no pair"):
        consistency([])


def test_the_metric_counts_a_repeated_pair_once() -> None:
    metric = Consistency()
    metric.update(torch.tensor([0, 1]), torch.tensor([3, 3]), torch.tensor([True, True]))
    metric.update(torch.tensor([2, 0]), torch.tensor([5, 3]), torch.tensor([False, True]))
    assert float(metric.compute()) == 50.0
    metric.reset()
    with pytest.raises(ValueError, match="one for each number"):
        metric.update(torch.tensor([0]), torch.tensor([3, 3]), torch.tensor([True]))
