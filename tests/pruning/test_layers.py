import logging

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from tests.pruning.toys import Tied, TwoModalities, sequential
from vlp_bench.batch import Place
from vlp_bench.pruning.layers import PlainAdapter, adapter_for, find_layers


class Names(PlainAdapter):
    def __init__(self, *names):
        self.names = names

    def prunable(self, model):
        return list(self.names)


def test_plain_model():
    layers = find_layers(sequential())
    assert {name: layer.place for name, layer in layers.items()} == {
        "0.weight": Place("all", "0"),
        "2.weight": Place("all", "2"),
        "4.weight": Place("all", "4"),
    }


def test_block_is_the_name_up_to_the_first_number():
    adapter = PlainAdapter()
    assert adapter.place("vision.layers.3.mlp.fc1.weight") == Place("all", "vision.layers.3")
    assert adapter.place("pooler.dense.weight") == Place("all", "pooler.dense")


def test_tied_weight_is_one_layer_with_two_readers():
    model = Tied()
    layers = find_layers(model)
    assert list(layers) == ["encoder.weight", "head.weight"]
    assert [reader.module for reader in layers["encoder.weight"].readers] == [model.encoder, model.decoder]
    assert list(find_layers(model, Names("decoder.weight", "encoder.weight"))) == ["encoder.weight"]


def test_adapter_order_explicit_own_plain():
    model, explicit = sequential(), TwoModalities()
    assert isinstance(adapter_for(model), PlainAdapter)
    model.adapter = TwoModalities()
    assert adapter_for(model) is model.adapter
    assert adapter_for(model, explicit) is explicit
    with pytest.raises(ValueError, match="str is no adapter"):
        adapter_for(model, "plain")
    with pytest.raises(ValueError, match=r"adapter=PlainAdapter is a class: call it"):
        find_layers(nn.Linear(2, 2), PlainAdapter)


def test_packed_attention_and_conv1d_are_layers():
    model = nn.ModuleDict({"attention": nn.MultiheadAttention(8, 2), "conv": Conv1D(5, 8)})
    layers = find_layers(model)
    assert list(layers) == ["attention.in_proj_weight", "attention.out_proj.weight", "conv.weight"]
    assert layers["attention.out_proj.weight"].readers[0].module is model["attention"]
    assert layers["conv.weight"].matrix.shape == (5, 8)
    assert layers["conv.weight"].as_stored(layers["conv.weight"].matrix).shape == (8, 5)
    separate = find_layers(nn.MultiheadAttention(8, 2, kdim=4, vdim=6))
    assert list(separate) == ["q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj.weight"]


def test_weight_shared_with_an_embedding_stays_dense_and_says_so(caplog):
    model = nn.ModuleDict({"words": nn.Embedding(9, 4), "body": nn.Linear(4, 4), "head": nn.Linear(4, 9, bias=False)})
    model["head"].weight = model["words"].weight
    with caplog.at_level(logging.WARNING):
        assert list(find_layers(model)) == ["body.weight"]
    assert "words.weight is also an embedding" in caplog.text


def test_stacks_of_which_nothing_is_known_stay_dense_and_are_named_once(caplog):
    model = sequential()
    model.experts, model.pair = nn.Parameter(torch.zeros(4, 3, 2)), nn.Bilinear(2, 3, 4)
    for _ in range(2):
        assert list(find_layers(model)) == ["0.weight", "2.weight", "4.weight"]
    assert len(caplog.records) == 1
    assert "2 weights that no linear layer reads stay dense: experts, pair.weight (an adapter's" in caplog.text
    with pytest.raises(ValueError, match=r"'experts' can't be pruned: .* shape \(4, 3, 2\)"):
        find_layers(model, Names("experts"))
    assert list(find_layers(model, Names("0.weight"))) == ["0.weight"]


def test_convolutions_are_no_experts(caplog):
    model = sequential()
    model.conv = nn.Conv1d(2, 3, 4)
    assert len(find_layers(model)) == 3
    assert not caplog.records


@pytest.mark.parametrize(
    "names, message",
    [((), "no prunable layer"), (("0.wieght",), "no parameter of that name"), (("0.bias",), "a floating-point matrix")],
)
def test_bad_names(names, message):
    with pytest.raises(ValueError, match=message):
        find_layers(sequential(), Names(*names))


def test_a_weight_read_in_both_orientations_is_refused():
    linear, conv = nn.Linear(4, 4), Conv1D(4, 4)
    conv.weight = linear.weight
    with pytest.raises(ValueError, match="read both as"):
        find_layers(nn.Sequential(linear, conv))


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(number):
    model = sequential()
    with torch.no_grad():
        model[2].weight[1, 2] = number
    with pytest.raises(ValueError, match=r"'2.weight' hold NaN or infinity"):
        find_layers(model)


def test_large_half_precision_weights_are_finite():
    model = nn.Linear(100, 100).half()
    nn.init.constant_(model.weight, 60000.0)
    assert list(find_layers(model)) == ["weight"]
