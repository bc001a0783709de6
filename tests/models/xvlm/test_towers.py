"""Sizes, stems, masks and position tables."""

import copy

import pytest
import torch
from transformers.models.bert.modeling_bert import BertSelfAttention

from vlp_bench.models.attention_masks import key_mask
from vlp_bench.models.xvlm.model import XVLM
from vlp_bench.models.xvlm.towers import ConvStem, XVLMConfig, resize_positions, sine_positions, vision_tower


@pytest.fixture(scope="module")
def paper():
    """The paper's model without memory for its weights."""
    with torch.device("meta"):
        return XVLM(XVLMConfig())


def test_prunable_weights_of_the_paper_s_model(paper):
    counts = {"vision": 0, "text": 0, "fusion": 0}
    shapes = dict(paper.named_parameters())
    names = paper.adapter.prunable(paper)
    for name in names:
        counts[paper.adapter.place(name).modality] += shapes[name].numel()
    assert counts == {"vision": 84_934_656, "text": 42_467_328, "fusion": 56_623_104}
    assert sum(counts.values()) == 184_025_088
    assert len(names) == len(set(names)) == 168


def test_all_weights_of_the_paper_s_model(paper):
    assert sum(p.numel() for p in paper.parameters()) == 212_268_609


def test_all_weights_at_the_fine_tuning_size():
    with torch.device("meta"):
        model = XVLM(XVLMConfig(image_size=384))
    assert sum(p.numel() for p in model.parameters()) == 212_560_449


def test_parameter_names_are_the_released_ones(paper):
    names = dict(paper.named_parameters()).keys()
    assert {
        "temp",
        "vision_encoder.embeddings.class_embedding",
        "vision_encoder.encoder.layers.11.self_attn.q_proj.weight",
        "text_encoder.bert.encoder.layer.5.attention.self.query.weight",
        "text_encoder.bert.encoder.layer.6.crossattention.self.key.weight",
        "text_encoder.cls.predictions.transform.dense.weight",
        "vision_proj.weight",
        "itm_head.3.bias",
        "bbox_head.0.weight",
    } <= names
    assert "text_encoder.bert.encoder.layer.5.crossattention.self.key.weight" not in names


def test_words_and_word_decoder_share_one_weight_also_in_a_copy(model):
    for each in (model, copy.deepcopy(model)):
        text = each.text_encoder
        assert text.cls.predictions.decoder.weight is text.bert.embeddings.word_embeddings.weight
        assert text.cls.predictions.decoder.bias is text.cls.predictions.bias


def test_no_layer_asks_for_causal_attention(model):
    asking = [m.is_causal for m in model.modules() if isinstance(m, BertSelfAttention)]
    assert asking == [False] * 3


def test_every_linear_layer_starts_small_and_centred(config):
    torch.manual_seed(3)
    model = XVLM(config)
    for name, weight in model.named_parameters():
        if name.endswith("weight") and weight.ndim == 2 and "position_embedding.weight" not in name:
            assert 0.01 < weight.std() < 0.3, name
            assert weight.mean().abs() < 0.05, name
    layer = model.text_encoder.bert.encoder.layer[2]
    assert not layer.crossattention.self.key.bias.any()


def test_positions_beside_a_convolutional_stem_start_far_apart_and_neighbours_nearest():
    table = sine_positions(6, 128)
    assert table.shape == (36, 128)
    assert 0.5 < table.std() < 0.8
    apart = torch.cdist(table, table)
    assert apart[~torch.eye(36, dtype=torch.bool)].min() > 3
    assert apart[0].argsort()[1:3].sort().values.tolist() == [1, 6]  # right and below


@pytest.mark.parametrize(
    "field, value",
    [
        ("stem", "resnet"),
        ("image_size", 225),
        ("patch_size", 0),
        ("vision_heads", 7),
        ("text_heads", 7),
        ("text_width", 384),
        ("local_attn_depth", 13),
        ("fusion_layers", 13),
        ("fusion_layers", 0),
        ("dropout", 1.0),
        ("itm_uniform", -1.0),
        ("temp", 0.0),
        ("vocab_size", 0),
    ],
)
def test_an_impossible_size_is_refused_by_name(field, value):
    with pytest.raises(ValueError, match=r"XVLM config: \w+ must be .*, got") as error:
        XVLMConfig(**{field: value})
    assert field.split("_")[0] in str(error.value)


def test_the_convolutional_stem_needs_patches_of_8():
    with pytest.raises(ValueError, match="patch_size must be 8 with stem=conv, got 16"):
        XVLMConfig(stem="conv")


def test_unknown_attention_is_refused(config):
    with pytest.raises(ValueError, match="one of eager, sdpa, got 'flash'"):
        XVLM(config, attention="flash")


def test_stem_turns_48_pixels_into_36_tokens():
    stem = ConvStem(32)
    assert stem(torch.zeros(2, 3, 48, 48)).shape == (2, 32, 6, 6)
    assert [c.out_channels for c in stem if isinstance(c, torch.nn.Conv2d)] == [24, 48, 64, 96, 32]


def test_key_mask_by_hand():
    atts = torch.tensor([[1, 1, 0]])
    assert key_mask(None, "sdpa") is None
    assert key_mask(atts, "sdpa").tolist() == [[[[True, True, False]]]]
    lowest = torch.finfo(torch.float32).min
    assert key_mask(atts, "eager").tolist() == [[[[0.0, 0.0, lowest]]]]


def test_positions_of_the_right_size_stay_as_they_are():
    table = torch.randn(10, 4)
    assert resize_positions(table, 10) is table


def test_positions_keep_class_row_and_constants():
    table = torch.cat([torch.full((1, 4), 7.0), torch.full((9, 4), 2.0)])
    resized = resize_positions(table, 17)
    assert resized.shape == (17, 4)
    assert (resized[0] == 7).all()
    torch.testing.assert_close(resized[1:], torch.full((16, 4), 2.0))


def test_positions_agree_with_clip_s_own_interpolation():
    tower = vision_tower(XVLMConfig(image_size=48, vision_width=24, text_width=24), "sdpa")
    table = tower.embeddings.position_embedding.weight.detach()
    theirs = tower.embeddings.interpolate_pos_encoding(torch.zeros(1, 26, 24), 80, 80)[0]
    assert torch.equal(resize_positions(table, 26), theirs)


def test_positions_that_are_no_square_are_left_to_the_shape_check():
    table = torch.randn(8, 4)
    assert resize_positions(table, 10) is table
