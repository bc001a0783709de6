"""XVLM against numbers recorded from the released code on a tiny model: width 48, random weights, float32.

`data/xvlm_tiny.npz`: `sd/` weights in the released naming, `inp/` inputs, `out/` outputs and losses, `grads/` the
gradient of ITC + ITM + MLM.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from vlp_bench.batch import Batch
from vlp_bench.models.checkpoints.read_write import load_weights, official_key_map
from vlp_bench.models.losses import box_losses
from vlp_bench.models.xvlm.model import XVLM, XVLMConfig

TINY = XVLMConfig(
    image_size=64,
    patch_size=16,
    vision_width=48,
    vision_layers=4,
    vision_heads=4,
    local_attn_depth=2,
    text_width=48,
    text_layers=4,
    fusion_layers=2,
    text_heads=4,
    vocab_size=130,
    embed_dim=32,
    mlp_ratio=2,
    max_positions=64,
)


@pytest.fixture(scope="module")
def recorded():
    with np.load(Path(__file__).parent / "data" / "xvlm_tiny.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


@pytest.fixture(scope="module")
def released_file(recorded, tmp_path_factory):
    """The recorded weights as the released code saves them."""
    path = tmp_path_factory.mktemp("released") / "4m-xvlm-vit-bert.pth"
    torch.save({"model": {name[3:]: tensor for name, tensor in recorded.items() if name.startswith("sd/")}}, path)
    return path


@pytest.fixture(scope="module", params=["eager", "sdpa"])
def model(request, released_file):
    return load_weights(XVLM(TINY, attention=request.param), released_file).eval()


@pytest.fixture(scope="module")
def general(recorded):
    given = {name[4:]: tensor for name, tensor in recorded.items() if name.startswith("inp/")}
    return Batch(given["img"], given["ids"], given["att"], given["idm"], given["mpos"], given["mid"])


@pytest.fixture(scope="module")
def region(recorded, general):
    given = {name[4:]: tensor for name, tensor in recorded.items() if name.startswith("inp/")}
    return Batch(
        general.images[:4],
        *(general.text_ids, general.text_atts, general.text_ids_masked, general.masked_pos, general.masked_ids),
        idx_to_group_img=given["grp"],
        image_atts=given["ratts"],
        target_bbox=given["box"],
        is_image=given["isimg"],
    )


def close(ours, theirs):
    torch.testing.assert_close(ours.detach(), theirs, atol=1e-5, rtol=0)


def losses_of(values):
    return torch.stack(list(values.values()))


def test_towers_and_fusion_of_a_padded_batch(model, general, recorded):
    vision = model.encode_image(general.images)
    text = model.encode_text(general.text_ids, general.text_atts)
    close(vision, recorded["out/vision"])
    close(text, recorded["out/text"])
    close(model.fuse(text, general.text_atts, vision), recorded["out/cross"])
    close(model.fuse(text, general.text_atts, vision), recorded["out/cross_mm"])
    close(model.project_image(vision), recorded["out/feat_i"])
    close(model.project_text(text), recorded["out/feat_t"])


@pytest.mark.parametrize("row", range(6))
def test_a_caption_without_its_padding_gives_the_recorded_numbers_too(model, general, recorded, row):
    """Unpadded batches pass no mask, where SDPA would turn to causal attention if a layer still asked for it."""
    length = int(general.text_atts[row].sum())
    text = model.encode_text(general.text_ids[[row], :length], None)
    close(text, recorded["out/text"][[row], :length])
    fused = model.fuse(text, None, recorded["out/vision"][[row]])
    close(fused, recorded["out/cross"][[row], :length])


def test_regions(model, region, recorded):
    regions, whole = model.encode_regions(region.images, region.idx_to_group_img, region.image_atts)
    close(regions, recorded["out/region"])
    close(whole, recorded["out/region_full"])
    text = model.encode_text(region.text_ids, region.text_atts)
    close(model.fuse(text, region.text_atts, regions, region.image_atts), recorded["out/region_cross"])


def test_box_head_and_losses(model, general, recorded):
    text = model.encode_text(general.text_ids, general.text_atts)
    coord = model.predict_box(text, general.text_atts, recorded["out/region_full"])
    close(coord, recorded["out/coord"])
    losses = box_losses(coord, recorded["inp/box"], recorded["inp/isimg"])
    close(losses["bbox"], recorded["out/bbox"])
    close(losses["giou"], recorded["out/giou"])


@pytest.mark.parametrize("identities, seed", [(False, 11), (True, 12)])
def test_retrieval_losses(model, general, recorded, identities, seed):
    batch = Batch(general.images, general.text_ids, general.text_atts, idx=recorded["inp/idx"] if identities else None)
    torch.manual_seed(seed)
    losses = model.retrieval_losses(batch)
    name = "_idx" if identities else ""
    close(losses["itc"], recorded[f"out/itc{name}"])
    close(losses["itm"], recorded[f"out/itm{name}"])


def test_retrieval_negatives_come_from_the_generator_given(model, general, recorded):
    losses = model.retrieval_losses(general, torch.Generator().manual_seed(11))
    close(losses["itm"], recorded["out/itm"])


def test_region_losses(model, region, recorded):
    torch.manual_seed(13)
    close(losses_of(model.pretraining_losses(region)), recorded["out/region_losses"])


def test_pretraining_losses_and_every_gradient(model, general, recorded):
    torch.manual_seed(14)
    losses = losses_of(model.pretraining_losses(general))
    close(losses, recorded["out/losses"])
    close(losses[2], recorded["out/mlm"])
    model.zero_grad()
    losses.sum().backward()
    theirs = official_key_map({name[6:]: grad for name, grad in recorded.items() if name.startswith("grads/")})
    ours = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert ours.keys() == theirs.keys()
    for name, grad in theirs.items():
        close(ours[name], grad)


def test_adapter_loss_is_the_sum_the_released_pruners_differentiate(model, region, recorded):
    torch.manual_seed(13)
    close(model.adapter.loss(model, region), recorded["out/region_losses"][:3].sum())
