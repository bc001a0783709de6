"""Files in the naming of the released code, typed out from its modules' names, against our models."""

import pytest
import torch

from tests.models.small import SMALL_BLIP, SMALL_XVLM
from vlp_bench.models.blip.model import BLIP
from vlp_bench.models.dino import DINO, DINOConfig
from vlp_bench.models.xvlm.model import XVLM
from vlp_bench.pruning.layers import find_layers
from vlp_bench.pruning.released_masks import read, write
from vlp_bench.pruning.solution import Solution

BERT = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense")
CROSS = tuple("cross" + part for part in BERT)
WIDE, NARROW = "intermediate.dense", "output.dense"
D = 16  # width of the small models


def linear(name, out=D, in_=D):
    return {f"{name}.weight": (out, in_), f"{name}.bias": (out,)}


def bert(prefix, number, parts):
    names = {}
    for part in parts:
        names |= linear(f"{prefix}.{number}.{part}")
    return names


def feed_forward(prefix, wide, narrow):
    return linear(f"{prefix}.{wide}", 4 * D, D) | linear(f"{prefix}.{narrow}", D, 4 * D)


def xvlm_names():
    names = {}
    for i in range(3):
        layer = f"vision_encoder.encoder.layers.{i}"
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            names |= linear(f"{layer}.self_attn.{part}")
        names |= feed_forward(layer, "mlp.fc1", "mlp.fc2")
        text = "text_encoder.bert.encoder.layer"
        names |= bert(text, i, BERT + (CROSS if i > 0 else ())) | feed_forward(f"{text}.{i}", WIDE, NARROW)
    heads = ("vision_proj", "text_proj", "itm_head.0", "itm_head.3", "bbox_head.0", "bbox_head.3")
    for head in (*heads, "text_encoder.cls.predictions.transform.dense", "text_encoder.cls.predictions.decoder"):
        names |= linear(head, 8, D)
    return names


def blip_names():
    names = {}
    for i in range(2):
        for tower in ("visual_encoder", "visual_encoder_m"):
            block = f"{tower}.blocks.{i}"
            names |= linear(f"{block}.attn.qkv", 3 * D, D) | linear(f"{block}.attn.proj")
            names |= feed_forward(block, "mlp.fc1", "mlp.fc2")
        for tower in ("text_encoder.encoder.layer", "text_encoder_m.encoder.layer"):
            names |= bert(tower, i, BERT + CROSS) | feed_forward(f"{tower}.{i}", WIDE, NARROW)
        names |= bert("text_decoder.bert.encoder.layer", i, BERT)
    for head in ("vision_proj", "vision_proj_m", "text_proj", "itm_head", "text_decoder.cls.predictions.decoder"):
        names |= linear(head, 8, D)
    return names


def dino_names():
    names = {}
    for i in range(2):
        layer = f"vit.encoder.layer.{i}"
        for part in ("attention.query", "attention.key", "attention.value", "output.dense"):
            names |= linear(f"{layer}.attention.{part}")
        names |= feed_forward(layer, WIDE, NARROW)
    return names | linear("classifier", 10, D)


def small_dino():
    return DINO(DINOConfig(image_size=16, patch_size=8, vision_width=D, vision_layers=2, vision_heads=2, classes=10))


def released(names, dtype=torch.bool, seed=0):
    draw = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in names.items():
        dense = name.endswith(".bias") or ("layer" not in name and "blocks" not in name) or "_m." in name
        mask = torch.ones(shape) if dense else torch.rand(shape, generator=draw) < 0.3
        state[f"{name}_pruning_mask"] = mask.to(dtype)
    return state


MODELS = {
    "xvlm": (xvlm_names, lambda: XVLM(SMALL_XVLM)),
    "blip": (blip_names, lambda: BLIP(SMALL_BLIP)),
    "dino": (dino_names, small_dino),
}


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32])
@pytest.mark.parametrize("kind", MODELS)
def test_every_layer_of_our_model_gets_its_mask(kind, dtype, tmp_path):
    names, build = MODELS[kind]
    state, model = released(names(), dtype), build()
    torch.save(state, tmp_path / "masks.pth")
    solution = read(tmp_path / "masks.pth", model)
    layers = find_layers(model)
    assert set(solution.masks) == set(layers)
    assert solution.kept == sum(int(m.sum()) for n, m in state.items() if (m == 0).any())
    for name, layer in layers.items():
        assert solution.report["layers"][name]["modality"] == layer.place.modality
        assert solution.report["layers"][name]["block"] == layer.place.block
    solution.install(model)
    assert read(tmp_path / "masks.pth").report == solution.report
    Solution.load(solution.save(tmp_path / "ours.safetensors")).install(build())


def test_names_by_hand(tmp_path):
    pairs = {
        "xvlm": ("vision_encoder.encoder.layers.1.mlp.fc1", "vision_encoder.encoder.layers.1.mlp.fc1"),
        "blip": ("visual_encoder.blocks.1.attn.proj", "vision_model.encoder.layers.1.self_attn.projection"),
        "dino": ("vit.encoder.layer.1.attention.output.dense", "vision_model.encoder.layers.1.self_attn.projection"),
    }
    for kind, (theirs, ours) in pairs.items():
        state = released(MODELS[kind][0]())
        torch.save(state, tmp_path / kind)
        assert read(tmp_path / kind).masks[f"{ours}.weight"].equal(state[f"{theirs}.weight_pruning_mask"])


@pytest.mark.parametrize("kind", MODELS)
def test_back_to_the_released_names(kind, tmp_path):
    state = released(MODELS[kind][0]())
    torch.save(state, tmp_path / "theirs.pth")
    solution = read(tmp_path / "theirs.pth")
    back = torch.load(write(tmp_path / "back.pth", solution), weights_only=True)
    assert set(back) < set(state)
    assert all(mask.equal(state[name]) for name, mask in back.items())
    again = read(tmp_path / "back.pth")
    assert all(mask.equal(solution.masks[name]) for name, mask in again.masks.items())


def test_other_models_have_no_released_names(tmp_path):
    with pytest.raises(ValueError, match=r"'0.weight' and others have no released names"):
        write(tmp_path / "x.pth", Solution({"0.weight": torch.ones(2, 2, dtype=torch.bool)}))


VISION = "visual_encoder.blocks.0.attn.proj"
DECODER = "text_decoder.bert.encoder.layer.0.intermediate.dense.weight_pruning_mask"
ENCODER = "text_encoder.encoder.layer.0.intermediate.dense.weight_pruning_mask"


def without(state, part):
    return {name: mask for name, mask in state.items() if part not in name}


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda s: s | {"epoch": torch.ones(1)}, "'epoch' is no mask of a weight or a bias"),
        (lambda s: s | {f"{VISION}.gain_pruning_mask": torch.ones(1)}, "is no mask of a weight or a bias"),
        (lambda s: s | {f"{VISION}.bias_pruning_mask": torch.zeros(D)}, "removes something that is never pruned"),
        (lambda s: s | {"itm_head.weight_pruning_mask": torch.zeros(2, D)}, "removes something that is never pruned"),
        (lambda s: s | {f"{VISION}.weight_pruning_mask": torch.full((D, D), 0.5)}, "no matrix of zeros and ones"),
        (lambda s: s | {f"{VISION}.weight_pruning_mask": torch.ones(D)}, "no matrix of zeros and ones"),
        (lambda s: s | {"new.layer.weight_pruning_mask": torch.ones(D, D)}, "'new.layer.weight' is none of"),
        (lambda s: without(s, f"{VISION}.weight"), "it lacks vision_model.encoder.layers.0.self_attn.projection"),
        (lambda s: without(s, "visual_encoder.blocks.0."), "it lacks vision_model.encoder.layers.0"),
        (lambda s: s | {DECODER: ~s[ENCODER]}, "is not the encoder's, with which it shares the weight"),
        (lambda s: s | {"vit.encoder.layer.0.output.dense.weight_pruning_mask": torch.ones(1)}, "or of several"),
        (lambda s: {"a.weight_pruning_mask": torch.ones(2, 2)}, "of none of XVLM, BLIP, DINO"),
        (lambda s: [1, 2], "no dictionary of tensors"),
    ],
)  # fmt: skip
def test_what_cannot_be_accounted_for_is_refused(change, message, tmp_path):
    torch.save(change(released(blip_names())), tmp_path / "m.pth")
    with pytest.raises(ValueError, match=rf"m.pth: .*{message}.*give a mask file of the released"):
        read(tmp_path / "m.pth")


def test_a_shared_mask_may_be_listed_twice(tmp_path):
    state = released(blip_names())
    torch.save(state | {DECODER: state[ENCODER]}, tmp_path / "m.pth")
    assert len(read(tmp_path / "m.pth", BLIP(SMALL_BLIP)).masks) == 2 * (4 + 10 + 4)


def test_another_size_of_the_model_is_refused(tmp_path):
    torch.save(without(released(dino_names()), "layer.1."), tmp_path / "m.pth")
    with pytest.raises(ValueError, match=r"layers.1.mlp.fc1.weight' has shape None, the model's layer \(64, 16\)"):
        read(tmp_path / "m.pth", small_dino())


def test_garbage_and_code_are_refused(tmp_path):
    path = tmp_path / "m.pth"
    path.write_bytes(b"no masks at all")
    with pytest.raises(ValueError, match="truncated, or no file of plain tensors"):
        read(path)
    torch.save({"a": Solution({})}, path)
    with pytest.raises(ValueError, match="no file of plain tensors"):
        read(path)
    torch.save(released(dino_names()), path)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ValueError, match="truncated"):
        read(path)
    with pytest.raises(FileNotFoundError, match="no mask file"):
        read(tmp_path / "missing.pth")
