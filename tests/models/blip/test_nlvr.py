"""NLVR2's model: where two images are one, it is BLIP; what it inherits; what it tells apart."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from tests.models.checkpoints.test_blip_files import NAMES
from tests.models.tiny.blip import CONFIG, batches, model
from vlp_bench.models.blip.model import BLIP
from vlp_bench.models.blip.nlvr import BLIPNLVR, NLVRConfig
from vlp_bench.models.blip.towers import BLIPConfig
from vlp_bench.models.checkpoints.identify import identify
from vlp_bench.models.checkpoints.inherit import inherited
from vlp_bench.models.checkpoints.read_write import CheckpointError, build, load_model, save_model


@pytest.fixture
def blip() -> BLIP:
    torch.manual_seed(0)
    made = model().eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(4 if parameter.ndim == 2 else 1)
    return made


def halved(made: BLIPNLVR) -> BLIPNLVR:
    """With merging layers that take the mean."""
    width = made.config.text_width
    with torch.no_grad():
        for layer in made.text_encoder.encoder.layer:
            merge = layer.crossattention.output.merge_layer
            if merge is not None:
                merge.weight.copy_(torch.cat([torch.eye(width), torch.eye(width)], dim=1) / 2)
    return made


def test_the_same_image_twice_is_blip(blip: BLIP) -> None:
    """Averages of equals and merging layers that average change nothing: the first state is that of the encoder."""
    made, batch = halved(BLIPNLVR.of(blip)), batches()[0]
    expected = made.cls_head(blip.fuse(batch.text_ids, batch.text_atts, blip.encode_image(batch.images))[:, 0])
    found = made.judge(batch.images.repeat_interleave(2, dim=0), batch.text_ids, batch.text_atts)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert expected.std(0).max() > 1e-5


def test_both_images_are_seen_and_told_apart(blip: BLIP) -> None:
    made, batch = BLIPNLVR.of(blip), batches()[0]
    with torch.no_grad():  # what starts anew is small
        for name, parameter in made.named_parameters():
            if "merge_layer" in name or "cls_head" in name:
                parameter.mul_(8)
    left, right = batch.images, batch.images.flip(0)

    def judged(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return made.judge(torch.stack([first, second], dim=1).flatten(0, 1), batch.text_ids, batch.text_atts)

    there = judged(left, right)
    for other in (judged(left, left), judged(right, right), judged(right, left)):
        assert (other - there).abs().max() > 1e-3


def test_only_the_upper_half_merges() -> None:
    made = BLIPNLVR(NLVRConfig(**asdict(CONFIG) | {"text_layers": 4}))
    merged = [layer.crossattention.output.merge_layer is not None for layer in made.text_encoder.encoder.layer]
    assert merged == [False, False, True, True]


def test_both_cross_attentions_inherit_from_the_one(blip: BLIP) -> None:
    made, allowed = BLIPNLVR.of(blip), set(blip.adapter.prunable(blip))
    fresh = [name for name, source in inherited(made).items() if source not in allowed]
    assert len(fresh) == 2 + 1  # the head's two layers, and one merging layer of two
    assert all("cls_head" in name or "merge_layer" in name for name in fresh)
    for name, source in inherited(made).items():
        if source in allowed:
            assert torch.equal(made.get_parameter(name), blip.get_parameter(source)), name
    cross = "text_encoder.encoder.layer.1.crossattention"
    assert made.pretrained_name(f"{cross}.self1.key.weight") == f"{cross}.self.key.weight"
    assert made.pretrained_name(f"{cross}.output.dense0.bias") == f"{cross}.output.dense.bias"
    assert made.pretrained_name(f"{cross}.output.LayerNorm.bias") == f"{cross}.output.LayerNorm.bias"


def test_prunable_weights_at_the_paper_s_size() -> None:
    """Vision, the encoder, and its cross-attention (query, key, value and output, 768 x 768 in 12 layers) once more."""
    with torch.device("meta"):
        made, blip = BLIPNLVR(NLVRConfig()), BLIP(BLIPConfig(queue_size=8))
    allowed = set(blip.adapter.prunable(blip))
    sizes = [made.get_parameter(name).numel() for name, source in inherited(made).items() if source in allowed]
    assert sum(sizes) == 84_934_656 + 113_246_208 + 12 * 4 * 768**2


def test_padding_and_attention_change_nothing(blip: BLIP) -> None:
    made, batch = BLIPNLVR.of(blip), batches()[0]
    images = torch.cat([batch.images, batch.images.flip(0)]).unflatten(0, (2, 4)).transpose(0, 1).flatten(0, 1)
    whole = made.judge(images, batch.text_ids, batch.text_atts)
    longer = made.judge(
        images, torch.nn.functional.pad(batch.text_ids, (0, 2)), torch.nn.functional.pad(batch.text_atts, (0, 2))
    )
    torch.testing.assert_close(longer, whole, atol=1e-5, rtol=1e-5)
    eager = BLIPNLVR(replace(made.config), attention="eager").eval()
    eager.load_state_dict(made.state_dict())
    torch.testing.assert_close(eager.judge(images, batch.text_ids, batch.text_atts), whole, atol=2e-5, rtol=0)


def test_the_loss_reaches_every_weight(blip: BLIP) -> None:
    made, batch = BLIPNLVR.of(blip), batches()[0]
    batch.images, batch.labels = batch.images.repeat(2, 1, 1, 1), torch.tensor([0, 1, 1, 0])
    made.pair_losses(batch)["pair"].backward()
    assert [name for name, p in made.named_parameters() if p.ndim == 2 and (p.grad is None or not p.grad.any())] == []
    with pytest.raises(ValueError, match="no labels"):
        made.pair_losses(replace(batch, labels=None))


# --- the released, fine-tuned weights ---

TINY = NLVRConfig(**asdict(CONFIG) | {"drop_path": 0.1})


def released_name(name: str) -> str:
    for ours, theirs in NAMES if name.startswith("vision_model") else ():
        name = name.replace(ours, theirs)
    return name


@pytest.fixture
def fine_tuned() -> BLIPNLVR:
    torch.manual_seed(7)
    return BLIPNLVR(TINY).eval()


@pytest.fixture
def file(fine_tuned: BLIPNLVR, tmp_path: Path) -> Path:
    """As the released code saves it, with the counting buffer of its embeddings."""
    state = {released_name(name): tensor for name, tensor in fine_tuned.state_dict().items()}
    state["text_encoder.embeddings.position_ids"] = torch.arange(16)[None]
    torch.save({"model": state, "epoch": 14}, tmp_path / "model_base_nlvr.pth")
    return tmp_path / "model_base_nlvr.pth"


def test_a_released_file_is_read(fine_tuned: BLIPNLVR, file: Path) -> None:
    read, batch = build(file, TINY), batches()[0]
    assert isinstance(read, BLIPNLVR)
    images = batch.images.repeat_interleave(2, dim=0)
    assert torch.equal(*(m.judge(images, batch.text_ids, batch.text_atts) for m in (fine_tuned, read)))
    larger = build(file, replace(TINY, image_size=32))
    assert larger.vision_model.embeddings.position_embedding.shape == (1, 17, 16)


def test_a_released_file_is_recognised(file: Path) -> None:
    found = identify(file, [TINY, CONFIG])
    assert (found.model, found.fits) == ("BLIP, fine-tuned for NLVR2", True)
    with pytest.raises(CheckpointError, match=r"weights of another model.*itm_head.*cls_head"):
        build(file, CONFIG)


def test_a_file_of_ours_comes_back(fine_tuned: BLIPNLVR, tmp_path: Path) -> None:
    read = load_model(save_model(tmp_path / "nlvr.safetensors", fine_tuned))
    assert read.config == TINY
    assert all(torch.equal(*two) for two in zip(fine_tuned.parameters(), read.parameters(), strict=True))


def test_names_of_the_released_code_at_the_paper_s_size() -> None:
    """`nlvr_encoder.py`: two of each in every layer, merged from layer 6 on."""
    with torch.device("meta"):
        names = {released_name(name) for name in BLIPNLVR(NLVRConfig()).state_dict()}
    cross = "text_encoder.encoder.layer.{}.crossattention"
    for layer in range(12):
        for part in ("self0.query", "self1.key", "self0.value", "output.dense0", "output.dense1", "output.LayerNorm"):
            assert {f"{cross.format(layer)}.{part}.{kind}" for kind in ("weight", "bias")} <= names
        assert (f"{cross.format(layer)}.output.merge_layer.weight" in names) == (layer >= 6)
        assert f"visual_encoder.blocks.{layer}.attn.qkv.weight" in names
    assert {"cls_head.0.weight", "cls_head.2.bias", "visual_encoder.pos_embed"} <= names


def test_images_of_another_size_can_be_judged(fine_tuned: BLIPNLVR) -> None:
    fine_tuned.resize_images(24)
    batch = batches()[0]
    images = torch.nn.functional.interpolate(batch.images.repeat_interleave(2, dim=0), 24)
    assert fine_tuned.judge(images, batch.text_ids, batch.text_atts).shape == (len(batch.text_ids), 2)
    assert fine_tuned.config.image_size == 24
