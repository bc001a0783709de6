"""DINO: the released file, counts, the classifier, and transformers' ViT as reference."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import ViTConfig, ViTForImageClassification

from vlp_bench.batch import Batch, Place
from vlp_bench.models.checkpoints.read_write import build, load_model, read_config, save_model
from vlp_bench.models.dino import DINO, DINOConfig
from vlp_bench.models.released_names import dino_name

SMALL = DINOConfig(image_size=24, patch_size=8, vision_width=16, vision_layers=2, vision_heads=2, classes=5)
RELEASED = (
    ("vision_model.", ""),
    ("encoder.layers.", "blocks."),
    (".self_attn.projection.", ".attn.proj."),
    (".layer_norm", ".norm"),
    ("post_layernorm.", "norm."),
    ("embeddings.patch_embedding.", "patch_embed.proj."),
    ("embeddings.position_embedding", "pos_embed"),
    ("embeddings.class_embedding", "cls_token"),
)


@pytest.fixture
def dino():
    torch.manual_seed(3)
    model = DINO(SMALL).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(5 if parameter.ndim == 2 else 1)
            parameter.add_(torch.randn(parameter.shape) * (0.1 if parameter.ndim == 1 else 0))
    return model


def released(model):
    """The backbone's weights as DINO's own code saves them: query, key and value fused, no classifier."""
    state = {}
    for name, tensor in model.state_dict().items():
        if name.startswith("classifier."):
            continue
        for ours, theirs in RELEASED:
            name = name.replace(ours, theirs)
        state[name] = tensor.clone()
    for name in [n for n in state if ".q_proj." in n]:
        parts = [state.pop(name.replace(".q_proj.", f".{letter}_proj.")) for letter in "qkv"]
        state[name.replace(".self_attn.q_proj.", ".attn.qkv.")] = torch.cat(parts)
    return state


def backbone(model):
    return {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("classifier.")}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("prefix", ["", "module.backbone."])
def test_the_released_file_is_read_strictly(dino, tmp_path, prefix):
    path = tmp_path / "dino_vitbase16_pretrain.pth"
    heads = {"head.mlp.0.weight": torch.ones(2)} if prefix else {}
    torch.save({prefix + name: tensor for name, tensor in released(dino).items()} | heads, path)
    loaded = build(path, SMALL)
    assert same(backbone(loaded), backbone(dino))
    assert torch.equal(loaded.classifier.weight, DINO(SMALL).classifier.weight)
    state = released(dino)
    del state["blocks.1.attn.qkv.bias"]
    torch.save(state, path)
    with pytest.raises(ValueError, match=r"missing vision_model\.encoder\.layers\.1\.self_attn\.k_proj\.bias"):
        build(path, SMALL)


def test_a_whole_training_checkpoint_gives_its_teacher(dino, tmp_path):
    path = tmp_path / "full.pth"
    teacher = {f"backbone.{name}": tensor for name, tensor in released(dino).items()}
    torch.save({"student": {name: -tensor for name, tensor in teacher.items()}, "teacher": teacher}, path)
    assert same(backbone(build(path, SMALL)), backbone(dino))


def test_positions_are_resized(dino, tmp_path):
    path = tmp_path / "dino.pth"
    torch.save(released(dino), path)
    larger = build(path, replace(SMALL, image_size=40))
    dino.resize_images(40)
    assert same(backbone(larger), backbone(dino))
    assert dino.classify(torch.zeros(2, 3, 40, 40)).shape == (2, 5)


def hub_model(eps=1e-6, inner=64):
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=inner, image_size=24,
        patch_size=8, num_labels=5, layer_norm_eps=eps, hidden_act="gelu",
    )  # fmt: skip
    return ViTForImageClassification(config).eval()


def test_logits_are_those_of_transformers_vit(tmp_path):
    """The same weights in transformers 5's names, and a folder as the hub has it, whose names are transformers 4's."""
    theirs, images = hub_model(), torch.randn(3, 3, 24, 24)
    theirs.save_pretrained(tmp_path / "hub")
    save_file(theirs.state_dict(), tmp_path / "now.safetensors")
    with torch.no_grad():
        wanted = theirs(images).logits
        for place in (tmp_path / "hub", tmp_path / "now.safetensors"):
            for attention in ("sdpa", "eager"):
                found = build(place, SMALL, attention).classify(images)
                torch.testing.assert_close(found, wanted, rtol=0, atol=2e-6)


@pytest.mark.parametrize("eps, inner", [(1e-12, 64), (1e-2, 40)])
def test_another_epsilon_and_inner_width_are_those_of_transformers(tmp_path, eps, inner):
    theirs, images = hub_model(eps, inner), 0.01 * torch.randn(3, 3, 24, 24)
    theirs.save_pretrained(tmp_path / "hub")
    config = replace(SMALL, vision_eps=eps, mlp_ratio=inner / 16)
    ours = build(tmp_path / "hub", config)
    with torch.no_grad():
        torch.testing.assert_close(ours.classify(images), theirs(images).logits, rtol=0, atol=2e-6)
        if eps == 1e-2:
            usual = build(tmp_path / "hub", replace(config, vision_eps=1e-6)).classify(images)
            assert not torch.allclose(usual, theirs(images).logits, atol=1e-3)
    assert ours.vision_model.encoder.layers[0].mlp.fc1.weight.shape == (inner, 16)
    again = load_model(save_model(tmp_path / "ours.safetensors", ours))
    assert again.config == config
    assert torch.equal(again.classify(images), ours.classify(images))


def test_a_file_from_before_the_epsilon_could_be_chosen_has_todays_default(dino, tmp_path):
    path = save_model(tmp_path / "ours.safetensors", dino)
    with safe_open(path, "pt") as file:
        content = json.loads(file.metadata()["vlp_bench.dino.1"])
    del content["config"]["vision_eps"]
    save_file(load_file(path), path, metadata={"vlp_bench.dino.1": json.dumps(content)})
    assert read_config(path).vision_eps == 1e-6


def test_names_by_hand():
    layer = "vision_model.encoder.layers.11"
    assert dino_name("vit.encoder.layer.11.attention.attention.query.bias") == f"{layer}.self_attn.q_proj.bias"
    assert dino_name("encoder.layer.11.attention.output.dense.weight") == f"{layer}.self_attn.projection.weight"
    assert dino_name("vit.encoder.layer.11.output.dense.weight") == f"{layer}.mlp.fc2.weight"
    assert dino_name("vit.encoder.layer.11.intermediate.dense.weight") == f"{layer}.mlp.fc1.weight"
    assert dino_name("vit.layers.11.layernorm_after.weight") == f"{layer}.layer_norm2.weight"
    assert dino_name("classifier.bias") == "classifier.bias"


def test_what_is_saved_comes_back(dino, tmp_path):
    path = save_model(tmp_path / "dino.safetensors", dino, {"seed": 3})
    assert same(load_model(path).state_dict(), dino.state_dict())
    assert read_config(path) == SMALL


def test_the_papers_counts():
    with torch.device("meta"):
        model = DINO(DINOConfig())
    names = model.adapter.prunable(model)
    assert len(names) == 72
    assert sum(model.get_parameter(name).numel() for name in names) == 84_934_656
    assert sum(parameter.numel() for parameter in model.parameters()) == 86_567_656
    assert model.adapter.place(names[-1]) == Place("vision", "vision_model.encoder.layers.11")


def test_a_new_classifier_depends_on_its_seed_alone(dino):
    torch.manual_seed(9)
    dino.new_classifier(7, seed=1)
    first = dino.classifier.weight.clone()
    dino.new_classifier(7, seed=2)
    assert not torch.equal(dino.classifier.weight, first)
    dino.new_classifier(7, seed=1)
    assert torch.equal(dino.classifier.weight, first)
    assert dino.config.classes == 7
    assert dino.classify(torch.zeros(1, 3, 24, 24)).tolist()[0] != [0.0] * 7


def test_an_untrained_classifier_knows_nothing():
    """Cross entropy of five equal chances: features of length 4 meet weights of 0.02."""
    loss = DINO(SMALL).eval().classification_losses(Batch(torch.randn(8, 3, 24, 24), labels=torch.arange(8) % 5))["ce"]
    assert loss.item() == pytest.approx(1.609, abs=0.1)
    with pytest.raises(ValueError, match="no labels"):
        DINO(SMALL).classification_losses(Batch(torch.zeros(1, 3, 24, 24)))


@pytest.mark.parametrize("field, value", [("classes", 0), ("image_size", 25), ("vision_heads", 3), ("stem", "conv2")])
def test_sizes_that_cannot_be_built(field, value):
    with pytest.raises(
        ValueError, match=f"DINO config: {'vision_width' if field == 'vision_heads' else field} must be"
    ):
        replace(SMALL, **{field: value})


def test_the_papers_yaml_is_the_default():
    path = Path(__file__).parents[2] / "conf" / "model" / "dino_paper.yaml"
    assert instantiate(OmegaConf.load(path).config) == DINOConfig()
