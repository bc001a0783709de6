"""What the model promises: laws of its forward modes, its losses, and its answers to the pruning adapter."""

import copy
from dataclasses import fields, replace

import pytest
import torch

from vlp_bench.batch import Batch, Place
from vlp_bench.models.xvlm.model import XVLM, XVLMAdapter


def close(a, b, atol=1e-5):
    torch.testing.assert_close(a, b, atol=atol, rtol=1e-5)


# --- forward modes ---


def test_shapes_of_the_forward_modes(model, general):
    images, texts = model.encode_image(general.images), model.encode_text(general.text_ids, general.text_atts)
    assert images.shape == (4, 10, 16)
    assert texts.shape == (4, 6, 16)
    assert model.fuse(texts, general.text_atts, images).shape == (4, 6, 16)
    assert model.match(texts, general.text_atts, images).shape == (4,)
    assert model.predict_words(general).shape == (4, 2, 20)


def test_projections_have_length_one(model, general):
    images, texts = model.encode_image(general.images), model.encode_text(general.text_ids, general.text_atts)
    for features in (model.project_image(images), model.project_text(texts)):
        assert features.shape == (4, 8)
        close(features.norm(dim=1), torch.ones(4))


def test_a_region_of_all_patches_is_the_whole_image(model, general):
    everything = torch.ones(4, 10)
    regions, whole = model.encode_regions(general.images, torch.arange(4), everything)
    plain = model.encode_image(general.images)
    close(regions, plain)
    close(whole, plain)


def test_the_whole_branch_does_not_see_the_region_mask(model, region):
    whole = model.encode_regions(region.images, region.idx_to_group_img, region.image_atts)[1]
    close(whole, model.encode_image(region.images)[region.idx_to_group_img])


def test_regions_may_come_in_any_order(model, region):
    order = torch.tensor([2, 0, 3, 1])
    plain = model.encode_regions(region.images, region.idx_to_group_img, region.image_atts)[0]
    shuffled = model.encode_regions(region.images, region.idx_to_group_img[order], region.image_atts[order])[0]
    close(shuffled, plain[order])


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_region_does_not_see_patches_outside_it(config, attention):
    """With the mask in every layer and one convolution per patch nothing outside can reach the region's [CLS]."""
    torch.manual_seed(0)
    model = XVLM(replace(config, local_attn_depth=3, stem="patch"), attention=attention).eval()
    images, atts = torch.randn(1, 3, 24, 24), torch.tensor([[1.0, 1, 0, 0, 0, 0, 0, 0, 0, 0]])
    changed = images.clone()
    changed[:, :, 8:, :] += 1
    before = model.encode_regions(images, torch.tensor([0]), atts)[0][:, :2]
    close(model.encode_regions(changed, torch.tensor([0]), atts)[0][:, :2], before)
    changed[:, :, :8, :8] += 1
    after = model.encode_regions(changed, torch.tensor([0]), atts)[0][:, :2]
    assert (after - before).abs().max() > 1e-3


def test_padding_changes_nothing(model, general):
    garbage = torch.where(general.text_atts.bool(), general.text_ids, 13)
    clean = model.encode_text(general.text_ids, general.text_atts)
    dirty = model.encode_text(garbage, general.text_atts)
    real = general.text_atts.bool()
    close(dirty[real], clean[real])
    images = model.encode_image(general.images)
    close(model.match(dirty, general.text_atts, images), model.match(clean, general.text_atts, images))


def test_unpadded_text_with_and_without_a_mask_is_the_same(model, general):
    ids, atts = general.text_ids[:2], general.text_atts[:2]
    close(model.encode_text(ids, atts), model.encode_text(ids, None))
    texts, images = model.encode_text(ids, None), model.encode_image(general.images[:2])
    close(model.fuse(texts, atts, images), model.fuse(texts, None, images))
    close(model.fuse(texts, None, images, torch.ones(2, 10)), model.fuse(texts, None, images))


def test_the_first_token_sees_the_last(model, general):
    changed = general.text_ids.clone()
    changed[:, 5] = 19 - changed[:, 5]
    images = model.encode_image(general.images[:1])
    fused = [model.fuse(model.encode_text(ids[:1], None), None, images)[:, 0] for ids in (general.text_ids, changed)]
    assert (fused[0] - fused[1]).abs().max() > 1e-4


def test_eager_and_sdpa_agree(config, model, general, region):
    eager = XVLM(config, attention="eager").eval()
    eager.load_state_dict(model.state_dict())
    for batch in (general, region):
        ours = model.pretraining_losses(batch, torch.Generator().manual_seed(0))
        theirs = eager.pretraining_losses(batch, torch.Generator().manual_seed(0))
        for name, value in ours.items():
            close(value, theirs[name], atol=2e-5)


def test_an_image_of_another_size_is_refused(model):
    with pytest.raises(ValueError, match=r"32\*32.*24\*24"):
        model.encode_image(torch.zeros(1, 3, 32, 32))


def test_resizing_images_keeps_all_weights_but_the_positions(model, general):
    resized = copy.deepcopy(model)
    resized.resize_images(40)
    assert resized.encode_image(torch.randn(2, 3, 40, 40)).shape == (2, 26, 16)
    assert resized.config.image_size == 40
    different = [name for name, p in resized.named_parameters() if not torch.equal(p, model.get_parameter(name))]
    assert different == ["vision_encoder.embeddings.position_embedding.weight"]
    assert resized.adapter.prunable(resized) == model.adapter.prunable(model)
    assert resized.vision_encoder.embeddings.position_embedding.weight.requires_grad


def test_resizing_to_the_present_size_changes_nothing(model, general):
    before = model.encode_image(general.images)
    model.resize_images(24)
    assert torch.equal(model.encode_image(general.images), before)


# --- losses ---


def test_which_losses_a_batch_has(model, general, region):
    assert list(model.pretraining_losses(general)) == ["itc", "itm", "mlm"]
    assert list(model.pretraining_losses(region)) == ["itc", "itm", "mlm", "bbox", "giou"]
    assert list(model.alignment_losses(region)) == ["itc", "itm", "mlm"]
    assert list(model.retrieval_losses(general)) == ["itc", "itm"]


def test_all_weights_receive_a_gradient_from_a_region_batch(model, region):
    torch.stack(list(model.pretraining_losses(region).values())).sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_losses_in_mixed_precision_are_float32_and_near(model, region):
    exact = model.pretraining_losses(region, torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model.pretraining_losses(region, torch.Generator().manual_seed(0))
    for name, value in mixed.items():
        assert value.dtype == torch.float32
        close(value, exact[name], atol=0.1)
    torch.stack(list(mixed.values())).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_temperature_is_clamped_in_pretraining_only(model, general):
    with torch.no_grad():
        model.temp.fill_(0.9)
    model.retrieval_losses(general)
    assert model.temp.item() == pytest.approx(0.9)
    model.pretraining_losses(general)
    assert model.temp.item() == 0.5


def test_matching_loss_of_an_undecided_head_is_log_two(model, general):
    with torch.no_grad():
        model.itm_head[3].weight.zero_()
        model.itm_head[3].bias.zero_()
    assert model.retrieval_losses(general)["itm"].item() == pytest.approx(0.693147, abs=1e-5)


def test_matching_loss_has_two_negatives_for_each_pair(model, general):
    """A head that always says no is right on two of three pairs."""
    with torch.no_grad():
        model.itm_head[3].weight.zero_()
        model.itm_head[3].bias.copy_(torch.tensor([30.0, 0.0]))
    assert model.retrieval_losses(general)["itm"].item() == pytest.approx(10, abs=1e-4)


def test_a_batch_without_masked_words_has_no_word_loss(model, general):
    general.masked_ids = torch.full_like(general.masked_ids, -100)
    assert model.pretraining_losses(general)["mlm"].item() == 0


def test_word_loss_is_the_mean_over_masked_words(model, general):
    logits = model.predict_words(general)[:, 0].log_softmax(-1)
    expected = -logits.gather(1, general.masked_ids[:, :1]).mean()
    close(model.pretraining_losses(general)["mlm"], expected)


@pytest.mark.parametrize("field", ["text_ids", "text_atts", "text_ids_masked", "masked_pos", "masked_ids"])
def test_a_missing_part_of_the_batch_is_named(model, general, field):
    with pytest.raises(ValueError, match=f"no {field},"):
        model.pretraining_losses(replace(general, **{field: None}))


def test_a_region_batch_needs_its_region_masks(model, region):
    with pytest.raises(ValueError, match="no image_atts,"):
        model.pretraining_losses(replace(region, image_atts=None))


def test_dropout_is_random_in_training_only(model, general):
    evaluated = [model.encode_text(general.text_ids, general.text_atts) for _ in range(2)]
    model.train()
    trained = [model.encode_text(general.text_ids, general.text_atts) for _ in range(2)]
    assert torch.equal(*evaluated)
    assert not torch.equal(*trained)


def test_a_few_steps_learn_a_batch_by_heart(config, region):
    torch.manual_seed(2)
    model = XVLM(replace(config, dropout=0.0, itm_uniform=2.0)).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3)
    generator, history = torch.Generator().manual_seed(0), []
    for _ in range(120):
        losses = model.pretraining_losses(region, generator)
        optimiser.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimiser.step()
        history.append({name: value.item() for name, value in losses.items()})
    assert all(history[-1][name] < 0.3 * history[0][name] for name in history[0]), (history[0], history[-1])


# --- batch ---


def test_a_batch_moves_with_all_its_parts(region):
    moved = region.to("meta")
    assert moved.is_region
    for field in fields(Batch):
        before, after = getattr(region, field.name), getattr(moved, field.name)
        assert (before is None) == (after is None)
        assert after is None or (after.device.type == "meta" and after.shape == before.shape)


# --- adapter ---


def test_prunable_are_linear_weights_outside_the_heads(model):
    names = model.adapter.prunable(model)
    assert len(names) == 3 * 6 + 1 * 6 + 2 * 10
    assert all(name.endswith(".weight") and model.get_parameter(name).ndim == 2 for name in names)
    assert not any("proj.weight" in n and n.count(".") == 1 for n in names)
    assert not any(word in n for n in names for word in ("head", "cls", "embed", "Norm", "norm"))


def test_places(model):
    adapter = model.adapter
    assert adapter == XVLMAdapter(1)
    vision = "vision_encoder.encoder.layers.2.mlp.fc1.weight"
    assert adapter.place(vision) == Place("vision", "vision_encoder.encoder.layers.2")
    for i, modality in enumerate(["text", "fusion", "fusion"]):
        block = f"text_encoder.bert.encoder.layer.{i}"
        assert adapter.place(f"{block}.attention.self.query.weight") == Place(modality, block)
        assert adapter.place(f"{block}.output.dense.weight") == Place(modality, block)


def inputs_seen(model, batch):
    """Shape of the input of every prunable layer in `encode`, and how often it ran."""
    seen, handles = {}, []
    for name in model.adapter.prunable(model):
        module = model.get_submodule(name.removesuffix(".weight"))
        handles.append(
            module.register_forward_pre_hook(lambda m, args, name=name: seen.setdefault(name, []).append(args[0].shape))
        )
    model.adapter.encode(model, batch)
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("kind", ["general", "region"])
def test_encode_runs_every_prunable_layer_once(model, request, kind):
    batch = request.getfixturevalue(kind)
    seen = inputs_seen(model, batch)
    assert seen.keys() == set(model.adapter.prunable(model))
    assert all(len(calls) == 1 for calls in seen.values())


@pytest.mark.parametrize("kind", ["general", "region"])
def test_token_mask_fits_the_input_of_every_layer(model, request, kind):
    batch = request.getfixturevalue(kind)
    for name, ((rows, tokens, _),) in inputs_seen(model, batch).items():
        mask = model.adapter.token_mask(batch, name, tokens)
        if mask is None:
            assert tokens == 10  # image tokens
        else:
            assert mask.shape == (rows, tokens) == (4, 6)
            assert mask.dtype == torch.bool
            assert torch.equal(mask, batch.text_atts.bool())


def test_token_mask_goes_by_the_layer_not_by_lengths(model, general):
    """10 words and 10 image tokens: only the words may be masked."""
    batch = replace(general, text_ids=torch.ones(4, 10).long(), text_atts=(torch.arange(10) < 7).long().expand(4, -1))
    block = "text_encoder.bert.encoder.layer.2"
    mask = {n: model.adapter.token_mask(batch, f"{block}.{n}.weight", 10) for n in (
        "crossattention.self.key", "crossattention.self.value", "crossattention.self.query",
        "crossattention.output.dense", "attention.self.key", "intermediate.dense",
    )}  # fmt: skip
    assert [name for name, m in mask.items() if m is None] == ["crossattention.self.key", "crossattention.self.value"]
    assert all(m is None or int(m.sum()) == 28 for m in mask.values())
    assert model.adapter.token_mask(batch, "vision_encoder.encoder.layers.0.mlp.fc1.weight", 10) is None


def test_encode_leaves_no_gradient_and_no_change(model, region):
    before = {name: p.clone() for name, p in model.named_parameters()}
    model.adapter.encode(model, region)
    assert all(torch.equal(p, before[name]) and p.grad is None for name, p in model.named_parameters())


def test_loss_is_the_sum_without_the_boxes(model, region):
    torch.manual_seed(0)
    parts = model.pretraining_losses(region)
    torch.manual_seed(0)
    loss = model.adapter.loss(model, region)
    close(loss, parts["itc"] + parts["itm"] + parts["mlm"])
    loss.backward()
    assert model.bbox_head[0].weight.grad is None


def test_rows_are_images(model, general, region):
    assert model.adapter.rows(general) == 4
    assert model.adapter.rows(region) == 2
