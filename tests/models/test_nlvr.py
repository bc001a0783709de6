"""NLVR2's model: where two images are one, it is BLIP; what it inherits; what it tells apart."""

from dataclasses import replace

import pytest
import torch

from tests.models.tiny.blip import CONFIG, batches, model
from vlp_bench.models.blip import BLIP
from vlp_bench.models.blip_towers import BLIPConfig
from vlp_bench.models.inherit import inherited
from vlp_bench.models.nlvr import BLIPNLVR


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
    made = BLIPNLVR(replace(CONFIG, text_layers=4))
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
        made, blip = BLIPNLVR(BLIPConfig()), BLIP(BLIPConfig(queue_size=8))
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
