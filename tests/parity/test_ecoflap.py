"""ECoFLaP's allocation and zeroth-order importance against numbers recorded from its released code on a tiny model."""

import copy
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import vlp_bench
from tests.parity.toyvlm import DATA, tree
from vlp_bench.batch import Place
from vlp_bench.pruning.adapter import PlainAdapter
from vlp_bench.pruning.allocation.ecoflap.allocators import BlockSensitivity, ProportionalBudgets
from vlp_bench.pruning.allocation.ecoflap.proportional_budgets import proportional_budgets, released_ratios
from vlp_bench.pruning.allocation.ecoflap.sensitivity import losses_around, noise, noise_seeds
from vlp_bench.pruning.statistics.calibration import Calibration

#             rows, pairs, noises, epsilon
MEASURED = {
    "bs1_n8_k1_eps1e-3": (1, 8, 1, 1e-3),
    "bs4_n8_k1_eps1e-3": (4, 2, 1, 1e-3),
    "bs1_n8_k4_eps1e-3": (1, 8, 4, 1e-3),
    "bs1_n8_k1_eps1e-1": (1, 8, 1, 1e-1),
    "bs1_n5of8_k1_eps1e-2": (1, 5, 1, 1e-2),
}
SCORES = {"MEZO-GradOnly": "gradient", "MEZO-GradMagAbs": "magnitude", "MEZO-GradMagSquare": "squared"}


def bare(out, into):
    return nn.Linear(into, out, bias=False)


class Visual(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = bare(12, 8), bare(8, 12)

    def forward(self, x):
        return x + self.fc2(torch.tanh(self.fc1(x)))


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.wi, self.wo = bare(8, 8), bare(16, 8), bare(8, 16)

    def forward(self, x):
        x = x + torch.tanh(self.q(x))
        return x + self.wo(torch.tanh(self.wi(x)))


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.v, self.wi, self.wo = bare(8, 8), bare(16, 8), bare(8, 16)

    def forward(self, x, memory):
        x = x + torch.tanh(self.v(memory.mean(1, keepdim=True)))
        return x + self.wo(torch.tanh(self.wi(x)))


class Tiny(nn.Module):
    """Three visual blocks, then two blocks each of an encoder and a decoder."""

    def __init__(self):
        super().__init__()
        self.visual_encoder = tree(blocks=nn.ModuleList(Visual() for _ in range(3)))
        self.proj = bare(8, 8)
        stacks = {
            kind.__name__.lower(): tree(block=nn.ModuleList(kind() for _ in range(2))) for kind in (Encoder, Decoder)
        }
        self.t5_model = tree(**stacks)
        self.head = bare(7, 8)

    def forward(self, image, text_input, text_output, labels):
        for block in self.visual_encoder.blocks:
            image = block(image)
        x = torch.cat([self.proj(image), text_input], 1)
        for block in self.t5_model.encoder.block:
            x = block(x)
        y = text_output
        for block in self.t5_model.decoder.block:
            y = block(y, x)
        return SimpleNamespace(loss=F.cross_entropy(self.head(y).flatten(0, 1), labels.flatten()))


class TinyAdapter(PlainAdapter):
    def prunable(self, model):
        return [name for name in super().prunable(model) if ".block" in name]

    def place(self, name):
        return Place(name.split(".")[0], name.rsplit(".", 2)[0])


@pytest.fixture(scope="module")
def tiny():
    arrays = np.load(DATA / "ecoflap_model.npz")
    model = Tiny()
    model.load_state_dict({key[7:]: torch.from_numpy(arrays[key]) for key in arrays.files if key.startswith("weight/")})
    data = {key[5:]: torch.from_numpy(arrays[key]) for key in arrays.files if key.startswith("data/")}
    return model.eval(), data, arrays


@pytest.fixture(scope="module")
def recorded():
    return np.load(DATA / "ecoflap_zeroth.npz")


def calibration(tiny, rows):
    model, data, _ = tiny
    batches = [{name: t[start : start + rows] for name, t in data.items()} for start in range(0, 8, rows)]
    return Calibration(model, batches, TinyAdapter())


def test_the_network_is_the_recorded_one(tiny):
    arrays = tiny[2]
    assert list(calibration(tiny, 1).layers) == list(arrays["prunable_order"])
    for rows, name in ((1, "loss_per_sample"), (4, "loss_batches_of_4")):
        asked = calibration(tiny, rows)
        np.testing.assert_allclose([loss() for loss in asked.losses_of_batches(8)], arrays[name], rtol=1e-6)


@pytest.mark.parametrize("name", MEASURED)
def test_losses_around_every_matrix(tiny, recorded, name):
    rows, draws, noises, epsilon = MEASURED[name]
    asked = calibration(tiny, rows)
    seeds = noise_seeds(list(asked.layers), draws, 42, "official")
    assert [seed for own in seeds.values() for seed in own] == recorded[f"{name}/seeds"].tolist()
    losses = losses_around(asked, epsilon=epsilon, draws=draws, noises=noises, seed=42, compat="official")
    found = np.array([pair for pairs in losses.values() for pair in pairs])
    np.testing.assert_allclose(found, recorded[f"{name}/loss_plus_minus"], rtol=2e-6)


def test_noise_is_the_recorded_one(tiny, recorded):
    asked = calibration(tiny, 1)
    seeds = noise_seeds(list(asked.layers), 8, 42, "official")
    for name in ("visual_encoder.blocks.0.fc1.weight", "t5_model.decoder.block.1.wo.weight"):
        expected = recorded[f"bs1_n8_k1_eps1e-3/noise/{name}"]
        assert all(
            (noise(asked.layers[name], s).numpy() == z).all() for s, z in zip(seeds[name], expected, strict=True)
        )


@pytest.mark.parametrize("score", SCORES)
def test_importances(tiny, recorded, score):
    asked = calibration(tiny, 4)
    allocate = BlockSensitivity(draws=2, seed=42, compat="official", importance=SCORES[score])
    for name, value in allocate.importances(asked).items():
        expected = float(recorded[f"bs4_n8_k1_eps1e-3/{score}/importance/{name}"].sum())
        slope, w = float(recorded[f"bs4_n8_k1_eps1e-3/MEZO-GradOnly/importance/{name}"][0]), asked.layers[name].matrix
        scale = {"gradient": 1.0, "magnitude": float(w.abs().sum()), "squared": 2 * slope * float(w.square().sum())}
        ulps = 6e-4  # two losses that differ in their last bits, over 2ε, for each of the two draws
        assert value == pytest.approx(expected, abs=ulps * scale[SCORES[score]], rel=1e-4)


@pytest.mark.parametrize("score", SCORES)
def test_ratios(tiny, recorded, score):
    """Within four weights per group of the recorded sparsity, which one loss's last bit moves already."""
    asked = calibration(tiny, 4)
    compared = 0
    for key in recorded.files:
        _, found, setting, what = (key.split("/") + [""] * 4)[:4]
        if found != score or what != "sparsity":
            continue
        granularity, reduce, p, limit, *per_model = setting.split("_")
        allocate = BlockSensitivity(
            draws=2,
            seed=42,
            compat="official",
            importance=SCORES[score],
            granularity=granularity,
            reduce=reduce,
            max_sparsity=float(limit[4:]),
            group_by="modality" if per_model else "model",
        )
        kept = allocate(asked, float(p[1:]))
        for (name, count), sparsity in zip(kept.items(), recorded[key], strict=True):
            assert abs(count - asked.layers[name].size * (1 - sparsity)) <= 4
        compared += 1
    assert compared == 17


def test_each_layer_is_cut_by_the_recorded_ratio_of_its_group(tiny, recorded):
    """From the recorded importances every recorded ratio comes out bit by bit, and n - int(n · ratio) weights stay."""
    asked, compared = calibration(tiny, 4), 0
    for key in recorded.files:
        config, score, setting, what = (key.split("/") + [""] * 4)[:4]
        if what != "sparsity":
            continue
        measured = {name: torch.from_numpy(recorded[f"{config}/{score}/importance/{name}"]) for name in asked.layers}
        importances = {name: float(value.float().sum()) for name, value in measured.items()}
        granularity, reduce, p, limit, *per_model = setting.split("_")
        allocate = ProportionalBudgets(
            compat="official",
            granularity=granularity,
            reduce=reduce,
            max_sparsity=float(limit[4:]),
            group_by="modality" if per_model else "model",
        )
        kept = allocate.budgets(asked.layers, importances, float(p[1:]))
        sizes = [layer.size for layer in asked.layers.values()]
        assert list(kept.values()) == [size - int(size * x) for size, x in zip(sizes, recorded[key], strict=True)], key
        assert sum(kept.values()) in allocate.may_give(asked, float(p[1:])), key
        compared += 1
    assert compared == 51


ALLOCATIONS = np.load(DATA / "ecoflap_allocation.npz")


@pytest.mark.parametrize("name", sorted({key.split("/")[0] for key in ALLOCATIONS.files} - {"all_zero"}))
@pytest.mark.parametrize("compat", ["official", "corrected"])
def test_shares(name, compat):
    given = {
        key: ALLOCATIONS[f"{name}/{key}"] for key in ("scores", "num_params", "p_pmax", "total_to_keep", "sparsity")
    }
    sizes, total = given["num_params"].tolist(), int(given["total_to_keep"])
    kept = proportional_budgets(given["scores"].tolist(), sizes, total, float(given["p_pmax"][1]), compat)
    difference = np.abs(np.array(kept) / sizes - (1 - given["sparsity"]))
    large = max(sizes) > 1e6  # the released code works in float32
    assert (difference <= (1e-5 if large else (1e-6 if compat == "official" else 4 / np.array(sizes)))).all()
    if compat == "corrected":
        assert sum(kept) == total
    elif not large:
        assert sum(kept) == pytest.approx(float(ALLOCATIONS[f"{name}/kept_from_sparsity"]), abs=0.01)


@pytest.mark.parametrize("name", sorted({key.split("/")[0] for key in ALLOCATIONS.files} - {"all_zero"}))
def test_released_ratios(name):
    given = {
        key: ALLOCATIONS[f"{name}/{key}"] for key in ("scores", "num_params", "p_pmax", "total_to_keep", "sparsity")
    }
    total, (_, limit) = int(given["total_to_keep"]), given["p_pmax"]
    found = released_ratios(given["scores"].tolist(), given["num_params"].tolist(), total, float(limit))
    assert np.abs(np.array(found) - given["sparsity"]).max() <= (6e-8 if name == "blip2_like" else 0)


def test_no_importance_at_all_is_shared_evenly():
    assert proportional_budgets([0.0, 0.0], [100, 100], 100, 0.6) == [50, 50]


def rows_cut(w, norms, ratio):
    """The released Wanda in T5: of each row the int(d_in · p) smallest go."""
    keep = torch.ones_like(w, dtype=torch.bool)
    order = (w.abs() * norms.sqrt()).sort(dim=1, stable=True).indices[:, : int(w.shape[1] * ratio)]
    return keep.scatter_(1, order, False)


def matrix_cut(w, norms, ratio):
    """The released Wanda in vision towers: all up to the score at place int(n · p), so one weight more."""
    scores = w.abs() * norms.sqrt()
    return scores > scores.flatten().sort().values[int(scores.numel() * ratio)]


def squares(norms, name, layer, args):
    """Hook: the sum over tokens of x², divided by the sequences."""
    norms[name] = args[0].flatten(0, 1).square().sum(0) / len(args[0])


def released_wanda(model, data, ratios):
    """Block by block: what reaches it behind the pruned ones, then all its matrices at once."""
    model, masks = copy.deepcopy(model), {}
    blocks = [f"visual_encoder.blocks.{i}" for i in range(3)]
    blocks += [f"t5_model.{stack}.block.{i}" for stack in ("encoder", "decoder") for i in range(2)]
    for block in blocks:
        layers = {f"{block}.{name}.weight": layer for name, layer in model.get_submodule(block).named_children()}
        norms, handles = {}, []
        for name, layer in layers.items():
            handles.append(layer.register_forward_pre_hook(partial(squares, norms, name)))
        with torch.no_grad():
            model(**data)
        for handle in handles:
            handle.remove()
        for name, layer in layers.items():
            cut = matrix_cut if name.startswith("visual") else rows_cut
            masks[name] = cut(layer.weight.detach(), norms[name], ratios[name])
            layer.weight.data *= masks[name]
    return masks


TOWERS = {"visual_encoder": "matrix", "t5_model": "output"}


@pytest.mark.parametrize("sparsity", [0.3, 0.5, 0.7])
def test_official_wanda_of_the_whole_model(tiny, sparsity):
    model, data, arrays = tiny
    expected = released_wanda(model, data, dict.fromkeys(arrays["prunable_order"].tolist(), sparsity))
    options = {"compat": "official", "solve.within": TOWERS}
    found = vlp_bench.prune(model, "wanda", sparsity, [data], TinyAdapter(), options)
    assert found.masks.keys() == expected.keys()
    assert sum(int((mask != expected[name]).sum()) for name, mask in found.masks.items()) == 0


@pytest.mark.parametrize("granularity", ["block", "layer", "model"])
@pytest.mark.parametrize("sparsity", [0.4, 0.5, 0.6])
def test_official_ecoflap_of_the_whole_model(tiny, granularity, sparsity):
    """The ratios are those of the importances found here; the cuts are those of the released code."""
    model, data, _ = tiny
    options = {"compat": "official", "granularity": granularity, "draws": 2, "seed": 42, "solve.within": TOWERS}
    batches = [{name: t[i : i + 4] for name, t in data.items()} for i in (0, 4)]
    allocate = BlockSensitivity(compat="official", granularity=granularity, draws=2, seed=42)
    asked = calibration(tiny, 4)
    groups = allocate._groups(list(asked.layers.values()))
    importances = allocate.importances(asked)
    sizes = [sum(layer.size for layer in group) for group in groups]
    scores = [sum(importances[layer.name] for layer in group) for group in groups]
    ratios = released_ratios(scores, sizes, int(1856 * (1 - sparsity)), sparsity + 0.1)
    expected = released_wanda(model, data, {x.name: r for g, r in zip(groups, ratios, strict=True) for x in g})
    found = vlp_bench.prune(model, "ecoflap", sparsity, batches, TinyAdapter(), options)
    assert sum(int((mask != expected[name]).sum()) for name, mask in found.masks.items()) == 0
