import pytest
import torch

from vlp_bench.pruning.solvers.chita.block_problem import Problem, largest_of, solve_block
from vlp_bench.pruning.solvers.chita.support_bounds import Outlook, look

IMAGES = 5


def draws(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def many_blocks(scale):
    """Rows, weights and linear part of ten blocks (of six batches, 40 weights each), and their largest fifteen."""
    rows, w = draws(10, 6, 40) * scale, draws(10, 40, seed=1)
    support = [largest_of(lambda _, own=own: own, 15, [None])[0] for own in w]
    return rows, w, rows.sum(1) / IMAGES, torch.stack(support)


@pytest.mark.parametrize("scale, certain, changes", [(0.05, 10, 0), (0.25, 8, 0), (3.0, 7, 2)])
def test_what_is_found_at_sight_is_found_after_the_step(scale, certain, changes):
    """Where the support surely stays it does, with the same values; all others may change it."""
    rows, w, linear, support = many_blocks(scale)
    outlook = Outlook.of(10, 6, rows.device)
    found = []
    for i in range(10):
        values, own = look(rows[i], w[i], IMAGES, support[i], 0.5)
        outlook.put(i, own)
        found.append(values)
    t = outlook.length(0.5)
    joined = lambda v: torch.einsum("kbn,kn->b", rows, v(0).view(10, 40))  # noqa: E731
    whole = Problem([w.flatten()], [linear.flatten()], joined, lambda v: 0.0, 0.5, [None]).step([support.flatten()])
    assert t == pytest.approx(whole.length, rel=1e-12)
    stays = outlook.stays(t, 0.5).tolist()
    changed = 0
    for i in range(10):
        b = (w[i] - t * linear[i]) * support[i]
        values, after = solve_block(rows[i], b, w[i], IMAGES, support[i], 0.5, None, "corrected")
        changed += not after.equal(support[i])
        if stays[i]:
            assert after.equal(support[i])
            torch.testing.assert_close(found[i], values, rtol=1e-9, atol=1e-12)
    assert (sum(stays), changed) == (certain, changes)


def test_a_step_that_might_change_the_model_support_is_not_certain():
    rows, w, _, support = many_blocks(1.0)
    outlook = Outlook.of(1, 6, rows.device)
    outlook.put(0, look(rows[0], w[0], IMAGES / 1e3, support[0], 0.5)[1])
    assert outlook.length(0.5) is None
    outlook.put(0, look(rows[0] * 0, w[0], IMAGES, support[0], 0.5)[1])
    assert outlook.length(0.5) == 0.0
    assert outlook.stays(0.0, 0.5).tolist() == [True]


def test_of_a_share_the_length_is_extrapolated():
    """Ten blocks alike: a product with the rows of three is three tenths of that of all."""
    rows, w, _, support = many_blocks(0.1)
    outlook = Outlook.of(10, 6, rows.device)
    for i in range(10):
        outlook.put(i, look(rows[0], w[0], IMAGES, support[0], 0.5)[1])
    assert outlook.first(3).length(0.5, 0.3) == pytest.approx(outlook.length(0.5), rel=1e-12)
    assert outlook.first(3).length(0.5) != pytest.approx(outlook.length(0.5), rel=1e-2)
