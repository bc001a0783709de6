"""What holds for BLIP whatever its weights: sharing, momentum, queue, losses, adapter, counts."""

import copy
from dataclasses import replace

import pytest
import torch

import vlp_bench
from tests.models.small import SMALL_BLIP
from vlp_bench.batch import Batch, Place
from vlp_bench.models.blip.model import BLIP, BLIPAdapter
from vlp_bench.models.blip.towers import BLIPConfig
from vlp_bench.models.momentum import copy_to_momentum, enqueue, ramped, update_momentum
from vlp_bench.tasks.gallery import Gallery, Share

SHARED = "encoder.layer.1.intermediate.dense"


@pytest.fixture
def blip():
    torch.manual_seed(0)
    model = BLIP(SMALL_BLIP).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(5 if parameter.ndim == 2 else 1)
    model.restart_momentum()
    return model


@pytest.fixture(scope="module")
def paper():
    with torch.device("meta"):
        return BLIP(BLIPConfig())


def tied(model):
    return (
        model.text_encoder.get_submodule(SHARED).weight is model.text_decoder.bert.get_submodule(SHARED).weight
        and model.text_decoder.cls.predictions.decoder.weight is model.text_encoder.embeddings.word_embeddings.weight
    )


def copies(model):
    return {n: p.detach().clone() for n, p in model.named_parameters() if n.split(".")[0].endswith("_m")}


def test_prunable_weights_of_the_paper_s_model(paper):
    sizes = {name: p.numel() for name, p in paper.named_parameters()}
    names = paper.adapter.prunable(paper)
    counts = {"vision": 0, "text": 0}
    for name in names:
        counts[paper.adapter.place(name).modality] += sizes[name]
    assert counts == {"vision": 84_934_656, "text": 141_557_760}
    assert sum(counts.values()) == 226_492_416
    assert len(names) == len(set(names)) == 216


def test_all_weights_of_the_paper_s_model(paper):
    assert sum(p.numel() for p in paper.parameters()) == 475_892_799
    assert sum(p.numel() for p in paper.parameters() if p.requires_grad) == 252_441_919


def test_prunable_weights_of_the_paper_s_retrieval_model():
    with torch.device("meta"):
        model = BLIP(BLIPConfig(decoder=False))
    assert sum(model.get_parameter(name).numel() for name in model.adapter.prunable(model)) == 198_180_864


def test_the_decoder_adds_its_self_attention_only(blip):
    names = blip.adapter.prunable(blip)
    decoder = [name for name in names if name.startswith("text_decoder")]
    assert len(decoder) == 2 * 4
    assert all(".attention." in name for name in decoder)
    assert not any("_m." in name or "proj" in name.split(".")[0] or "cls" in name for name in names)


def test_places(blip):
    place = blip.adapter.place
    layer = "encoder.layer.1"
    assert place("vision_model.encoder.layers.1.self_attn.qkv.weight") == Place(
        "vision", "vision_model.encoder.layers.1"
    )
    assert place(f"text_encoder.{layer}.output.dense.weight") == Place("text", f"text_encoder.{layer}")
    decoder = f"text_decoder.bert.{layer}"
    assert place(f"{decoder}.attention.self.key.weight") == Place("text", decoder)


def test_sharing_survives_copies_and_training(blip, general):
    again = copy.deepcopy(blip)
    assert tied(again)
    optimiser = torch.optim.AdamW(again.parameters(), lr=1e-2)
    again.adapter.loss(again, general).backward()
    optimiser.step()
    assert tied(again)
    assert not torch.equal(
        again.get_parameter(f"text_encoder.{SHARED}.weight"), blip.text_encoder.get_parameter(f"{SHARED}.weight")
    )


def test_sharing_survives_state_dicts(blip):
    other = BLIP(SMALL_BLIP)
    other.load_state_dict(blip.state_dict())
    assert tied(other)
    assert torch.equal(other.image_queue, blip.image_queue)


def test_a_mask_reaches_encoder_decoder_and_momentum_copy(blip, general):
    solution = vlp_bench.prune(blip, pruner="omp", sparsity=0.5)
    assert not any("_m." in name for name in solution.masks)
    solution.install(blip)
    name = f"text_encoder.{SHARED}.weight"
    gone = ~solution.masks[name]
    assert gone.any()
    assert (blip.text_decoder.bert.get_parameter(f"{SHARED}.weight")[gone] == 0).all()
    blip.retrieval_losses(general)
    momentum = blip.get_parameter(name.replace("text_encoder", "text_encoder_m"))
    assert (momentum[gone] == 0).all()
    assert (momentum[~gone] != 0).all()


@pytest.mark.parametrize("pruner", ["multiflow", "snip"])
def test_pruning_with_calibration(blip, general, pruner):
    solution = vlp_bench.prune(blip, pruner=pruner, sparsity=0.75, calibration=[general])
    kept = sum(int(mask.sum()) for mask in solution.masks.values())
    total = sum(mask.numel() for mask in solution.masks.values())
    assert kept == total - int(0.75 * total)


# --- momentum and queue ---


def test_pretraining_moves_copies_queue_and_pointer(blip, general):
    with torch.no_grad():
        for name, p in blip.named_parameters():
            p.add_(0.1 if name.split(".")[0].endswith("_m") else 0.0)
    before, queue = copies(blip), blip.image_queue.clone()
    blip.pretraining_losses(general)
    for name, p in copies(blip).items():
        weight = blip.get_parameter(name.replace("_m.", ".", 1))
        torch.testing.assert_close(p, 0.995 * before[name] + 0.005 * weight)
    assert int(blip.queue_ptr) == 4
    assert torch.equal(blip.image_queue[:, 4:], queue[:, 4:])
    assert not torch.equal(blip.image_queue[:, :4], queue[:, :4])


def test_copies_get_no_gradient(blip, general):
    blip.adapter.loss(blip, general).backward()
    averages = [blip.get_parameter(name) for name in copies(blip)]
    assert averages
    assert all(p.grad is None and not p.requires_grad for p in averages)
    without = [n for n, p in blip.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []


def test_identities_wait_in_the_queue(blip, general):
    blip.retrieval_losses(replace(general, idx=torch.tensor([7, 7, 3, 5])))
    assert blip.idx_queue.tolist() == [[7, 7, 3, 5] + [-100] * 8]


def test_queue_by_hand():
    queue = torch.zeros(1, 5)
    assert enqueue(queue, torch.tensor([[1.0], [2.0]]), 0) == 2
    assert enqueue(queue, torch.tensor([[3.0], [4.0], [5.0], [6.0]]), 2) == 1
    assert queue.tolist() == [[6, 2, 3, 4, 5]]


def test_a_batch_longer_than_the_queue_leaves_its_newest():
    queue = torch.zeros(1, 2)
    assert enqueue(queue, torch.tensor([[1.0], [2.0], [3.0]]), 0) == 1
    assert queue.tolist() == [[3, 2]]


def test_momentum_by_hand():
    one, other = torch.nn.Linear(2, 1, bias=False), torch.nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        one.weight.copy_(torch.tensor([[1.0, 0.0]]))
        other.weight.copy_(torch.tensor([[3.0, 2.0]]))
    update_momentum([(one, other)], 0.5)
    assert other.weight.tolist() == [[2.0, 1.0]]
    update_momentum([(one, other)], 0.5, inherit_zeros=True)
    assert other.weight.tolist() == [[1.5, 0.0]]
    copy_to_momentum([(one, other)])
    assert other.weight.tolist() == [[1.0, 0.0]]
    assert not other.weight.requires_grad


def test_ramp_by_hand():
    assert [ramped(0.4, epochs) for epochs in (0, 0.25, 1, 2.25)] == pytest.approx([0, 0.1, 0.4, 0.4])


# --- losses ---


def test_losses_come_from_the_generator_given(blip, general):
    twins = [copy.deepcopy(blip) for _ in range(2)]
    losses = [twin.pretraining_losses(general, torch.Generator().manual_seed(3)) for twin in twins]
    assert list(losses[0]) == ["itc", "itm", "lm"]
    assert all(torch.equal(losses[0][name], losses[1][name]) for name in losses[0])


def test_eager_and_sdpa_agree(blip, general):
    eager = BLIP(SMALL_BLIP, attention="eager").eval()
    eager.load_state_dict(blip.state_dict())
    ours, theirs = (m.pretraining_losses(general, torch.Generator().manual_seed(0)) for m in (blip, eager))
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], atol=2e-5, rtol=0)


def test_padding_changes_nothing(blip, general):
    garbage = torch.where(general.text_atts.bool(), general.text_ids, 13)
    images, real = blip.encode_image(general.images), general.text_atts.bool()
    for read in (blip.fuse, blip.predict_words):
        clean, dirty = (read(ids, general.text_atts, images) for ids in (general.text_ids, garbage))
        torch.testing.assert_close(dirty[real], clean[real], atol=1e-5, rtol=0)


def test_the_decoder_sees_no_later_word_and_the_encoder_does(blip, general):
    changed = general.text_ids.clone()
    changed[:, 4] = 19 - changed[:, 4]
    images = blip.encode_image(general.images)[:2]
    pair = general.text_ids[:2], changed[:2]
    words = [blip.predict_words(ids, None, images) for ids in pair]
    fused = [blip.fuse(ids, None, images) for ids in pair]
    torch.testing.assert_close(words[0][:, :4], words[1][:, :4], atol=1e-5, rtol=0)
    assert (words[0][:, 4] - words[1][:, 4]).abs().max() > 1e-3
    assert (fused[0][:, 0] - fused[1][:, 0]).abs().max() > 1e-4


def test_match_is_the_logit_plus_the_cosine(blip, general):
    images, texts = blip.encode_image(general.images), blip.encode_text(general.text_ids, general.text_atts)
    fused = blip.fuse(general.text_ids, general.text_atts, images)
    cosine = (blip.project_image(images) * blip.project_text(texts)).sum(1)
    expected = blip.itm_head(fused[:, 0])[:, 1] + cosine
    torch.testing.assert_close(blip.match(texts, general.text_atts, images), expected)
    assert blip.project_text(texts).norm(dim=1).tolist() == pytest.approx([1] * 4, abs=1e-5)


def test_pairs_of_one_image_are_no_negatives(blip, general):
    with pytest.raises(ValueError, match="without a negative"):
        blip.retrieval_losses(replace(general, idx=torch.zeros(4, dtype=torch.long)))


def test_resizing_images_keeps_all_weights_but_the_positions(blip):
    resized = copy.deepcopy(blip)
    resized.resize_images(40)
    assert resized.encode_image(torch.randn(1, 3, 40, 40)).shape == (1, 26, 16)
    different = [n for n, p in resized.named_parameters() if not torch.equal(p, blip.get_parameter(n))]
    assert different == [f"vision_model{m}.embeddings.position_embedding" for m in ("", "_m")]
    assert [p.requires_grad for p in map(resized.get_parameter, different)] == [True, False]
    with pytest.raises(ValueError, match=r"24\*24.*40\*40"):
        resized.encode_image(torch.zeros(1, 3, 24, 24))


def test_drop_path_is_random_in_training_only(general):
    torch.manual_seed(0)
    model = BLIP(replace(SMALL_BLIP, drop_path=0.5, dropout=0.0))
    trained = [model.encode_image(general.images) for _ in range(4)]
    model.eval()
    evaluated = [model.encode_image(general.images) for _ in range(2)]
    assert any(not torch.equal(trained[0], other) for other in trained[1:])
    assert torch.equal(*evaluated)


def test_a_retrieval_model_predicts_no_words(blip, general):
    blip.drop_decoder()
    with pytest.raises(ValueError, match="no decoder"):
        blip.predict_words(general.text_ids, None, blip.encode_image(general.images))
    blip.adapter.encode(blip, general)


def test_losses_in_mixed_precision_are_float32_and_near(blip, general):
    exact = copy.deepcopy(blip).pretraining_losses(general, torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        mixed = blip.pretraining_losses(general, torch.Generator().manual_seed(0))
    for name, value in mixed.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, exact[name], atol=0.15, rtol=0)


def test_a_few_steps_learn_a_batch_by_heart(general):
    torch.manual_seed(2)
    model = BLIP(replace(SMALL_BLIP, dropout=0.0, label_smoothing=0.0, queue_size=4)).train()
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-3)
    generator, history = torch.Generator().manual_seed(0), []
    for _ in range(120):
        losses = model.pretraining_losses(general, generator)
        optimiser.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimiser.step()
        history.append({name: value.item() for name, value in losses.items()})
    assert all(history[-1][name] < 0.5 * history[0][name] for name in ("itm", "lm")), (history[0], history[-1])


# --- adapter ---


def test_encode_reads_shared_layers_twice_and_others_once(blip, general):
    seen, handles = {}, []
    by_id = {id(p): n for n, p in blip.named_parameters()}
    wanted = set(blip.adapter.prunable(blip))
    for module in blip.modules():
        name = by_id.get(id(getattr(module, "weight", None)))
        if name in wanted:
            handles.append(
                module.register_forward_pre_hook(lambda m, a, n=name: seen.setdefault(n, []).append(a[0].shape))
            )
    blip.adapter.encode(blip, general)
    for handle in handles:
        handle.remove()
    assert seen.keys() == wanted
    for name, shapes in seen.items():
        shared = name.startswith("text_encoder") and ".attention." not in name
        assert len(shapes) == (2 if shared else 1)
        mask = blip.adapter.token_mask(general, name, shapes[0][1])
        assert {shape[1] for shape in shapes} == ({10} if mask is None else {6})


def test_official_statistics_leave_out_the_decoder_s_passes_through_shared_layers(blip, general):
    class EncoderAlone(BLIPAdapter):
        def encode(self, model, batch):
            with torch.no_grad():
                model.fuse(batch.text_ids, batch.text_atts, model.encode_image(batch.images))

        def prunable(self, model):
            return [name for name in super().prunable(model) if not name.startswith("text_decoder")]

    norms = vlp_bench.Calibration(blip, [general]).norms(compat="official")
    alone = vlp_bench.Calibration(blip, [general], EncoderAlone()).norms()
    shared = [name for name in alone if "crossattention" in name or "intermediate" in name]
    assert len(shared) >= 10
    for name, expected in alone.items():
        torch.testing.assert_close(norms[name], expected, rtol=1e-9, atol=0)
    assert all(
        (vlp_bench.Calibration(blip, [general]).norms()[name] != norms[name]).any()
        for name in shared
        if "key" not in name and "value" not in name
    )
    assert {name for name in norms if name not in alone} == {
        name for name in blip.adapter.prunable(blip) if name.startswith("text_decoder")
    }


def test_rows_are_images(blip, general):
    assert blip.adapter.rows(general) == 4


@pytest.mark.parametrize("field", ["text_ids", "text_atts"])
def test_a_missing_part_of_the_batch_is_named(blip, general, field):
    with pytest.raises(ValueError, match=field):
        blip.pretraining_losses(replace(general, **{field: None}))


@pytest.mark.parametrize(
    "change, named",
    [
        ({"queue_size": 0}, "queue_size must be at least 1"),
        ({"momentum": 1.0}, "momentum must be at least 0 and below 1"),
        ({"enc_id": 22}, "enc_id must be at least 0 and below vocab_size 22"),
        ({"image_size": 20}, "image_size must be a multiple"),
        ({"vision_width": 15}, "vision_width must be a multiple"),
        ({"temp": 0.0}, "temp must be above 0"),
    ],
)
def test_impossible_sizes_are_refused(change, named):
    with pytest.raises(ValueError, match=named):
        replace(SMALL_BLIP, **change)


def test_attention_is_one_of_two():
    with pytest.raises(ValueError, match="eager, sdpa"):
        BLIP(SMALL_BLIP, attention="flash")


def test_a_batch_is_read_the_same_alone(blip, general):
    one = Batch(general.images[:1], general.text_ids[:1], general.text_atts[:1])
    torch.testing.assert_close(
        blip.encode_image(one.images)[0], blip.encode_image(general.images)[0], atol=1e-5, rtol=0
    )


def test_a_gallery_keeps_what_matching_needs(blip, general):
    """Retrieval pads what `encode_text` gives, cuts it to the longest of a chunk and hands it to `match`."""
    batch = replace(general, idx_to_group_img=torch.arange(4))
    gallery = Gallery()
    with torch.no_grad():
        gallery.add(blip, batch)
        whole = gallery.whole()
        scores = whole.match(
            blip, torch.tensor([2, 3, 0]), torch.tensor([3, 3, 1]), pairs=2, share=Share(0, 1, lambda s: s)
        )
        images = blip.encode_image(general.images)[[2, 3, 0]]
        texts = blip.encode_text(general.text_ids, general.text_atts)[[3, 3, 1]]
        expected = blip.match(texts, general.text_atts[[3, 3, 1]], images)
    torch.testing.assert_close(scores, expected, atol=1e-5, rtol=1e-5)
