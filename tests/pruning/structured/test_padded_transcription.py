"""FLAP, Wanda-sp and magnitude-sp through the library against NumPy, on batches of unequal sizes with padding."""

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel

import vlp_bench

BLOCKS, HEADS, WIDTH, HIDDEN = 2, 3, 5, 22
SIZES = {
    "num_hidden_layers": BLOCKS,
    "num_attention_heads": HEADS,
    "hidden_size": HEADS * WIDTH,
    "intermediate_size": HIDDEN,
}


def model():
    torch.manual_seed(0)
    bert = BertModel(BertConfig(vocab_size=50, hidden_dropout_prob=0.0, **SIZES), add_pooling_layer=False).eval()
    with torch.no_grad():
        for parameter in bert.parameters():
            parameter.mul_(3) if parameter.ndim > 1 else parameter.add_(0.3 * torch.randn(parameter.shape))
    return bert


def batches():
    g = torch.Generator().manual_seed(1)
    found = []
    for rows, tokens in ((3, 7), (2, 9), (1, 4)):
        mask = torch.arange(tokens) < torch.tensor([tokens - 2 * row for row in range(rows)])[:, None]
        found.append({"input_ids": torch.randint(5, 40, (rows, tokens), generator=g), "attention_mask": mask.long()})
    return found


def rows_of(bert, name):
    """(tokens, d) of what counts at the input of a layer, for every row of every batch."""
    seen = []
    hook = bert.get_submodule(name).register_forward_pre_hook(lambda _, args: seen.append(args[0].double().numpy()))
    with hook, torch.no_grad():
        for batch in batches():
            bert(**batch)
    masks = [batch["attention_mask"].bool().numpy() for batch in batches()]
    return [row[mask] for x, own in zip(seen, masks, strict=True) for row, mask in zip(x, own, strict=True)]


def released_fluctuation(rows):
    mean, found = rows[0].mean(0), 0.0
    for n, row in enumerate(rows[1:], 1):
        mean = (mean * n + row.mean(0)) / (n + 1)
        found = found * (n - 1) / n + ((row - mean) ** 2).sum(0) / (n + 1)
    return found


def flap(w, rows, heads, variance):
    channels = variance(rows) * (w**2).sum(0)
    channels = channels**2 if heads else channels
    channels = (channels - channels.mean()) / channels.std(ddof=1)
    return channels.reshape(HEADS, WIDTH).mean(1) if heads else channels


def summed(columns, heads):
    return columns.reshape(HEADS, WIDTH).sum(1) if heads else columns


SCORES = {
    ("flap", "corrected"): lambda w, rows, heads: flap(w, rows, heads, lambda rows: np.concatenate(rows).var(0)),
    ("flap", "official"): lambda w, rows, heads: flap(w, rows, heads, released_fluctuation),
    ("wanda_sp", "corrected"): lambda w, rows, heads: summed(
        np.abs(w).mean(0) * np.sqrt((np.concatenate(rows) ** 2).sum(0) / len(rows)), heads
    ),
    ("magnitude_sp", "corrected"): lambda w, rows, heads: summed(np.sqrt((w**2).sum(0)), heads),
}


@pytest.mark.parametrize(("pruner", "compat"), SCORES)
@pytest.mark.parametrize("sparsity", [0.2, 0.4])
def test_the_least_units_go(pruner, compat, sparsity):
    bert = model()
    found = vlp_bench.prune(bert, pruner, sparsity, batches(), options={"compat": compat})
    kept, gone = [], []
    for block in range(BLOCKS):
        for name in (f"encoder.layer.{block}.attention.output.dense", f"encoder.layer.{block}.output.dense"):
            layer, heads, rows = bert.get_submodule(name), "attention" in name, rows_of(bert, name)
            w, columns = layer.weight.detach().double().numpy(), found.masks[f"{name}.weight"].numpy().all(0)
            units = columns.reshape(HEADS, WIDTH).all(1) if heads else columns
            scores = SCORES[pruner, compat](w, rows, heads)
            kept.append(scores[units].min())
            gone.append(scores[~units].max(initial=-np.inf))
            assert (found.masks[f"{name}.weight"].numpy() == columns).all()
            if pruner == "flap":
                lost = w[:, ~columns] @ np.concatenate(rows).mean(0)[~columns]
                bias = found.biases[f"{name}.bias"].numpy()
                np.testing.assert_allclose(bias, layer.bias.detach().numpy() + lost, rtol=1e-5, atol=1e-6)
    assert max(gone) > -np.inf
    if pruner == "flap":  # all units of the model compete; the others' within their group
        assert max(gone) < min(kept)
    else:
        assert all(low < high for low, high in zip(gone, kept, strict=True))
