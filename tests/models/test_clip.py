"""CLIP and BLIP-2 through transformers: counts, folders in the hub's layout, and what is new around them."""

import pytest
import torch

from tests.models.tiny import blip2, blip2_opt, clip, dino, labelled, towers, words, xvlm
from vlp_bench.models.blip2.model import BLIP2, BLIP2Sizes, build_blip2, halves
from vlp_bench.models.checkpoints.locations import content_hash
from vlp_bench.models.checkpoints.read_write import save_model
from vlp_bench.models.clip import CLIP, build_clip, build_towers, clip_tokenizer


def counted(model):
    found, blocks = {}, set()
    for name in model.adapter.prunable(model):
        place = model.adapter.place(name)
        found[place.modality] = found.get(place.modality, 0) + model.get_parameter(name).numel()
        blocks.add(place.block)
    return found, len(blocks)


def test_the_counts_of_clip():
    """12 layers of 12 d^2 each: d = 768 for images, 512 for texts."""
    with torch.device("meta"):
        assert counted(CLIP()) == ({"vision": 84_934_656, "text": 12 * 12 * 512**2}, 24)


def test_the_counts_of_blip2():
    """39 blocks of ViT-g, 24 + 24 of FlanT5-XL; Q-Former, projections, embeddings and the word head stay dense."""
    vision = 39 * (4 * 1408**2 + 2 * 1408 * 6144)
    text = 24 * (4 * 2048**2 + 3 * 2048 * 5120) + 24 * (8 * 2048**2 + 3 * 2048 * 5120)
    with torch.device("meta"):
        assert counted(BLIP2()) == ({"vision": vision, "text": text}, 87)


@pytest.mark.parametrize("tiny, build", [(clip, build_clip), (blip2, build_blip2), (blip2_opt, build_blip2)])
def test_a_folder_of_the_hub_is_read_strictly(tiny, build, tmp_path):
    torch.manual_seed(0)
    model, batch = tiny.model().eval(), tiny.batches()[0]
    inner = model.clip if tiny is clip else model.net
    inner.to(torch.bfloat16).save_pretrained(tmp_path)
    loaded = build(tmp_path)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    torch.testing.assert_close(loaded.adapter.loss(loaded, batch), model.float().adapter.loss(model, batch))
    assert len(content_hash(tmp_path)) == 16
    with pytest.raises(ValueError, match=r"config\.json"):
        build(tmp_path / "gone")


def test_a_folder_of_another_model_is_refused(tmp_path):
    clip.model().clip.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="holds a model of type clip, Blip2ForConditionalGeneration is of type blip-2"):
        build_blip2(tmp_path)


def test_an_image_is_nearest_to_its_own_kind_of_sentence():
    """Embeddings have length 1, and equal classes are no negatives of each other."""
    model, batch = clip.model().eval(), clip.batches()[0]
    images, texts = model.embed_images(batch.images), model.embed_texts(batch.text_ids, batch.text_atts)
    torch.testing.assert_close(images.norm(dim=1), torch.ones(4))
    torch.testing.assert_close(texts.norm(dim=1), torch.ones(4))
    batch.labels = torch.zeros(4).long()
    logits = images @ texts.T / model.temperature
    even = -(logits.log_softmax(1).mean() + logits.T.log_softmax(1).mean()) / 2
    torch.testing.assert_close(model.contrastive_losses(batch)["itc"], even)


def test_padding_is_not_read():
    for tiny in (clip, towers):
        model, batch = tiny.model().eval(), tiny.batches()[0]
        before = model.embed_texts(batch.text_ids, batch.text_atts)
        other = torch.where(batch.text_atts.bool(), batch.text_ids, 7)
        torch.testing.assert_close(model.embed_texts(other, batch.text_atts), before)


def test_the_towers_of_an_xvlm_are_its_own(tmp_path):
    source, batch = xvlm.model().eval(), words(seed=0)
    path = save_model(tmp_path / "x.safetensors", source)
    found = build_towers(path)
    torch.testing.assert_close(
        found.embed_images(batch.images), source.project_image(source.encode_image(batch.images))
    )
    texts = source.project_text(source.encode_text(batch.text_ids, batch.text_atts))
    torch.testing.assert_close(found.embed_texts(batch.text_ids, batch.text_atts), texts)
    assert not any("crossattention" in name for name in dict(found.named_parameters()))
    other = save_model(tmp_path / "d.safetensors", dino.model())
    with pytest.raises(ValueError, match="holds a DINO"):
        build_towers(other)


def test_a_dual_encoder_needs_sentences():
    with pytest.raises(ValueError, match="text_ids"):
        clip.model().contrastive_losses(labelled(0))


def test_the_tokenizer_must_lie_beside_the_weights(tmp_path):
    with pytest.raises(ValueError, match=r"no tokenizer\.json"):
        clip_tokenizer(tmp_path)


def test_halves_by_hand():
    ids, atts = torch.tensor([[1, 2, 3, 4, 5], [6, 7, 8, 0, 0]]), torch.tensor([[1] * 5, [1, 1, 1, 0, 0]])
    (first, first_atts), (rest, rest_atts) = halves(ids, atts)
    assert (first * first_atts).tolist() == [[1, 2], [6, 0]]
    assert (rest * rest_atts).tolist() == [[3, 4, 5], [7, 8, 0]]


@pytest.mark.parametrize("tiny", [blip2, blip2_opt])
def test_blip2_speaks_of_the_image(tiny):
    torch.manual_seed(0)
    model, batch = tiny.model().eval(), words(seed=0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4 if parameter.ndim == 2 else 1)
        own = model.language_losses(batch)["lm"]
        batch.images = batch.images.roll(1, 0)
        assert abs(float(model.language_losses(batch)["lm"] - own)) > 1e-4
    settings = {"num_beams": 2, "max_new_tokens": 3, "do_sample": False, "pad_token_id": 0}
    said = model.generate(batch.images, batch.text_ids[:, :2], torch.ones(4, 2).long(), **settings)
    assert said.shape[0] == 4
    assert said.shape[1] <= 4


def test_a_language_model_of_another_kind():
    with pytest.raises(ValueError, match="language must be one of t5, opt"):
        BLIP2Sizes(language="llama")
