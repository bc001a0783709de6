"""BLIP-2 as captioner and retriever: transformers' own numbers, and which parts come from which model."""

import json

import pytest
import torch
from transformers import Blip2ForConditionalGeneration, Blip2ForImageTextRetrieval

from tests.models.tiny import blip2, blip2_opt, words
from vlp_bench.models.blip2.model import BLIP2
from vlp_bench.models.blip2.tasks import BLIP2Retriever, language_tokenizer, with_bridge


def loud(net: torch.nn.Module) -> torch.nn.Module:
    """With weights large enough that every path makes a difference."""
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3 if parameter.ndim > 1 else parameter + 0.1)
    return net.eval()


@pytest.fixture
def pretrained() -> BLIP2:
    torch.manual_seed(0)
    return loud(blip2.model())


@pytest.fixture
def first_stage(tmp_path) -> str:
    """A retrieval model in a folder of the hub's layout."""
    torch.manual_seed(1)
    config = blip2.SIZES.config("sdpa")
    config.image_text_hidden_size = 8
    config.qformer_config.vocab_size, config.qformer_config.use_qformer_text_input = 40, True
    loud(Blip2ForImageTextRetrieval(config)).save_pretrained(tmp_path / "itm")
    return str(tmp_path / "itm")


@torch.no_grad()
def test_scores_are_those_of_transformers(pretrained: BLIP2, first_stage: str) -> None:
    made, batch = BLIP2Retriever.of(pretrained, weights=first_stage), words(seed=0)
    images, texts = made.encode_image(batch.images), made.encode_text(batch.text_ids, batch.text_atts)
    cosine = (made.project_image(images) @ made.project_text(texts).T).amax(1)
    theirs = {
        head: made.net(batch.images, batch.text_ids, batch.text_atts, use_image_text_matching_head=head)
        for head in (False, True)
    }
    torch.testing.assert_close(cosine, theirs[False].logits_per_image, atol=1e-5, rtol=1e-5)
    pairs = torch.arange(4)
    scores = made.matcher(images)(texts, batch.text_atts, pairs)
    expected = theirs[True].logits_per_image[:, 1] + cosine.diagonal()
    torch.testing.assert_close(scores, expected, atol=1e-5, rtol=1e-5)
    other = made.matcher(images)(texts, batch.text_atts, pairs.flip(0))
    assert (other - scores).abs().max() > 1e-2


@torch.no_grad()
def test_images_are_read_by_the_pruned_model_and_normalised_by_the_other(pretrained: BLIP2, first_stage: str) -> None:
    other = Blip2ForImageTextRetrieval.from_pretrained(first_stage)
    blocks = {n: p.clone() for n, p in pretrained.net.vision_model.named_parameters()}
    made = BLIP2Retriever.of(pretrained, weights=first_stage)
    for name, parameter in made.net.vision_model.named_parameters():
        source = other.vision_model.get_parameter(name) if "post_layernorm" in name else blocks[name]
        assert torch.equal(parameter, source), name
    assert torch.equal(made.net.itm_head.weight, other.itm_head.weight)
    shared = {n for n, _ in made.named_parameters()} & set(pretrained.adapter.prunable(pretrained))
    assert shared == {n for n in pretrained.adapter.prunable(pretrained) if ".vision_model." in n}


def test_a_bridge_is_taken_over_and_nothing_else(pretrained: BLIP2, tmp_path) -> None:
    torch.manual_seed(2)
    loud(Blip2ForConditionalGeneration(blip2.SIZES.config("sdpa"))).save_pretrained(tmp_path)
    other = Blip2ForConditionalGeneration.from_pretrained(tmp_path)
    before = {n: p.clone() for n, p in pretrained.net.named_parameters()}
    made = with_bridge(pretrained, weights=tmp_path)
    bridge = {
        n for n in before if "qformer" in n or "query" in n or "language_projection" in n or "post_layernorm" in n
    }
    for name, parameter in made.net.named_parameters():
        assert torch.equal(parameter, other.get_parameter(name) if name in bridge else before[name]), name
    assert any(not torch.equal(before[n], other.get_parameter(n)) for n in bridge)


@torch.no_grad()
@pytest.mark.parametrize("tiny", [blip2, blip2_opt])
def test_text_alone_is_read_without_an_image(tiny) -> None:
    torch.manual_seed(0)
    model, batch = loud(tiny.model()), words(seed=0)
    batch.images = batch.images[:0]
    loss = model.language_losses(batch)["lm"]
    assert bool(loss.isfinite())
    assert model.adapter.rows(batch) == 4
    loud(model.net.vision_model)
    loud(model.net.qformer)
    assert torch.equal(model.language_losses(batch)["lm"], loss)
    seen, handles = [], []
    name = next(
        n for n in model.adapter.prunable(model) if "language_model" in n and n.endswith(("q.weight", "q_proj.weight"))
    )
    module = model.get_submodule(name.removesuffix(".weight"))
    handles.append(module.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape)))
    model.adapter.encode(model, batch)
    mask = model.adapter.token_mask(batch, name, seen[0][1])
    assert mask.shape == seen[0][:2]


@torch.no_grad()
def test_larger_images_are_read_with_resized_positions(pretrained: BLIP2) -> None:
    small, table = torch.randn(2, 3, 16, 16), pretrained.net.vision_model.embeddings.position_embedding.clone()
    before = pretrained.image_tokens(small)
    pretrained.resize_images(16)
    assert torch.equal(pretrained.image_tokens(small), before)
    pretrained.resize_images(32)
    assert pretrained.net.vision_model.embeddings.position_embedding.shape == (1, 17, 16)
    assert torch.equal(pretrained.net.vision_model.embeddings.position_embedding[:, 0], table[:, 0])
    assert pretrained.image_tokens(torch.randn(2, 3, 32, 32)).shape == before.shape


def test_a_tokenizer_that_is_not_there_is_told(tmp_path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "blip-2"}))
    with pytest.raises(ValueError, match=r"no tokenizer\.json"):
        language_tokenizer(tmp_path)
