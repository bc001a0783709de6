"""Padding without an adapter: what the batch says beyond doubt is believed, anything else is said once."""

import pytest
import torch
from torch import nn

import vlp_bench
from vlp_bench.pruning.adapter import PlainAdapter
from vlp_bench.pruning.statistics.calibration import Calibration
from vlp_bench.pruning.statistics.padding import doubt, padding_mask

LENGTHS = torch.tensor([8, 8, 5, 2])


def words(seed=0):
    generator = torch.Generator().manual_seed(seed)
    mask = (torch.arange(8) < LENGTHS[:, None]).long()
    ids = torch.randint(1, 20, (4, 8), generator=generator) * mask
    return {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}


def unpadded(batch):
    """The same texts, each a part of its own."""
    return [{key: value[i : i + 1, :n] for key, value in batch.items()} for i, n in enumerate(LENGTHS.tolist())]


def llama():
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlamaForCausalLM(
            LlamaConfig(vocab_size=20, hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2)
        )


@pytest.mark.parametrize("name", ["wanda", "multiflow", "sparsegpt"])
def test_a_language_model_is_pruned_as_from_unpadded_batches(name, caplog):
    batches = [words(0), words(1)]
    found = vlp_bench.prune(llama(), name, 0.5, batches)
    expected = vlp_bench.prune(llama(), name, 0.5, [unpadded(batch) for batch in batches])
    counted = vlp_bench.prune(
        llama(), name, 0.5, [dict(batch, attention_mask=batch["attention_mask"] * 0 + 1) for batch in batches]
    )
    assert all(found.masks[layer].equal(mask) for layer, mask in expected.masks.items())
    assert not all(counted.masks[layer].equal(mask) for layer, mask in expected.masks.items())
    assert "padding" not in caplog.text


def test_stacked_experts_without_an_adapter():
    from tests.pruning.test_stacks import FAMILIES, texts, tiny

    model = tiny("Mixtral", **FAMILIES["Mixtral"])
    found, expected = (Calibration(model, batches).norms() for batches in texts())
    for name, norms in expected.items():
        torch.testing.assert_close(found[name], norms, rtol=1e-4, atol=1e-6)


def test_what_is_certain_and_what_is_not():
    batch = words()
    assert padding_mask(batch).equal(batch["attention_mask"].bool())
    assert padding_mask(dict(batch, attention_mask=torch.ones(4, 8))) is None
    assert padding_mask(dict(batch, attention_mask=torch.ones(4, 1, 8, 8))) is None
    assert padding_mask(dict(batch, attention_mask=(batch["attention_mask"] - 1) * 1e9)) is None  # to be added
    assert padding_mask((batch["input_ids"],)) is padding_mask({"input_ids": batch["input_ids"]}) is None
    assert doubt(batch, False) is None
    assert doubt(batch, True) == "labels of a decoder has the same shape"
    assert doubt(dict(batch, labels=batch["labels"][:, :3]), True) is None
    assert doubt(dict(batch, pixel_values=torch.ones(4, 3, 2, 2)), False) == "pixel_values makes tokens too"
    assert doubt({"attention_mask": batch["attention_mask"]}, False) == "no input_ids of shape (4, 8) beside it"


class TwoTowers(nn.Module):
    """Eight words beside eight pieces of an image."""

    def __init__(self):
        super().__init__()
        self.words, self.text, self.vision, self.head = (
            nn.Embedding(20, 6),
            nn.Linear(6, 6),
            nn.Linear(6, 6),
            nn.Linear(6, 2),
        )

    def forward(self, input_ids, attention_mask, pixel_values, labels=None):
        return self.head((self.text(self.words(input_ids)) + self.vision(pixel_values)).mean(1))


def test_lengths_that_happen_to_agree_are_not_believed(caplog):
    batches = [words() | {"pixel_values": torch.randn(4, 8, 6)}]
    with_mask = Calibration(TwoTowers(), batches).norms()["vision.weight"]
    close = (batches[0]["pixel_values"].double().square().sum((0, 1)) / 4).sqrt()
    torch.testing.assert_close(with_mask, close, rtol=1e-5, atol=0)
    vlp_bench.prune(TwoTowers(), "wanda", [0.5, 0.75], batches)
    model = TwoTowers()
    caplog.clear()
    for name in ("wanda", "multiflow", "ria"):
        vlp_bench.prune(model, name, [0.5, 0.6, 0.75], batches * 2)
    said = [record.getMessage() for record in caplog.records if "padding" in record.getMessage()]
    assert len(said) == 1
    assert "pixel_values makes tokens too" in said[0]
    assert "vlp_bench.TransformersAdapter(model)" in said[0]


class Pooled(nn.Module):
    """A pooler that reads the first token, and a head that reads all tokens of all rows in one list."""

    def __init__(self):
        super().__init__()
        self.words, self.body, self.pooler, self.flat = (
            nn.Embedding(20, 6),
            nn.Linear(6, 6),
            nn.Linear(6, 6),
            nn.Linear(6, 2),
        )

    def forward(self, input_ids, attention_mask, labels=None):
        x = self.body(self.words(input_ids))
        return self.flat(x.flatten(0, 1)).mean() + self.pooler(x[:, 0]).mean()


class Words(PlainAdapter):
    def token_mask(self, batch, name, tokens):
        return batch["attention_mask"].bool()


def test_a_mask_of_tokens_says_nothing_of_a_pooler():
    model, batch = Pooled(), words()
    x = model.body(model.words(batch["input_ids"])).detach().double()
    norms = Calibration(model, [batch], Words()).norms()
    torch.testing.assert_close(norms["pooler.weight"], (x[:, 0].square().sum(0) / 4).sqrt(), rtol=1e-5, atol=1e-7)
    counted = x[batch["attention_mask"].bool()]
    torch.testing.assert_close(norms["flat.weight"], (counted.square().sum(0) / 4).sqrt(), rtol=1e-5, atol=1e-7)


def test_a_list_of_tokens_without_an_adapter_is_counted_and_said(caplog):
    model, batch = Pooled(), words()
    x = model.body(model.words(batch["input_ids"])).detach().double().flatten(0, 1)
    norms = Calibration(model, [batch]).norms()
    torch.testing.assert_close(norms["flat.weight"], (x.square().sum(0) / 4).sqrt(), rtol=1e-5, atol=1e-7)
    assert "flat.weight reads (32, 6)" in caplog.text


def test_a_mask_that_fits_nowhere_is_refused_with_names_and_shapes():
    class Short(PlainAdapter):
        def token_mask(self, batch, name, tokens):
            return batch["attention_mask"][:, :3].bool()

    with pytest.raises(ValueError, match=r"'body.weight' has shape \(4, 3\), its input \(4, 8, 6\): .* give \(4, 8\)"):
        vlp_bench.prune(Pooled(), "wanda", 0.5, [words()], Short())
