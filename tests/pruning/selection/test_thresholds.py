from functools import partial

import pytest
import torch

from vlp_bench.pruning.selection.across_layers import CHUNK, Counter, Sample, locate
from vlp_bench.pruning.selection.thresholds import (
    keep_largest,
    keep_largest_of_each,
    keep_largest_per_row,
    kept_per_layer,
)


def thunks(*scores):
    return {str(i): partial(torch.as_tensor, score) for i, score in enumerate(scores)}


def by_sorting(scores, kept):
    """Kept counts per layer from one stable sort of everything."""
    flat = torch.cat([s.flatten() for s in scores])
    owner = torch.cat([torch.full((s.numel(),), i) for i, s in enumerate(scores)])
    best = torch.sort(flat, descending=True, stable=True).indices[:kept]
    return torch.bincount(owner[best], minlength=len(scores)).tolist()


def test_by_hand():
    scores = thunks([4.0, 1.0, 3.0], [2.0, 5.0, 0.0])
    assert kept_per_layer(scores, [2, 3, 5]) == [{"0": 1, "1": 1}, {"0": 2, "1": 1}, {"0": 3, "1": 2}]


def test_ties_go_to_the_first_layers_or_to_nobody():
    scores = thunks([1.0, 1.0, 2.0], [1.0, 1.0, 1.0])
    assert kept_per_layer(scores, [4]) == [{"0": 3, "1": 1}]
    assert kept_per_layer(scores, [4], ties="none") == [{"0": 1, "1": 0}]


@pytest.mark.parametrize("layers", [1, 2])
def test_zeros_of_both_signs_are_ties(layers):
    rows = [[-0.0, 0.0, 1.0, -0.0], [-0.0, 0.0, -1.0, -0.0]][:layers]
    assert kept_per_layer(thunks(*rows), [2])[0]["0"] == 2
    assert kept_per_layer(thunks(*rows), [2], ties="none")[0] == {str(i): int(i == 0) for i in range(layers)}
    assert keep_largest(torch.tensor(rows[0]), 2).tolist() == [True, False, True, False]


@pytest.mark.parametrize("kind", ["normal", "positive", "equal", "negative", "coarse", "wide", "one bin", "two"])
def test_equals_one_stable_sort(kind):
    generator = torch.Generator().manual_seed(3)
    scores = [torch.randn(size, generator=generator) for size in [(7, 11), (1, 1), (300, 20), (5,)]]
    changes = {
        "normal": lambda s: s,
        "positive": lambda s: s.abs(),
        "equal": torch.ones_like,
        "negative": lambda s: -s.abs(),
        "coarse": lambda s: (s * 3).round(),
        "wide": lambda s: s.sign() * 10 ** (s * 12),
        "one bin": lambda s: 1 + s.abs() * 1e-4,
        "two": lambda s: (s > 1) * 2.0 + (s > 2.5) * s,
    }
    scores = [
        changes[kind](s) + 0.0 for s in scores
    ]  # + 0.0: a sort takes -0.0 and 0.0 for equals, so there is but one
    total = sum(s.numel() for s in scores)
    budgets = [0, 1, 2, 77, 1234, total // 2, total - 1, total]
    for found, kept in zip(kept_per_layer(thunks(*scores), budgets), budgets, strict=True):
        assert list(found.values()) == by_sorting(scores, kept)


def test_ties_are_counted_not_collected():
    scores = torch.cat([torch.zeros(4000), torch.full((500,), 2.0), torch.tensor([1.0, 3.0])])
    for rank, key, above, equal in ((501, 2.0, 1, 500), (502, 1.0, 501, 1), (503, 0.0, 502, 4000)):
        place = locate(thunks(scores), [rank], Sample(torch.tensor([0.0, 2.0]).view(torch.int32), [4502]))[rank]
        assert (float(place.score), place.above, place.equal) == (key, [above], [equal])
    counter = Counter(0, int(torch.tensor(2.0).view(torch.int32)))
    counter.add(scores.view(torch.int32))
    assert counter.counted().keys.tolist() == torch.tensor([1.0]).view(torch.int32).tolist()


@pytest.mark.parametrize("marking", [False, True])
def test_limits_that_overlap_and_pieces_full_of_ties_are_counted_for_every_rank(marking):
    generator = torch.Generator().manual_seed(5)
    scores = torch.randn(5 * CHUNK["cpu"], generator=generator).abs()
    scores[CHUNK["cpu"] : 2 * CHUNK["cpu"]] = 0.5  # one piece holds nothing else
    ordered, sample = scores.sort(descending=True).values, Sample.of([scores[::1009]], [len(scores)])
    tied = int((scores > 0.5).sum())
    ranks = [1000, 1001, 1100, tied + 10, tied + CHUNK["cpu"] + 5]
    found = locate({"a": lambda: scores}, ranks, sample, marking=marking)
    for rank in ranks:
        value = ordered[rank - 1]
        assert found[rank].score == float(value)
        assert found[rank].above == [int((scores > value).sum())]
        assert found[rank].equal == [int((scores == value).sum())]


def test_marks_are_the_masks_of_all_ranks():
    scores = torch.randn(3, CHUNK["cpu"], generator=torch.Generator().manual_seed(6))
    scores[:, ::9] = 1.0  # ties, less than an eighth of a piece
    kept, ready = [5, 40_000, 80_000, 80_001, 300_000], {}  # two of them divide the ties
    sample = Sample.of([scores.view(-1)[::13]], [scores.numel()])
    kept_per_layer({"a": lambda: scores}, kept, masks=ready, sample=sample)
    order = torch.sort(scores.view(-1), descending=True, stable=True).indices
    for own in kept:
        assert torch.equal(ready["a", own].nonzero().view(-1), order[:own].sort().values)


def test_a_misleading_sample_costs_a_pass_not_the_answer():
    scores, asked = torch.arange(1000.0), []
    given = {"a": lambda: asked.append(1) or scores}
    sample = Sample(torch.full((400,), 7.5).view(torch.int32), [1000])
    assert float(locate(given, [500], sample)[500].score) == 500
    assert len(asked) > 1


def test_chunks_of_a_layer_add_up(monkeypatch):
    monkeypatch.setattr("vlp_bench.pruning.selection.across_layers.CHUNK", {"cpu": 7})
    scores = [torch.randn(40, generator=torch.Generator().manual_seed(0)) for _ in range(2)]
    (found,) = kept_per_layer(thunks(*scores), [33])
    assert list(found.values()) == by_sorting(scores, 33)


@pytest.mark.parametrize("number", [float("nan"), -float("nan")])
def test_nan_is_refused_by_name(number):
    with pytest.raises(ValueError, match="'1' hold NaN"):
        kept_per_layer(thunks([1.0, 2.0], [number, 1.0]), [1])


def test_infinity_is_a_score():
    assert kept_per_layer(thunks([float("inf"), 1.0], [-float("inf"), 2.0]), [2]) == [{"0": 1, "1": 1}]


def test_keep_largest_by_hand():
    scores = torch.tensor([[1.0, 3.0, 2.0], [2.0, 0.0, 2.0]])
    assert keep_largest(scores, 3).tolist() == [[False, True, True], [True, False, False]]
    assert keep_largest(scores, 3, ties="none").tolist() == [[False, True, False], [False, False, False]]
    assert keep_largest(scores, 4, ties="none").tolist() == [[False, True, True], [True, False, True]]
    assert not keep_largest(scores, 0).any()
    assert keep_largest(scores, 6).all()
    assert keep_largest(scores, 6, ties="none").all()


@pytest.mark.parametrize("kept", [0, 1, 17, 100, 599, 600])
def test_keep_largest_is_exact_and_stable(kept):
    scores = (torch.randn(20, 30, generator=torch.Generator().manual_seed(1)) * 2).round()
    mask = keep_largest(scores, kept)
    expected = torch.sort(scores.flatten(), descending=True, stable=True).indices[:kept]
    assert mask.flatten().nonzero().flatten().tolist() == sorted(expected.tolist())
    last = torch.sort(scores.flatten(), stable=True).indices[600 - kept :]
    assert keep_largest(scores, kept, ties="last").flatten().nonzero().flatten().tolist() == sorted(last.tolist())


@pytest.mark.parametrize("ties", ["first", "last", "none"])
def test_where_the_search_starts_changes_nothing(ties):
    scores = (torch.randn(20, 30, generator=torch.Generator().manual_seed(1)) * 2).round()
    for kept in (0, 1, 17, 300, 599):
        expected = keep_largest(scores, kept, ties=ties)
        for near in (-9.0, -2.0, -0.0, 0.5, 2.0, 9.0):
            assert keep_largest(scores, kept, ties=ties, threshold_hint=near).equal(expected)


@pytest.mark.parametrize("ties", ["first", "last", "none"])
@pytest.mark.parametrize("coarse", [False, True])
def test_several_masks_of_one_search_are_those_of_each(ties, coarse, monkeypatch):
    monkeypatch.setattr("vlp_bench.pruning.selection.thresholds.LARGE", 1)
    monkeypatch.setattr("vlp_bench.pruning.selection.across_layers.CHUNK", {"cpu": 999})
    scores = torch.randn(90, 110, generator=torch.Generator().manual_seed(1))
    scores = (scores * 9).round() if coarse else scores
    budgets = [0, 1, 17, 3000, 3000, 9899, 9900]
    for kept, mask in zip(budgets, keep_largest_of_each(scores, budgets, ties=ties), strict=True):
        assert mask.equal(keep_largest(scores, kept, ties=ties))


def test_masks_that_come_with_budgets_are_those_of_the_scores():
    scores = [torch.randn(size, generator=torch.Generator().manual_seed(2)) for size in (4000, 900)]
    masks, sample = {}, Sample.of([part[::3] for part in scores], [4000, 900])
    (found,) = kept_per_layer(
        {str(i): partial(iter, part.split(700)) for i, part in enumerate(scores)}, [1234], masks=masks, sample=sample
    )
    assert list(found.values()) == by_sorting(scores, 1234)
    for name, kept in found.items():
        assert masks[name, kept].equal(keep_largest(scores[int(name)], kept))


@pytest.mark.parametrize("at_once", [0, 600])
def test_one_layer_is_computed_once_however_it_is_ranked(at_once, monkeypatch):
    monkeypatch.setattr("vlp_bench.pruning.selection.order_statistics.AT_ONCE", at_once)
    scores = (torch.randn(20, 30, generator=torch.Generator().manual_seed(1)) * 2).round() + 0.0  # but one zero
    asked, near, budgets = [], {}, [0, 17, 300, 150, 599, 600]
    for ties in ("first", "none"):
        found = kept_per_layer({"a": lambda: asked.append(1) or scores}, budgets, ties=ties, threshold_hint=near)
        for kept, own in zip(budgets, found, strict=True):
            assert own == {"a": int(keep_largest(scores, kept, ties=ties).sum())}
    assert len(asked) == 2
    for kept in budgets[1:-1]:
        assert near["a", kept] == scores.flatten().sort(descending=True).values[kept - 1]
    with pytest.raises(ValueError, match="'a' hold NaN"):
        kept_per_layer({"a": lambda: torch.tensor([1.0, torch.nan])}, [1])


def test_rows_share_the_budget():
    scores = torch.tensor([[1.0, 1.0, 1.0], [3.0, 1.0, 2.0], [0.0, 5.0, 4.0]])
    assert keep_largest_per_row(scores, 5).tolist() == [
        [True, True, False],
        [True, False, True],
        [False, True, False],
    ]


def test_half_precision_scores_are_compared_exactly():
    scores = torch.tensor([1.0, 1.0078125, 0.5], dtype=torch.bfloat16)
    assert keep_largest(scores, 1).tolist() == [False, True, False]
