"""A BLIP grown from an XVLM: what it inherits, and what it refuses."""

import dataclasses

import pytest
import torch

from vlp_bench.models.blip.grow import blip_from_xvlm
from vlp_bench.models.blip.model import BLIP
from vlp_bench.models.blip.towers import BLIPConfig
from vlp_bench.models.xvlm.model import XVLM
from vlp_bench.models.xvlm.towers import XVLMConfig

SIZES = {"image_size": 16, "patch_size": 8, "stem": "conv", "vision_width": 32, "text_width": 32, "embed_dim": 8}
SIZES |= {"vision_layers": 2, "vision_heads": 4, "text_layers": 3, "text_heads": 4, "max_positions": 12, "dropout": 0.0}


@pytest.fixture
def source() -> XVLM:
    torch.manual_seed(0)
    return XVLM(XVLMConfig(**SIZES, vocab_size=20, fusion_layers=2, local_attn_depth=1)).eval()


def _blip(**changes) -> BLIP:
    torch.manual_seed(1)
    return BLIP(
        BLIPConfig(**(SIZES | {"vocab_size": 22, "dec_id": 20, "enc_id": 21, "queue_size": 8} | changes))
    ).eval()


def test_what_both_have_is_taken_over(source):
    blip = blip_from_xvlm(_blip(), source, 2)
    images = torch.randn(3, 3, 16, 16)
    assert torch.allclose(blip.vision_model.embeddings(images), source._patches(images), atol=1e-6)
    first = blip.vision_model.encoder.layers[0].self_attn
    theirs = source.vision_encoder.encoder.layers[0].self_attn
    assert torch.equal(first.qkv.weight[32:64], theirs.k_proj.weight)
    ids = torch.randint(5, 20, (3, 6))
    assert torch.allclose(
        blip.text_encoder.embeddings(ids), source.text_encoder.bert.embeddings(input_ids=ids), atol=1e-6
    )
    plain = source.text_encoder.bert.encoder.layer[0]
    x = torch.randn(3, 6, 32)
    assert torch.allclose(blip.text_encoder.encoder.layer[0](x, None), plain(x, None), atol=1e-6)
    words = blip.text_encoder.embeddings.word_embeddings.weight
    assert torch.equal(words[20], words[2])
    assert torch.equal(words[21], words[2])
    assert blip.text_decoder is not None
    assert torch.equal(
        blip.text_decoder.bert.encoder.layer[2].attention.self.query.weight,
        source.text_encoder.bert.encoder.layer[2].attention.self.query.weight,
    )
    fused = source.text_encoder.bert.encoder.layer[2].crossattention.self.key.weight
    assert torch.equal(blip.text_encoder.encoder.layer[2].crossattention.self.key.weight, fused)
    copied, own = blip.get_submodule("text_encoder_m").state_dict(), blip.text_encoder.state_dict()
    assert all(torch.equal(copied[name], own[name]) for name in own)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vision_layers": 3}, "vision_layers=3 cannot start from an XVLM with vision_layers=2"),
        ({"vocab_size": 30}, "has 22 words, got vocab_size=30"),
    ],
)
def test_other_sizes_are_refused(source, changes, message):
    with pytest.raises(ValueError, match=message):
        blip_from_xvlm(_blip(**changes), source, 2)


def test_the_stem_is_checked_and_kept_in_the_configuration():
    with pytest.raises(ValueError, match="stem must be one of patch, conv"):
        BLIPConfig(stem="linear")
    with pytest.raises(ValueError, match="patch_size must be 8 with stem=conv"):
        BLIPConfig(stem="conv")
    assert dataclasses.asdict(_blip().config)["stem"] == "conv"
