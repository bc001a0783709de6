import numpy as np
import pytest
import torch
from torch import nn

import vlp_bench
from tests.pruning.toys import labelled, sequential
from vlp_bench.pruning import catalogue
from vlp_bench.pruning.scores import magnitude, wanda
from vlp_bench.pruning.solvers.dsnot import DSnoT
from vlp_bench.pruning.solvers.keep_top import KeepTop
from vlp_bench.pruning.solvers.sparsegpt import SparseGPT
from vlp_bench.pruning.statistics.calibration import Calibration
from vlp_bench.pruning.statistics.input_moments import RowVariances


def published(w, x, mask, *, group=None, cycles=50, threshold=0.1, official=False):
    """Written out in NumPy, a row at a time. w (d_out, d_in), x rows of (tokens, d_in), mask bool."""
    w, x, mask = w.detach().double().numpy(), [row.double().numpy() for row in x], mask.numpy().copy()
    flat = np.concatenate(x)
    total = flat.sum(0) / len(x)
    variance = np.mean([row.var(0) for row in x], 0) if official else flat.var(0)
    norm = np.sqrt((flat**2).sum(0) / len(x))
    q = w * total
    start = np.array([q[i, ~mask[i]].sum() for i in range(len(w))])
    limit = threshold if official else threshold * np.abs(start).mean()
    for i, e in enumerate(start):
        sign, moved = np.sign(e), set()
        for _ in range(cycles):
            if abs(e) <= limit:
                break
            removed = [j for j in range(w.shape[1]) if not mask[i, j] and j not in moved]
            if not removed:
                break
            back = max(removed, key=lambda j: np.sign(e) * q[i, j] / variance[j])
            kept = [j for j in range(w.shape[1]) if mask[i, j] and j not in moved]
            kept = [j for j in kept if (j // group == back // group if group else np.sign(e) * q[i, j] < 0)]
            if not kept:
                break
            gone = min(kept, key=lambda j: abs(w[i, j]) * norm[j])
            after = e + q[i, gone] - q[i, back]
            if (group or not official) and np.sign(after) != sign:
                break
            if not official and abs(after) >= abs(e):
                break
            mask[i, back], mask[i, gone], e = True, False, after
            moved |= {back, gone}
    return torch.from_numpy(mask)


def tokens(seed=0, columns=24):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(9, 6, columns, generator=g) * torch.rand(columns, generator=g) + torch.randn(
        columns, generator=g
    )


def model_of(x, rows=10):
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(x.shape[-1], rows)), [{"input": part} for part in x.split(4)]


@pytest.mark.parametrize("compat", ["corrected", "official"])
@pytest.mark.parametrize("sparsity", [0.3, 0.5, 0.75])
@pytest.mark.parametrize("score", [wanda, magnitude])
def test_it_is_the_published_algorithm(compat, sparsity, score):
    model, batches = model_of(x := tokens())
    calibration, kept = Calibration(model, batches), {"0.weight": round(240 * (1 - sparsity))}
    start = KeepTop(score, "output")
    before = start(calibration, kept).masks["0.weight"]
    found = DSnoT(start=start, compat=compat)(calibration, kept).masks["0.weight"]
    assert found.equal(published(model[0].weight.detach(), x, before, official=compat == "official"))
    assert not found.equal(before)
    assert found.sum(1).equal(before.sum(1))


@pytest.mark.parametrize("sparsity", [0.3, 0.6])
def test_layers_behind_pruned_ones_with_padding(sparsity):
    """Three layers of odd widths, rows of unequal length: what a layer sees comes through those that are pruned."""

    class Padded(vlp_bench.PlainAdapter):
        def encode(self, model, batch):
            model(batch[0])

        def token_mask(self, batch, name, tokens):
            return batch[1]

    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(13, 17), nn.GELU(), nn.Linear(17, 5), nn.GELU(), nn.Linear(5, 9))
    rows = [torch.randn(n, 13) + 0.4 * torch.arange(13).cos() for n in (4, 7, 1, 2, 5)]
    counts = torch.arange(7) < torch.tensor([len(row) for row in rows])[:, None]
    x = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=9.0)
    batches = [(x[:2], counts[:2]), (x[2:], counts[2:])]
    found = vlp_bench.prune(model, "dsnot", sparsity, batches, Padded())
    improved = 0
    for number in (0, 2, 4):
        layer, mask = model[number], found.masks[f"{number}.weight"]
        with torch.no_grad():
            seen = [model[:number](row) for row in rows]
            before = _wanda_rows(layer.weight, torch.cat(seen).square().sum(0).sqrt(), mask.sum(1).tolist())
            assert mask.equal(published(layer.weight, seen, before))
            layer.weight *= mask
        improved += not mask.equal(before)
    assert improved > 1


def _wanda_rows(w, lengths, counts):
    order = (w.abs() * lengths).argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return order < torch.tensor(counts)[:, None]


@pytest.mark.parametrize("compat", ["corrected", "official"])
@pytest.mark.parametrize("within, group", [("2:4", 4), ("3:8", 8)])
def test_groups_stay_groups(compat, within, group):
    model, batches = model_of(x := tokens())
    kept = {"0.weight": 240 * int(within[0]) // group}
    calibration, start = Calibration(model, batches), KeepTop(wanda, within)
    before = start(calibration, kept).masks["0.weight"]
    found = DSnoT(start=start, within=within, compat=compat)(calibration, kept).masks["0.weight"]
    assert (found.view(-1, group).sum(1) == int(within[0])).all()
    assert found.equal(published(model[0].weight.detach(), x, before, group=group, official=compat == "official"))
    assert not found.equal(before)


def test_by_hand():
    """Lost 3 + 1 = 4; 3 comes back for -1, which Wanda values less than -2: lost 0; more would turn the sign."""
    q = torch.tensor([[3.0, 1.0, -1.0, -2.0]]).double()
    start = torch.tensor([[False, False, True, True]])
    found = DSnoT(start=KeepTop(magnitude), threshold=0.0).exchange(q, torch.ones(4), q.abs(), start)
    assert found.tolist() == [[False, False, True, True]]  # 4 - 3 - 1 is 0, which has no sign
    found = DSnoT(start=KeepTop(magnitude), threshold=0.0).exchange(2 * q - 0.1, torch.ones(4), q.abs(), start)
    assert found.tolist() == [[False, False, True, True]]
    found = DSnoT(start=KeepTop(magnitude), threshold=0.1).exchange(q + 0.1, torch.ones(4), q.abs(), start)
    assert found.tolist() == [[True, False, False, True]]  # lost 4.2 - 3.1 - 0.9 = 0.2


def test_the_mean_output_comes_nearer_in_every_row():
    model, batches = model_of(x := tokens())
    calibration, kept = Calibration(model, batches), {"0.weight": 120}
    w, mean = model[0].weight.detach(), x.mean((0, 1))
    start = KeepTop(wanda, "output")
    before, after = (
        ((w * ~solve(calibration, kept).masks["0.weight"]) @ mean).abs() for solve in (start, DSnoT(start=start))
    )
    assert (after <= before + 1e-5).all()
    assert after.sum() < 0.7 * before.sum()


def test_constant_inputs_divide_by_nothing():
    x = tokens()
    x[..., 3] = 2.0
    model, batches = model_of(x)
    found = DSnoT(start=KeepTop(wanda, "output"))(Calibration(model, batches), {"0.weight": 120})
    assert int(found.masks["0.weight"].sum()) == 120


def test_variances_between_rows_are_lost_as_released():
    model, x = nn.Sequential(nn.Linear(1, 1)), torch.tensor([[[0.0], [2.0]], [[10.0], [14.0]]])
    assert Calibration(model, [x])[RowVariances()]["0.weight"].tolist() == [(1 + 4) / 2]


def test_any_solver_can_start_and_weights_stay():
    model, batches = model_of(tokens())
    found = DSnoT(start=SparseGPT())(Calibration(model, batches), {"0.weight": 60})
    assert int(found.masks["0.weight"].sum()) == 60
    assert found.weights == {}


def test_released_mlps_are_left():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention, self.mlp = nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x):
            return self.mlp(self.attention(x))

    torch.manual_seed(0)
    calibration = Calibration(Block(), [batch[0] + 1 for batch in labelled()])
    start, kept = KeepTop(wanda, "output"), {"attention.weight": 18, "mlp.weight": 18}
    solve = DSnoT(start=start, skip="mlp", compat="official", threshold=0.0)
    before, after = start(calibration, kept).masks, solve(calibration, kept).masks
    assert before["mlp.weight"].equal(after["mlp.weight"])
    assert not before["attention.weight"].equal(after["attention.weight"])
    assert catalogue.load("dsnot", {"compat": "official"}).solve.skip == "mlp"
    assert catalogue.load("dsnot").solve.skip is None


def test_bad_settings():
    with pytest.raises(ValueError, match=r"unknown within 'layer': use one of output, n:m \(as 2:4\)"):
        DSnoT(start=KeepTop(magnitude), within="layer")
    with pytest.raises(ValueError, match=r"^cycles must be at least 1, got 0$"):
        DSnoT(start=KeepTop(magnitude), cycles=0)
    with pytest.raises(ValueError, match=r"^threshold must be at least 0, got -0\.1$"):
        DSnoT(start=KeepTop(magnitude), threshold=-0.1)


def test_groups_by_the_library():
    model = nn.Sequential(nn.Linear(8, 10))
    found = vlp_bench.prune(model, "dsnot", 0.5, [tokens(columns=8)], options={"solve.within": "4:8"})
    assert (found.masks["0.weight"].sum(1) == 4).all()


def test_what_is_gone_stays_gone():
    model, batches = sequential(), labelled()
    alive = {name: torch.rand(layer.matrix.shape) > 0.3 for name, layer in Calibration(model, batches).layers.items()}
    calibration = Calibration(model, batches, alive=alive)
    found = DSnoT(start=KeepTop(wanda, "output"))(calibration, {"0.weight": 20})
    assert not (found.masks["0.weight"] & ~alive["0.weight"]).any()
