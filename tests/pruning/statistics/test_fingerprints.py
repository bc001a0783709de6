from dataclasses import dataclass
from typing import Any

import pytest
import torch

from vlp_bench.pruning.statistics.fingerprints import checksum, leaves, matches


@dataclass
class Pair:
    a: Any
    b: Any


KINDS = [torch.float32, torch.bfloat16, torch.float64, torch.int64, torch.bool, torch.uint8, torch.complex64]


@pytest.mark.parametrize("dtype", KINDS)
def test_one_other_element_or_two_that_change_places(dtype):
    x = (torch.arange(70_000) % 2 if dtype is torch.bool else torch.arange(70_000) % 97).to(
        dtype
    )  # more than one piece
    assert checksum(x) == checksum(x.clone())
    for other in (3, 69_999):
        y = x.clone()
        y[other] = x[other - 1]
        assert checksum(y) != checksum(x)
        y[other - 1] = x[other]
        assert checksum(y) != checksum(x)


def test_bits_count_not_values():
    x = torch.tensor([0.0, float("nan")])
    assert matches(x, list(leaves(x.clone())))
    assert not matches(x, list(leaves(torch.tensor([-0.0, float("nan")]))))
    assert not matches(x, list(leaves(x.double())))
    assert not matches(x.view(1, 2), list(leaves(x)))
    assert matches(torch.ones(4, 3)[1::2], list(leaves(torch.ones(2, 3))))


@pytest.mark.parametrize(
    "item",
    [(1, 2), [1, 2], {"a": 1, "b": (2,)}, {"b": 2, "a": 1}, (1, (2,)), 1, None, "1", Pair(1, [2]), ((1, 2),)],
)
def test_structures_are_told_apart(item):
    tensors = {1: torch.ones(2), 2: torch.zeros(2)}

    def filled(item):
        if isinstance(item, dict):
            return {key: filled(value) for key, value in item.items()}
        if isinstance(item, list | tuple):
            return type(item)(map(filled, item))
        return Pair(filled(item.a), filled(item.b)) if isinstance(item, Pair) else tensors.get(item, item)

    others = [(1, 2), [1, 2], {"a": 1, "b": 2}, (2, 1), Pair(1, 2), (1,), (1, 2, 2), 0, False, "2"]
    assert matches(filled(item), list(leaves(filled(item))))
    assert not any(matches(filled(item), list(leaves(filled(other)))) for other in others if other != item)


def test_equal_values_of_other_kinds():
    assert not matches(True, list(leaves(1)))
    assert not matches(1.0, list(leaves(1)))


def test_an_unknown_object_is_like_no_other():
    thing = object()
    assert not matches(thing, list(leaves(thing)))
    assert not matches({"a": (1, thing)}, list(leaves({"a": (1, thing)})))


def test_what_comes_after_a_difference_is_not_looked_at():
    class Touchy(tuple):
        def __iter__(self):
            raise AssertionError

    known = [*leaves((1, 2))]
    assert not matches((0, Touchy((2,))), known)
