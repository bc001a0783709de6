from itertools import permutations

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

import vlp_bench
from tests.pruning.toys import labelled
from vlp_bench.pruning.scores import ria
from vlp_bench.pruning.selection.channels import assigned, dealt, kept_score
from vlp_bench.pruning.solvers.permuted_groups import PermutedGroups
from vlp_bench.pruning.statistics.calibration import Calibration


def model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.GELU(), torch.nn.Linear(16, 8), torch.nn.Linear(8, 4))


class Wide(vlp_bench.PlainAdapter):
    def prunable(self, model):
        return ["2.weight", "3.weight"]


def test_inputs_are_dealt_forth_and_back_by_hand():
    """Sums 1 to 8 in groups of 4: the runs are (1, 2), (3, 4), (5, 6), (7, 8); every second is turned round."""
    scores = torch.tensor([[8.0, 1.0, 7.0, 2.0, 6.0, 3.0, 5.0, 4.0]])
    assert scores[0, dealt(scores, 4)].tolist() == [1, 4, 5, 8, 2, 3, 6, 7]


@pytest.mark.parametrize("kept, group", [(1, 2), (1, 4), (2, 4), (3, 4), (4, 4)])
def test_assignments_never_lose_and_stay_permutations(kept, group):
    for seed in range(20):
        scores = torch.rand(5, 12, generator=torch.Generator().manual_seed(seed)) ** 4
        order = dealt(scores, group)
        better = assigned(scores, order, kept, group)
        assert sorted(better.tolist()) == list(range(12))
        assert kept_score(scores[:, better], kept, group) >= kept_score(scores[:, order], kept, group) - 1e-9


def test_an_assignment_is_the_best_for_its_place():
    """Against all ways to place four inputs in four groups of two."""
    scores = torch.rand(3, 8, generator=torch.Generator().manual_seed(0)).double()
    order = dealt(scores, 2)
    found = assigned(scores, order, 1, 2)
    places = order.view(4, 2)
    first = max(
        kept_score(scores[:, torch.stack([places[list(way), 0], places[:, 1]], 1).view(-1)], 1, 2)
        for way in permutations(range(4))
    )
    assert kept_score(scores[:, found], 1, 2) >= first - 1e-9


@pytest.mark.parametrize("kept, group", [(1, 4), (2, 4), (3, 4), (1, 2), (2, 8)])
def test_every_place_has_a_best_assignment(kept, group):
    """Of 1:4 there are often several: an input that no row would keep is worth the same wherever it goes."""
    several = 0
    for seed in range(8):
        scores = torch.rand(4, 4 * group, generator=torch.Generator().manual_seed(seed)).double() ** 4
        order = dealt(scores, group)
        before, after = order.view(4, group), assigned(scores, order, kept, group).view(4, group)
        for place in range(group):
            done, todo = after[:, :place], before[:, place + 1 :]
            worth = [
                kept_score(scores[:, torch.cat([done, own[:, None], todo], 1).view(-1)], kept, group)
                for own in (after[:, place], *(before[list(way), place] for way in permutations(range(4))))
            ]
            assert worth[0] == pytest.approx(max(worth), rel=1e-12)
            several += sum(own == pytest.approx(worth[0], rel=1e-12) for own in worth[1:]) > 1
    assert several or (kept, group) != (1, 4)


@pytest.mark.parametrize("sweep", ["at_once", "block_by_block"])
def test_the_mask_is_n_of_m_in_the_order_that_is_told(sweep, tmp_path):
    options = {"solve": "ria_2_4_permuted", "sweep": sweep}
    found = vlp_bench.prune(model(), "wanda", 0.5, labelled(), Wide(), options=options)
    assert set(found.masks) == {"2.weight", "3.weight"}
    orders = vlp_bench.Solution.load(found.save(tmp_path / "mask")).report["permutations"]
    for name, mask in found.masks.items():
        assert (mask[:, orders[name]].view(len(mask), -1, 4).sum(2) == 2).all()
    assert any((mask.view(len(mask), -1, 4).sum(2) != 2).any() for mask in found.masks.values())


def test_more_of_the_score_is_kept_than_in_the_layer_s_own_order():
    calibration = Calibration(model(), labelled(), Wide())
    kept = []
    for solve in (PermutedGroups(ria, "2:4"), PermutedGroups(ria, "2:4", assign=False)):
        masks = solve(calibration, {"2.weight": 64}).masks
        kept.append(float(ria(calibration.layers["2.weight"], calibration)[masks["2.weight"]].sum()))
    own = kept_score(ria(calibration.layers["2.weight"], calibration), 2, 4)
    assert kept[0] > own
    assert kept[0] >= kept[1] >= own - 1e-4


def published(w, x, kept, group, assign):
    """RIA's mask in an order of the inputs of its own, in NumPy float64. w (d_out, d_in), x (rows, tokens, d_in)."""
    size, lengths = np.abs(w), np.sqrt((x**2).sum((0, 1)) / len(x))
    scores = (size / size.sum(0) + size / size.sum(1)[:, None]) * np.sqrt(lengths)
    groups = w.shape[1] // group
    runs = np.argsort(scores.sum(0), kind="stable").reshape(group, groups)
    places = np.stack([run[::-1] if r % 2 else run for r, run in enumerate(runs)], 1)
    best_of = lambda columns: np.sort(scores[:, columns], 1)[:, -kept:].sum()  # noqa: E731
    for r in range(group if assign else 0):
        candidates, others = places[:, r].copy(), np.delete(places, r, 1)
        gains = [[best_of([*own, c]) for c in candidates] for own in others]
        places[:, r] = candidates[linear_sum_assignment(gains, maximize=True)[1]]
    mask = np.zeros(w.shape, bool)
    for own in places:
        for i, row in enumerate(scores[:, own]):
            mask[i, own[np.argsort(-row, kind="stable")[:kept]]] = True
    return mask


@pytest.mark.parametrize("assign", [True, False])
@pytest.mark.parametrize("kept, group, columns", [(2, 4, 12), (3, 4, 24), (2, 8, 24), (4, 8, 16)])
def test_it_is_the_published_algorithm(kept, group, columns, assign):
    torch.manual_seed(1)
    layer, x = torch.nn.Linear(columns, 11), torch.randn(5, 3, columns) * (0.1 + 2 * torch.rand(columns))
    options = {"solve": "ria_2_4_permuted", "solve.within": f"{kept}:{group}", "solve.assign": assign}
    found = vlp_bench.prune(layer, "ria", 1 - kept / group, [x[:2], x[2:]], options=options).masks["weight"]
    expected = published(layer.weight.detach().double().numpy(), x.double().numpy(), kept, group, assign)
    assert found.tolist() == expected.tolist()
    assert not (found.view(11, -1, group).sum(2) == kept).all()


def test_equal_scores_stay_in_order_and_other_patterns_are_refused():
    calibration = Calibration(model(), labelled(), Wide())
    solved = PermutedGroups(lambda layer, _: torch.ones_like(layer.matrix), "2:4")(calibration, {"2.weight": 64})
    assert solved.permutations["2.weight"].tolist() == list(range(16))
    assert solved.masks["2.weight"][0].tolist() == [True, True, False, False] * 4
    with pytest.raises(ValueError, match=r"within must be n:m \(as 2:4\) where inputs are permuted, got 'layer'"):
        PermutedGroups(ria)
    with pytest.raises(ValueError, match=r"'2\.weight' should keep 60 of 128"):
        PermutedGroups(ria, "2:4")(calibration, {"2.weight": 60})
