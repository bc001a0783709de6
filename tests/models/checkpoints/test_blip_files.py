"""BLIP's weight files: ours come back with queue and sharing, released ones are read strictly."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from safetensors.torch import load_file

from tests.models.small import SMALL_BLIP
from vlp_bench.models.blip.model import BLIP
from vlp_bench.models.blip.towers import BLIPConfig
from vlp_bench.models.checkpoints.read_write import build, load_model, load_weights, read_config, save_model
from vlp_bench.models.released_names import blip_key_map, blip_name
from vlp_bench.models.xvlm.model import XVLM

NAMES = (
    (".encoder.layers.", ".blocks."),
    (".self_attn.qkv.", ".attn.qkv."),
    (".self_attn.projection.", ".attn.proj."),
    (".layer_norm", ".norm"),
    (".post_layernorm.", ".norm."),
    (".embeddings.patch_embedding.", ".patch_embed.proj."),
    (".embeddings.position_embedding", ".pos_embed"),
    (".embeddings.class_embedding", ".cls_token"),
    ("vision_model", "visual_encoder"),
)


@pytest.fixture
def blip():
    torch.manual_seed(4)
    model = BLIP(SMALL_BLIP).eval()
    model.queue_ptr.fill_(8)
    return model


def tensors(model):
    return {name: t.detach().clone() for name, t in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def released(model):
    """The model's weights as the released pre-training code saves them."""
    state = {}
    for name, tensor in tensors(model).items():
        if name.startswith("vision_model"):
            for ours, theirs in NAMES:
                name = name.replace(ours, theirs)
        state[name] = tensor
    del state["idx_queue"], state["text_decoder.cls.predictions.bias"]
    state["text_encoder.embeddings.position_ids"] = torch.arange(12)[None]
    return state


@pytest.fixture
def file(blip, tmp_path):
    path = tmp_path / "model_base_14M.pth"
    torch.save({"model": released(blip)}, path)
    return path


def test_what_is_saved_comes_back(blip, tmp_path):
    path = save_model(tmp_path / "blip.safetensors", blip, {"seed": 3})
    loaded = load_model(path)
    assert same(tensors(loaded), tensors(blip))
    assert read_config(path) == SMALL_BLIP
    encoder, decoder = loaded.text_encoder, loaded.text_decoder
    assert decoder.cls.predictions.decoder.weight is encoder.embeddings.word_embeddings.weight


def test_shared_weights_are_stored_once_and_momentum_copies_too(blip, tmp_path):
    stored = load_file(save_model(tmp_path / "blip.safetensors", blip))
    assert not any(n.startswith("text_decoder.bert.") and ".attention." not in n for n in stored)
    assert {
        "image_queue",
        "text_queue",
        "idx_queue",
        "queue_ptr",
        "vision_model_m.post_layernorm.bias",
    } <= stored.keys()
    assert stored["queue_ptr"].tolist() == [8]


def test_half_precision_storage_keeps_whole_numbers(blip, tmp_path):
    blip.idx_queue[0, 0] = 123_457
    path = save_model(tmp_path / "blip.safetensors", blip, dtype=torch.float16)
    assert load_model(path).idx_queue[0, 0] == 123_457


def test_a_released_file_is_read_strictly(blip, file):
    assert same(tensors(build(file, SMALL_BLIP)), tensors(blip))


def test_a_retrieval_file_has_no_decoder(blip, file):
    state = {n: t for n, t in released(blip).items() if not n.startswith("text_decoder")}
    state["ptr_queue"] = state.pop("queue_ptr")
    torch.save({"model": state | {"idx_queue": torch.arange(12)[None]}}, file)
    loaded = build(file, replace(SMALL_BLIP, decoder=False))
    assert loaded.idx_queue.tolist() == [list(range(12))]
    assert loaded.queue_ptr.tolist() == [8]
    with pytest.raises(ValueError, match=r"missing text_decoder\.\S+"):
        build(file, SMALL_BLIP)


def test_positions_of_both_vision_models_are_resized(blip, file):
    loaded = build(file, replace(SMALL_BLIP, image_size=40))
    blip.resize_images(40)
    assert same(tensors(loaded), tensors(blip))


@pytest.mark.parametrize(
    "name, reason",
    [
        ("text_decoder.bert.encoder.layer.1.crossattention.self.key.weight", "is not the encoder's"),
        ("text_decoder.bert.embeddings.LayerNorm.bias", "is not the encoder's"),
        ("text_decoder.cls.predictions.decoder.weight", "not the word embeddings"),
    ],
)
def test_a_decoder_that_shares_less_is_refused(blip, file, name, reason):
    state = released(blip)
    torch.save({"model": state | {name: state[name] + 1}}, file)
    with pytest.raises(ValueError, match=reason) as error:
        build(file, SMALL_BLIP)
    assert str(file) in str(error.value)


def test_files_of_the_other_model_are_refused(blip, model, tmp_path):
    theirs = save_model(tmp_path / "xvlm.safetensors", model)
    ours = save_model(tmp_path / "blip.safetensors", blip)
    with pytest.raises(ValueError, match="weights of another model"):
        load_weights(blip, theirs)
    with pytest.raises(ValueError, match="weights of another model"):
        load_weights(model, ours)
    assert isinstance(load_model(theirs), XVLM)
    assert isinstance(load_model(ours), BLIP)


def test_names_by_hand():
    assert (
        blip_name("visual_encoder_m.blocks.11.attn.qkv.weight")
        == "vision_model_m.encoder.layers.11.self_attn.qkv.weight"
    )
    assert blip_name("visual_encoder.blocks.0.norm2.bias") == "vision_model.encoder.layers.0.layer_norm2.bias"
    assert blip_name("visual_encoder.norm.bias") == "vision_model.post_layernorm.bias"
    assert (
        blip_name("text_encoder_m.encoder.layer.0.output.dense.bias")
        == "text_encoder_m.encoder.layer.0.output.dense.bias"
    )


def test_every_released_name_is_mapped(blip):
    assert blip_key_map(released(blip)).keys() == dict(blip.named_parameters()).keys() | {
        "image_queue", "text_queue", "idx_queue", "queue_ptr",
    }  # fmt: skip


def test_the_paper_s_configuration_is_the_default_one():
    path = Path(__file__).parents[3] / "conf" / "model" / "blip_paper.yaml"
    assert instantiate(OmegaConf.load(path).config) == BLIPConfig()
