"""Methods written out from their papers and run block by block, in NumPy float64 on what hooks see of a model."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import vlp_bench


class Block(nn.Module):
    """Attention and a feed-forward network, whose first half of neurons is dead in the second block."""

    def __init__(self, hidden, dead):
        super().__init__()
        self.norm, self.qkv, self.o = nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(8, 8)
        self.fc1, self.fc2 = nn.Linear(8, hidden), nn.Linear(hidden, 8)
        if dead:
            self.fc1.bias.data[: hidden // 2] = -100

    def forward(self, x):
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        x = x + self.o((q @ k.transpose(1, 2) / math.sqrt(8)).softmax(-1) @ v)
        return x + self.fc2(F.relu(self.fc1(x)))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([Block(12, False), Block(16, True)])

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x.mean(1)


def case(seed):
    torch.manual_seed(seed)
    model = Model().double().eval()
    return model, [(torch.randn(3, 5, 8).double(), torch.randint(8, (3,))) for _ in range(3)]


def seen(model, data, block, names):
    """Inputs (rows, tokens, d) of the layers of a block, as `names` tell, and of the block itself, batch by batch."""
    found = {name: [] for name in [block, *names]}
    modules = [(name, model.get_submodule(name.removesuffix(".weight"))) for name in found]
    hooks = [m.register_forward_pre_hook(lambda _, args, n=n: found[n].append(args[0].detach())) for n, m in modules]
    with torch.no_grad():
        for x, _ in data:
            model(x)
    for hook in hooks:
        hook.remove()
    return found


def gradients(losses, model, names):
    """{name: (batches, d_out, d_in)} of one loss a batch."""
    weights = [model.get_parameter(name) for name in names]
    found = [torch.autograd.grad(loss, weights) for loss in losses]
    return {name: np.stack([g[i].numpy() for g in found]) for i, name in enumerate(names)}


def ria(w, x, dense, block):
    size = np.abs(w)
    return (size / size.sum(0) + size / size.sum(1, keepdims=True)) * lengths(x) ** 0.5


def gblm(w, x, dense, block):
    return np.abs(w) * (lengths(x) + 100 * 128 * np.abs(dense).mean(0))


def wanda_pp(w, x, dense, block):
    return np.abs(w) * (lengths(x) + 100 * np.sqrt((block**2).mean(0)))


def lengths(x):
    return np.sqrt((x**2).sum((0, 1)) / len(x))


def largest(scores, kept, rows):
    """The best of a matrix, or as many in every row, the first rows one more; of equals the first."""
    mask = np.zeros(scores.shape, bool)
    if not rows:
        mask.ravel()[np.argsort(-scores.ravel(), kind="stable")[:kept]] = True
        return mask
    share, longer = divmod(kept, len(scores))
    for i, own in enumerate(scores):
        mask[i, np.argsort(-own, kind="stable")[: share + (i < longer)]] = True
    return mask


def thanos(w, x, kept):
    """In one block of columns: the least |w|·‖X_j‖ go, and each row is solved at once."""
    mask = largest(np.where(lengths(x) > 0, np.abs(w), 0) * lengths(x), kept, rows=False)
    inverse = np.linalg.inv(damped(x))
    values = np.where(lengths(x) > 0, w, 0)
    for row, gone in zip(values, ~mask, strict=True):
        row -= np.linalg.solve(inverse[np.ix_(gone, gone)], row[gone]) @ inverse[gone]
    return mask, values * mask


def fitted(w, x, mask):
    """min (w' - w) H (w' - w)ᵀ over the kept weights of each row."""
    h, values = damped(x), np.zeros(w.shape)
    for i, keep in enumerate(mask):
        values[i, keep] = np.linalg.solve(h[np.ix_(keep, keep)], (h @ w[i])[keep])
    return values


def damped(x):
    h = np.einsum("rti,rtj->ij", x, x) / len(x)
    return h + 0.01 * np.trace(h) / len(h) * np.eye(len(h))


METHODS = {"ria": (ria, False), "gblm": (gblm, True), "wanda_pp": (wanda_pp, True)}


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("values", [None, "least_squares"])
@pytest.mark.parametrize("name", [*METHODS, "thanos"])
def test_a_sweep_block_by_block(name, values, seed):
    """Every block's statistics are of its dense weights behind pruned blocks; GBLM's gradients of the dense model."""
    model, data = case(seed)
    options = {"values": values} if values else {}
    for sparsity, found in vlp_bench.prune(model, name, [0.3, 0.63, 0.9], data, options=options).items():
        own = copy.deepcopy(model)
        dense = gradients((F.cross_entropy(model(x), y) for x, y in data), model, list(found.masks))
        for block in ("blocks.0", "blocks.1"):
            names = [n for n in found.masks if n.startswith(block)]
            inputs, module = seen(own, data, block, names), own.get_submodule(block)
            regional = gradients((module(x).flatten(1).norm(dim=1).mean() for x in inputs[block]), own, names)
            for n in names:
                weight, x = own.get_parameter(n), torch.cat(inputs[n]).numpy()
                w, kept = weight.detach().numpy().copy(), int(found.masks[n].sum())
                assert abs(kept - (1 - sparsity) * w.size) <= 0.5
                if name == "thanos":
                    mask, new = thanos(w, x, kept)
                else:
                    score, rows = METHODS[name]
                    mask = largest(score(w, x, dense[n], regional[n]), kept, rows)
                    new = w * mask
                new = fitted(w, x, mask) if values else new
                np.testing.assert_array_equal(found.masks[n].numpy(), mask, err_msg=n)
                if n in found.weights:
                    np.testing.assert_allclose(found.weights[n].numpy() * mask, new, rtol=1e-5, atol=1e-7, err_msg=n)
                with torch.no_grad():
                    weight.copy_(torch.from_numpy(new))
        assert (name == "thanos" or values is not None) == bool(found.weights)
