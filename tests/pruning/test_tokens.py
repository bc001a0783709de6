"""Choices of tokens, and the similarities that sparsities and choices are made of, against NumPy in float64."""

import logging
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import vlp_bench
from tests.models.tiny import blip2 as tiny_blip2
from tests.models.tiny import blip2_opt as tiny_opt
from tests.models.tiny import xvlm as tiny_xvlm
from tests.pruning.toys import labelled, sequential
from vlp_bench.pruning import tokens
from vlp_bench.pruning.adapter import PlainAdapter, modality_mask
from vlp_bench.pruning.allocation.diversity import DiversityBudgets, diversity
from vlp_bench.pruning.pruner import Pruner
from vlp_bench.pruning.statistics.attention import AttentionWatch, _attention
from vlp_bench.pruning.statistics.calibration import Calibration
from vlp_bench.pruning.statistics.similarities import OutputSimilarities, similarities

IMAGE = torch.tensor([True, True, True, False, False, False])
KEPT = torch.tensor([[True] * 6, [True, True, True, True, True, False], [True] * 6])


class Mixed(PlainAdapter):
    """Three image tokens before three words, of which the second row has two."""

    def token_mask(self, batch, name, tokens):
        return KEPT[: len(batch)]

    def modality_mask(self, batch, name, tokens):
        return IMAGE.expand(len(batch), -1)


class Words(Mixed):
    """The same tokens, all of one kind."""

    def modality_mask(self, batch, name, tokens):
        return None


def blocks(count=2):
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(count))).double()


def batches(count=2):
    g = torch.Generator().manual_seed(1)
    return [torch.randn(3, 6, 8, generator=g, dtype=torch.float64) for _ in range(count)]


def numpy_similarities(y, kept, image):
    y = y / np.linalg.norm(y, axis=-1, keepdims=True)
    found = []
    for own in (kept & image, kept & ~image):
        cosines = [y[i] @ y[j] for i in range(len(y)) for j in range(i) if own[i] and own[j]]
        found.append(np.mean([c for c in cosines if c > 0]) if any(c > 0 for c in cosines) else 0.0)
    across = [
        y[i] @ y[j] for i in range(len(y)) for j in range(len(y)) if kept[i] and image[i] and kept[j] and not image[j]
    ]
    return [*found, np.mean(across)]


def test_similarities_of_a_layer_s_outputs():
    model = blocks()
    found = Calibration(model, batches(), Mixed())[OutputSimilarities()]
    for number, name in enumerate(("0.0.weight", "1.0.weight")):
        linear, rows = model[number][0], []
        for x in batches():
            with torch.no_grad():
                y = linear(model[:number](x)).numpy()
            rows += [numpy_similarities(own, KEPT[i].numpy(), IMAGE.numpy()) for i, own in enumerate(y)]
        np.testing.assert_allclose(found[name].numpy(), np.mean(rows, 0), rtol=1e-5)


def test_similarities_by_hand():
    """Two image tokens at 60 degrees, two opposite words: only positive cosines count within a modality."""
    x = torch.tensor([[1.0, 0.0], [0.5, 0.75**0.5], [0.0, 1.0], [0.0, -1.0]])
    every, image = torch.ones(4, dtype=torch.bool), torch.tensor([True, True, False, False])
    torch.testing.assert_close(similarities(x, every, image), torch.tensor([0.5, 0.0, 0.0], dtype=torch.float64))
    assert similarities(x, every, ~every)[[0, 2]].isnan().all()
    assert similarities(x, ~every, image).isnan().all()


def test_diversity_counts_what_is_defined_thrice():
    assert diversity(torch.tensor([0.5, 0.2, -0.1])) == pytest.approx(0.5 + 0.8 + 1.1)
    assert diversity(torch.tensor([torch.nan, 0.2, torch.nan])) == pytest.approx(3 * 0.8)
    assert diversity(torch.full((3,), torch.nan)) == 3.0
    assert diversity(torch.tensor([1.0 + 1e-9] * 3)) == 0.0


def test_equal_scores_are_mostly_sizes():
    """Layers get equal counts before anything else: with a query of 4·4 and a value of 4·1, .40 and 0 at 50 %."""
    model = nn.ModuleDict(
        {name: nn.Linear(4096, rows, bias=False) for name, rows in (("q", 64), ("k", 16), ("v", 16), ("o", 64))}
        | {name: nn.Linear(4096, 224, bias=False) for name in ("gate", "up", "down")}
    )
    calibration = Calibration(model)
    kept = DiversityBudgets(importance="equal")(calibration, 0.5)
    removed = {name.split(".")[0]: 1 - kept[name] / layer.size for name, layer in calibration.layers.items()}
    expected = {"q": 0.4, "k": 0.0, "v": 0.0, "o": 0.4, "gate": 0.543, "up": 0.543, "down": 0.543}
    assert removed == pytest.approx(expected, abs=1e-3)  # of the released code on a block of LLaMA-3-8B
    assert sum(kept.values()) == calibration.total // 2
    even = DiversityBudgets(importance="equal", reduce="avg", max_sparsity=1.0)(calibration, 0.5)
    assert sum(even.values()) == calibration.total // 2


# ATV


def numpy_atv(ins, outs, alpha):
    """Of every sample: all words, and round(min(1, α c̄) · words) image tokens with the largest change."""
    changes = [
        1 - (x * y).sum(-1) / np.linalg.norm(x, axis=-1) / np.linalg.norm(y, axis=-1)
        for x, y in zip(ins, outs, strict=True)
    ]
    mean = np.mean([c[:, :3] for c in changes])
    masks = []
    for change in changes:
        mask = KEPT.numpy() & ~IMAGE.numpy()
        for row in range(3):
            k = min(3, round(min(1, alpha * mean) * int(mask[row].sum())))
            mask[row, np.argsort(-change[row, :3], kind="stable")[:k]] = True
        masks.append(mask)
    return masks


@pytest.mark.parametrize("alpha", [0.3, 0.6, 1.0, 9.0])
def test_atv(alpha):
    model, data = blocks(), batches()
    choice = tokens.atv(Calibration(model, data, Mixed()), alpha=alpha)
    with torch.no_grad():
        middle = [model[0](x) for x in data]
        last = [model[1](x) for x in middle]
    inputs = {"0.0.weight": (data, middle), "1.0.weight": (middle, last)}
    for name, (ins, outs) in inputs.items():
        expected = numpy_atv([x.numpy() for x in ins], [x.numpy() for x in outs], alpha)
        assert [part[name][0].tolist() for part in choice] == [mask.tolist() for mask in expected]


def test_atv_leaves_one_modality_alone_and_tells_how_many_stay(caplog):
    assert tokens.atv(Calibration(blocks(), batches(), Words())) == [{}, {}]
    caplog.set_level(logging.INFO)
    tokens.atv(Calibration(blocks(1), batches(), Mixed()), alpha=0.0)
    assert "0.0.weight: 0.0 image tokens of a sample count" in caplog.text


# AMIA


def numpy_amia(x, paid, limit):
    distances = 1 - x @ x.T
    near = [[j for j in np.argsort(row, kind="stable") if j != i][:3] for i, row in enumerate(distances)]
    claims = np.array([paid[i] + sum(np.exp(-distances[i, j]) * paid[j] for j in own) for i, own in enumerate(near)])
    kernel, taken = np.exp(-np.square(x[:, None] - x[None]).sum(-1) / 2), []
    while len(taken) < len(x):
        best = int(np.argmax(claims))
        for j in near[best]:
            claims[j] -= np.exp(-0.2 * distances[best, j]) * max(claims[best], 0)
        taken.append(best)
        claims[taken] = claims.min() - 1
        if kernel.mean() + kernel[np.ix_(taken, taken)].mean() - 2 * kernel[:, taken].mean() < limit:
            break
    return sorted(taken)


@pytest.mark.parametrize("seed", range(6))
def test_representatives(seed):
    g = torch.Generator().manual_seed(seed)
    x = F.normalize(torch.randn(14, 5, generator=g, dtype=torch.float64) + 0.3, dim=-1)
    paid, image = torch.rand(14, generator=g), torch.arange(14) < 8
    kept = torch.arange(14) != 3
    density = np.mean(numpy_similarities(x.numpy(), kept.numpy(), image.numpy()))
    among = np.flatnonzero(kept.numpy())
    expected = among[numpy_amia(x.numpy()[among], paid.double().numpy()[among], 0.1 * np.sqrt(1 - density))]
    found = tokens.representatives(x, kept, image, paid)
    assert found.nonzero().flatten().tolist() == expected.tolist()
    assert 0 < found.sum() < kept.sum()


def test_copies_of_one_token_are_represented_by_all_and_single_tokens_by_themselves():
    x, every = torch.ones(4, 1), torch.ones(4, dtype=torch.bool)
    assert tokens.representatives(x, every, ~every, torch.ones(4)).all()  # density 1: nothing may be lost
    one = torch.tensor([False, True, False, False])
    assert tokens.representatives(x, one, ~every, torch.ones(4)).equal(one)


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_attention_is_what_torch_multiplies_with(grouped, causal):
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 4, 5, 3), *torch.randn(2, 2, 2 if grouped else 4, 5, 3)
    bias = None if causal else torch.randn(2, 1, 5, 5)
    given = {"attn_mask": bias, "is_causal": causal, "enable_gqa": grouped}
    values = v.repeat_interleave(2, 1) if grouped else v
    torch.testing.assert_close(_attention(q, k, v, **given) @ values, F.scaled_dot_product_attention(q, k, v, **given))
    if bias is not None and not grouped:
        allowed = torch.ones(5, 5, dtype=torch.bool).tril()
        torch.testing.assert_close(_attention(q, k, v, allowed) @ v, F.scaled_dot_product_attention(q, k, v, allowed))
    watch = AttentionWatch()
    with watch:
        F.scaled_dot_product_attention(q, k, v, **given)
        torch.softmax(torch.zeros(2, 4, 5, 5), -1)
        torch.softmax(torch.zeros(2, 5), -1)
    assert [attention.shape for attention in watch.seen] == [(2, 5, 5)] * 2
    torch.testing.assert_close(watch.seen[0], _attention(q, k, v, **given).mean(1))


@pytest.mark.parametrize("tiny", [tiny_blip2, tiny_opt, tiny_xvlm])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_attention_of_every_block_is_seen(tiny, attention):
    model = tiny.model(attention).eval()
    blocks_with_layers = {model.adapter.place(name).block for name in model.adapter.prunable(model)}
    with AttentionWatch() as watch, torch.no_grad():
        model.adapter.encode(model, tiny.batches()[0])
    assert len(watch.seen) >= len(blocks_with_layers)
    assert all(torch.allclose(own.sum(-1), torch.tensor(1.0), atol=1e-5) for own in watch.seen)


def test_the_attention_is_the_last_token_s_that_counts():
    attention = torch.arange(18.0).view(2, 3, 3)
    kept = torch.tensor([[True, True, False], [True, True, True]])
    assert tokens._last_attention([torch.zeros(2, 4, 4), attention], kept).tolist() == [[3, 4, 5], [15, 16, 17]]
    assert tokens._last_attention([], kept).tolist() == [[pytest.approx(1 / 3)] * 3] * 2


# In a pruner


@pytest.mark.parametrize("tiny", [tiny_blip2, tiny_opt])
def test_the_image_comes_before_the_words(tiny):
    model, batch = tiny.model(), tiny.batches()[0]
    adapter, queries = model.adapter, model.adapter.queries
    mixed = 0
    seen = {name: [] for name in adapter.prunable(model)}
    handles = [
        model.get_submodule(name.removesuffix(".weight")).register_forward_pre_hook(
            lambda _, args, name=name: seen[name].append(args[0].flatten(1, -2).shape[1] if args[0].ndim > 2 else 1)
        )
        for name in seen
    ]
    adapter.encode(model, batch)
    for handle in handles:
        handle.remove()
    for name, (tokens_seen, *_) in seen.items():
        image, kept = (ask(batch, name, tokens_seen) for ask in (adapter.modality_mask, adapter.token_mask))
        if image is not None:
            mixed += 1
            assert image.shape == kept.shape
            assert int(image.sum()) == queries * len(batch.images)
            assert kept[image].all()
    assert mixed
    assert modality_mask(tiny_xvlm.model().adapter, batch, "any", 3) is None


@pytest.mark.parametrize("choice", ["atv", "amia"])
@pytest.mark.parametrize("tiny", [tiny_blip2, tiny_opt, tiny_xvlm])
@pytest.mark.parametrize("sweep", ["at_once", "block_by_block"])
def test_any_pruner_takes_a_choice_of_tokens(choice, tiny, sweep):
    torch.manual_seed(0)
    model = tiny.model().eval()
    options = {"tokens": choice, "sweep": sweep}
    found = vlp_bench.prune(model, "sparsegpt", 0.5, tiny.batches(), options=options)
    plain = vlp_bench.prune(model, "sparsegpt", 0.5, tiny.batches(), options={"sweep": sweep})
    assert found.kept == plain.kept
    assert choice in str(found.report["settings"]["tokens"])
    same = all(mask.equal(plain.masks[name]) for name, mask in found.masks.items())
    assert same == (choice == "atv" and tiny is tiny_xvlm)  # whose layers see one modality each


def test_norms_are_those_of_the_chosen_tokens():
    model, data = blocks(), batches()
    select = partial(tokens.atv, alpha=0.6)
    norms = {}

    def solve(calibration, budgets):
        norms.update(calibration.norms())
        return parts.solve(calibration, budgets)

    parts = vlp_bench.pruning.catalogue.load("wanda")
    Pruner(allocate=parts.allocate, solve=solve, tokens=select).prune(model, 0.5, data, Mixed())
    choice = select(Calibration(model, data, Mixed()))
    squares = [(x.numpy() ** 2)[part["0.0.weight"][0].numpy()].sum(0) for x, part in zip(data, choice, strict=True)]
    np.testing.assert_allclose(norms["0.0.weight"].numpy(), np.sqrt(sum(squares) / 6), rtol=1e-5)


def test_a_choice_is_no_part_of_a_pruner_that_has_none():
    assert "tokens" not in vlp_bench.prune(sequential(), "wanda", 0.5, labelled()).report["settings"]
    with pytest.raises(ValueError, match=r"unknown tokens 'tome': use one of amia, atv"):
        vlp_bench.prune(sequential(), "wanda", 0.5, labelled(), options={"tokens": "tome"})
    parts = vlp_bench.pruning.catalogue.load("wanda")
    with pytest.raises(ValueError, match="tokens must be a function or an object that can be called: 7"):
        Pruner(allocate=parts.allocate, solve=parts.solve, tokens=7)


class Readings(nn.Module):
    """A block that is called twice, one whose weight is another's of other tokens, one that reads tokens of its own."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(3))
        self.blocks[2][0].weight = self.blocks[1][0].weight

    def forward(self, x):
        x = self.blocks[0](self.blocks[0](x))
        return self.blocks[1](x).mean() + self.blocks[2](x[:, :5]).mean()


class Images(PlainAdapter):
    def modality_mask(self, batch, name, tokens):
        return IMAGE[:tokens].expand(len(batch), -1)


def norms_of(model, data, select, adapter):
    seen = {}

    def solve(calibration, budgets):
        seen.update({name: own.numpy() for name, own in calibration.norms().items()})
        return parts.solve(calibration, budgets)

    parts = vlp_bench.pruning.catalogue.load("wanda")
    Pruner(allocate=parts.allocate, solve=solve, tokens=select).prune(model, 0.5, data, adapter)
    return seen


@pytest.mark.parametrize("select", [partial(tokens.atv, alpha=0.5), tokens.amia])
def test_every_reading_of_a_layer_has_tokens_of_its_own(select):
    torch.manual_seed(0)
    model, data = Readings().double(), batches()
    found = norms_of(model, data, select, Images())
    blocks, sums, calls = model.blocks, {0: 0.0, 1: 0.0}, {0: [], 1: [], 2: []}
    with torch.no_grad():
        for x in data:
            for number, take in ((0, lambda x: x), (0, lambda x: x), (1, lambda x: x), (2, lambda x: x[:, :5])):
                given = take(x)
                calls[number] += [(given, blocks[number](given), blocks[number][0](given))]
                x = calls[number][-1][1] if number == 0 else x
    for number, own in calls.items():  # the third is no block of ATV's: the name of its weight is another's
        every = [np.ones(given.shape[:2], bool) for given, _, _ in own]
        masks = every if select is not tokens.amia and number == 2 else chosen_by_hand(select, own)
        for chosen, (given, _, _) in zip(masks, own, strict=True):
            sums[min(number, 1)] += (given.numpy() ** 2)[chosen].sum(0)
    for number, total in sums.items():
        np.testing.assert_allclose(found[f"blocks.{number}.0.weight"], np.sqrt(total / 12), rtol=1e-6)


def chosen_by_hand(select, calls):
    """Of every call (given, what the block gave, what the layer gave) the tokens that count, (rows, tokens) bool."""
    images = [IMAGE[: given.shape[1]].numpy() for given, _, _ in calls]
    if select is tokens.amia:
        return [
            np.array([amia_by_hand(row, image) for row in F.normalize(own, dim=-1).numpy()])
            for (_, _, own), image in zip(calls, images, strict=True)
        ]
    changes = [1 - F.cosine_similarity(given, block, dim=-1).numpy() for given, block, _ in calls]
    mean = np.concatenate([own[:, image].ravel() for own, image in zip(changes, images, strict=True)]).mean()
    masks = []
    for own, image in zip(changes, images, strict=True):
        k = min(image.sum(), round(min(1, 0.5 * mean) * (~image).sum()))
        first = np.argsort(np.where(image, -own, np.inf), axis=1, kind="stable")[:, :k]
        mask = np.broadcast_to(~image, own.shape).copy()
        np.put_along_axis(mask, first, True, axis=1)
        masks.append(mask)
    return masks


def amia_by_hand(row, image):
    density = np.mean(numpy_similarities(row, np.ones(len(row), bool), image))
    chosen = numpy_amia(row, np.full(len(row), 1 / len(row)), 0.1 * np.sqrt(1 - density))
    return np.isin(np.arange(len(row)), chosen)


def test_what_a_block_that_is_not_called_reads_counts_and_that_is_said(caplog):
    class Past(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(2))

        def forward(self, x):
            return self.blocks[1](self.blocks[0][1](self.blocks[0][0](x)))  # the parts of the first one by one

    torch.manual_seed(0)
    model, data = Past().double(), batches()
    for select in (tokens.atv, tokens.amia):
        found = norms_of(model, data, select, Images())
        every = np.sqrt(sum((x.numpy() ** 2).sum((0, 1)) for x in data) / 6)
        np.testing.assert_allclose(found["blocks.0.0.weight"], every, rtol=1e-6)
    assert "no batch calls the block of blocks.0.0.weight as a module" in caplog.text


def test_a_layer_outside_all_blocks_is_no_block_of_atv():
    model = nn.Sequential(nn.Linear(8, 8, bias=False)).double()
    assert tokens.atv(Calibration(model, batches(), Images())) == [{}, {}]


def test_outputs_that_are_not_finite_are_refused_by_name():
    data = batches()
    data[1][0, 0, 2] = torch.nan
    with pytest.raises(ValueError, match=r"the outputs of '0\.0\.weight' in calibration batch 1 hold NaN"):
        vlp_bench.prune(blocks(), "omp", 0.5, data, Words(), options={"allocate": "das"})


class Padded(nn.Module):
    """Its batches tell of their padding, its adapter doesn't."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(2))

    def forward(self, inputs_embeds, attention_mask):
        return self.blocks[1](self.blocks[0](inputs_embeds)).mean()


@pytest.mark.parametrize("sweep", ["at_once", "block_by_block"])
def test_padding_that_only_the_batch_tells_of_is_never_chosen(sweep):
    torch.manual_seed(0)
    model, results = Padded().double(), []
    for filling in (0.0, 30.0):
        data = [
            {"inputs_embeds": x.masked_fill(~KEPT[..., None], filling), "attention_mask": KEPT.long()}
            for x in batches()
        ]
        found = vlp_bench.prune(model, "sparsegpt", 0.5, data, options={"sweep": sweep, "tokens": "amia"})
        results.append(found.weights)
    plain = vlp_bench.prune(model, "sparsegpt", 0.5, data, options={"sweep": sweep}).weights
    for name, own in results[0].items():
        torch.testing.assert_close(own, results[1][name])
        assert not torch.allclose(own, plain[name])
