"""What the module tree of a model says: its towers, whatever the model says of itself, and its repeated layers."""

from collections import Counter

import pytest
import torch
import transformers as t

from tests.models.foreign.zoo import LAYERS, PAIR, READ, SEEN
from vlp_bench.models.foreign.adapter import TransformersAdapter
from vlp_bench.models.foreign.inputs import reads
from vlp_bench.models.foreign.tree import Tree

TWO = {"text_config": PAIR, "vision_config": SEEN, "projection_dim": 32}


def on_meta(model, config):
    with torch.device("meta"):
        return model._from_config(config)


@pytest.mark.parametrize(
    ("model", "config", "layers"),
    [
        pytest.param(
            t.IdeficsForVisionText2Text,
            t.IdeficsConfig(
                **READ, cross_layer_interval=1,
                vision_config={"embed_dim": 32, "image_size": 16, "patch_size": 4, "intermediate_size": 64,
                               "num_hidden_layers": 3, "num_attention_heads": 4},
            ),
            {"vision": 18, "fusion": 28}, id="a tower that is no model",
        ),
        pytest.param(t.OwlViTModel, t.OwlViTConfig(**TWO), {"vision": 13, "text": 13}, id="family of images and texts"),
        pytest.param(
            t.GroupViTModel,
            t.GroupViTConfig(
                text_config=PAIR,
                vision_config=SEEN | {"depths": [2, 2], "num_group_tokens": [4, 0], "num_output_groups": [4, 4]},
                projection_dim=32, projection_intermediate_dim=32,
            ),
            {"vision": 40, "text": 14}, id="projections of two layers",
        ),
        pytest.param(t.Aimv2Model, t.Aimv2Config(**TWO), {"vision": 18, "text": 15}, id="family of images"),
        pytest.param(
            t.NystromformerForMaskedLM, t.NystromformerConfig(**LAYERS, vocab_size=64, max_position_embeddings=64),
            {"text": 12}, id="texts and convolutions",
        ),
        pytest.param(
            t.ASTForAudioClassification, t.ASTConfig(**LAYERS, patch_size=4, max_length=16, num_mel_bins=16),
            {"audio": 12}, id="patches of a sound",
        ),
        pytest.param(
            t.Gemma3nAudioEncoder,
            t.Gemma3nAudioConfig(hidden_size=32, conf_num_attention_heads=4, conf_num_hidden_layers=2),
            {"audio": 23}, id="convolutions of a sound",
        ),
        pytest.param(
            t.AltCLIPModel,
            t.AltCLIPConfig(text_config=LAYERS | {"vocab_size": 64, "project_dim": 32}, vision_config=SEEN),
            {"vision": 13, "text": 14}, id="a projection beside a tower",
        ),
    ],
)  # fmt: skip
def test_a_tower_is_of_what_it_takes(model, config, layers):
    adapter = TransformersAdapter(on_meta(model, config))
    assert Counter(weight.modality for weight in adapter.structure.prunable) == layers


@pytest.mark.parametrize(
    ("model", "config", "blocks"),
    [
        (
            t.PvtModel,
            t.PvtConfig(hidden_sizes=[8, 16], depths=[1, 2], num_attention_heads=[1, 2], num_encoder_blocks=2,
                        sequence_reduction_ratios=[2, 1], mlp_ratios=[2, 2], patch_sizes=[4, 2], strides=[4, 2]),
            ["encoder.block.0.0", "encoder.block.1.0", "encoder.block.1.1"],
        ),
        (
            t.MgpstrModel, t.MgpstrConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4),
            ["encoder.blocks.0", "encoder.blocks.1"],
        ),
        (
            t.CvtModel, t.CvtConfig(embed_dim=[32, 64, 64], num_heads=[1, 2, 4], depth=[1, 2, 3]),
            [f"encoder.stages.{stage}.layers.{layer}" for stage in range(3) for layer in range(stage + 1)],
        ),
    ],
)  # fmt: skip
def test_layers_in_lists_of_lists_and_in_sequences(model, config, blocks):
    assert Tree(on_meta(model, config)).blocks == blocks


def test_a_table_of_distances_is_one_of_positions():
    """LayoutLMv3 multiplies it with ones and zeros, one of many."""
    model = on_meta(t.LayoutLMv3Model, t.LayoutLMv3Config(**SEEN, vocab_size=64, input_size=16))
    reasons = {weight.name: weight.reason for weight in TransformersAdapter(model).structure.weights}
    assert reasons["encoder.rel_pos_bias.weight"] == reasons["encoder.rel_pos_x_bias.weight"] == "table of positions"
    assert not reasons["encoder.layer.0.attention.self.query.weight"]


def reasons_of(model, config):
    weights = TransformersAdapter(on_meta(model, config)).structure.weights
    return {weight.name: weight.reason for weight in weights}


def test_a_router_of_several_layers_is_one():
    """ZAYA's is a network of its own, called gate; Doge's stands beside tables that are its experts."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    reasons = reasons_of(t.ZayaForCausalLM, t.ZayaConfig(**sizes, head_dim=8, num_experts=4, vocab_size=64))
    gates = {name: reason for name, reason in reasons.items() if ".gate." in name}
    assert len(gates) == 8
    assert set(gates.values()) == {"router of experts"}
    assert {reason for name, reason in reasons.items() if ".experts." in name} == {""}
    doge = reasons_of(t.DogeForCausalLM, t.DogeConfig(**sizes, intermediate_size=64, is_moe=True, num_experts=16))
    assert doge["model.layers.0.mlp.router_gate.weight"] == "router of experts"
    assert not doge["model.layers.0.mlp.gate_proj.weight"]


def test_a_linear_layer_of_pixels_is_a_patch_embedding():
    text = READ | {"model_type": "persimmon"}
    fuyu = reasons_of(t.FuyuForCausalLM, t.FuyuConfig(text_config=text, patch_size=4))
    assert fuyu["model.vision_embed_tokens.weight"] == "patch embedding"
    seen = {"patch_size": 4, "mm_embed_dim": 16, "mm_posemb_size": 8}
    text = READ | {"head_dim": 8, "layer_types": ["full_attention"] * 2}
    gemma = reasons_of(
        t.Gemma4UnifiedForConditionalGeneration, t.Gemma4UnifiedConfig(text_config=text, vision_config=seen)
    )
    assert gemma["model.embed_vision.patch_dense.weight"] == "patch embedding"
    assert not gemma["model.embed_vision.multimodal_embedder.embedding_projection.weight"]


def test_layers_of_the_text_come_before_the_image_s():
    """Of texts and images in one row, the padding of the texts alone doesn't count."""
    model = on_meta(t.ViltModel, t.ViltConfig(**SEEN, vocab_size=64))
    adapter, mask = TransformersAdapter(model), torch.tensor([[1, 1, 1], [1, 0, 0]])
    name = "encoder.layer.0.output.dense.weight"
    batch = {"input_ids": mask, "attention_mask": mask, "pixel_values": torch.zeros(2, 3, 16, 16)}
    found = adapter.token_mask(batch, name, 5)
    assert found is not None
    assert found.tolist() == [[True] * 5, [True, False, False, True, True]]
    filled = batch | {"pixel_mask": torch.tensor([1, 0])[:, None, None].expand(2, 16, 16)}
    with pytest.raises(ValueError, match="which are padding can't be known"):
        adapter.token_mask(filled, name, 5)


@pytest.mark.parametrize(
    ("model", "config", "heads"),
    [
        (
            t.FSMTForConditionalGeneration,
            t.FSMTConfig(langs=["en", "de"], src_vocab_size=64, tgt_vocab_size=64, d_model=32, encoder_layers=1,
                         decoder_layers=1, encoder_ffn_dim=64, decoder_ffn_dim=64, encoder_attention_heads=4,
                         decoder_attention_heads=4, tie_word_embeddings=False),
            {"model.decoder.output_projection.weight": "output embeddings"},
        ),
        (
            t.BarkSemanticModel,
            t.BarkSemanticConfig(block_size=32, input_vocab_size=64, output_vocab_size=64, num_layers=1, num_heads=4,
                                 hidden_size=32),
            {"lm_head.weight": "head"},
        ),
        (
            t.JanusForConditionalGeneration,
            t.JanusConfig(
                text_config=READ | {"model_type": "llama"}, vision_config=SEEN | {"projection_dim": 32},
                vq_config={"embed_dim": 8, "num_embeddings": 16, "base_channels": 32, "channel_multiplier": [1],
                           "num_res_blocks": 1, "projection_dim": 32, "image_token_embed_dim": 32},
            ),
            {f"model.generation_head.{name}.weight": "head" for name in ("proj_out", "vision_head")},
        ),
        (
            t.ViTMAEForPreTraining,
            t.ViTMAEConfig(**SEEN, decoder_hidden_size=32, decoder_num_hidden_layers=1, decoder_num_attention_heads=4),
            {"decoder.decoder_pred.weight": "head"},
        ),
        (t.ParakeetForRNNT, t.ParakeetRNNTConfig(vocab_size=64), {"joint.head.weight": "head"}),
        (
            t.Ovis2Model,
            t.Ovis2Config(text_config=READ | {"model_type": "qwen2"}, vision_config=SEEN | {"vocab_size": 64}),
            {"vision_tower.head_linear.weight": "head"},
        ),
        (
            t.SiglipVisionModel, t.SiglipVisionConfig(**SEEN),  # a head that pools says nothing
            {"head.attention.in_proj_weight": "three projections in one matrix"},
        ),
    ],
    ids=lambda own: own.__name__ if isinstance(own, type) else "",
)  # fmt: skip
def test_heads_are_known_by_what_they_share_and_by_their_names(model, config, heads):
    reasons = reasons_of(model, config)
    said = ("output embeddings", "head", "three projections in one matrix")
    assert {name: reason for name, reason in reasons.items() if reason in said} == heads
    opened = TransformersAdapter(on_meta(model, config), prune_heads=True).structure.reasons.values()
    assert not {"output embeddings", "head"} & set(opened)


def test_words_that_are_pixels_are_seen():
    sizes = {"vocab_size": 16, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4}
    model = on_meta(t.ImageGPTForCausalImageModeling, t.ImageGPTConfig(**sizes))
    found = TransformersAdapter(model, prune_heads=True).structure
    assert {weight.modality for weight in found.weights} == {"vision"}
    assert reads(model) == {"image"}


def test_heads_beside_layers_that_no_base_model_holds():
    model = on_meta(t.EomtForUniversalSegmentation, t.EomtConfig(**SEEN, num_queries=5, num_blocks=1, num_labels=5))
    reasons = {weight.name: weight.reason for weight in TransformersAdapter(model).structure.weights}
    assert {reasons[name] for name in ("class_predictor.weight", "mask_head.fc1.weight")} == {"head"}
    assert sum(not reason for reason in reasons.values()) == 12
