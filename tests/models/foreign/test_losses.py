"""What a model of transformers is asked to say where a batch holds no labels."""

import torch
from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel

from vlp_bench.models.foreign.losses import own_words

IDS, MASK = torch.tensor([[5, 6, 7, 0, 0], [0, 0, 5, 6, 7]]), torch.tensor([[1, 1, 1, 0, 0], [0, 0, 1, 1, 1]])


def test_a_causal_model_says_nothing_from_padding():
    model = GPT2LMHeadModel(GPT2Config(vocab_size=9, n_embd=8, n_layer=1, n_head=2, n_positions=8))
    labels = own_words(model, {"input_ids": IDS, "attention_mask": MASK})
    assert labels.tolist() == [[5, 6, 7, -100, -100], [-100, -100, -100, 6, 7]]


def test_a_masked_model_reads_both_sides():
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = BertForMaskedLM(BertConfig(vocab_size=9, **sizes))
    labels = own_words(model, {"input_ids": IDS, "attention_mask": MASK})
    assert labels.tolist() == [[5, 6, 7, -100, -100], [-100, -100, 5, 6, 7]]
