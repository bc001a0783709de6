"""Captioners: losses, caches and what they inherit from the pre-trained model."""

import pytest
import torch

from vlp_bench.models.beam import BeamRule
from vlp_bench.models.blip.med import new_cache
from vlp_bench.models.blip.towers import BLIPConfig
from vlp_bench.models.captioning import BLIPCaptioner, XVLMCaptioner
from vlp_bench.models.checkpoints.inherit import inherited
from vlp_bench.models.next_word_losses import next_word_loss, next_word_losses, replace_first, targets
from vlp_bench.models.xvlm.model import XVLMConfig


@pytest.fixture(params=["xvlm", "blip"])
def captioner(request, model, blip):
    made = XVLMCaptioner.of(model) if request.param == "xvlm" else BLIPCaptioner.of(blip)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(3 if parameter.ndim == 2 and request.param == "blip" else 1)
    return made


@pytest.mark.parametrize("kind", [XVLMCaptioner, BLIPCaptioner])
def test_prunable_weights_of_the_paper_s_captioners(kind):
    with torch.device("meta"):
        model = kind(XVLMConfig() if kind is XVLMCaptioner else BLIPConfig())
    count = sum(model.get_parameter(name).numel() for name in inherited(model))
    assert count == {XVLMCaptioner: 184_025_088, BLIPCaptioner: 198_180_864}[kind]


@pytest.mark.parametrize("kind", ["xvlm", "blip"])
def test_every_prunable_weight_comes_from_a_prunable_one(kind, model, blip):
    parent = model if kind == "xvlm" else blip
    captioner = XVLMCaptioner.of(model) if kind == "xvlm" else BLIPCaptioner.of(blip)
    allowed = set(parent.adapter.prunable(parent))
    for name, source in inherited(captioner).items():
        assert source in allowed
        assert torch.equal(captioner.get_parameter(name), parent.get_parameter(source))


def test_every_weight_comes_from_the_pre_trained_model(blip):
    captioner = BLIPCaptioner.of(blip)
    for name, parameter in captioner.named_parameters():
        assert torch.equal(parameter, blip.get_parameter(captioner.pretrained_name(name)))


def test_words_and_word_head_share_one_weight(captioner):
    decoder = captioner.text_decoder
    assert decoder.cls.predictions.decoder.weight is decoder.bert.embeddings.word_embeddings.weight


def test_no_word_sees_a_later_one(captioner, general):
    changed = general.text_ids.clone()
    changed[:, 4] = 19 - changed[:, 4]
    images = captioner.encode_image(general.images)[:2]
    ours, theirs = (captioner.predict_words(ids[:2], None, images) for ids in (general.text_ids, changed))
    torch.testing.assert_close(ours[:, :4], theirs[:, :4], atol=1e-5, rtol=1e-5)
    assert (ours[:, 4] - theirs[:, 4]).abs().max() > 1e-3


def test_the_image_matters(captioner, general):
    images = captioner.encode_image(general.images)
    ours, theirs = (captioner.predict_words(general.text_ids, None, states) for states in (images, images.flip(0)))
    assert (ours - theirs).abs().max() > 1e-4


@pytest.mark.parametrize("cut", [1, 3, 5])
def test_a_cache_changes_no_logit(captioner, general, cut):
    images, ids = captioner.encode_image(general.images)[:2], general.text_ids[:2]
    whole, cache = captioner.predict_words(ids, None, images), new_cache()
    parts = [captioner.predict_words(part, None, images, cache) for part in (ids[:, :cut], ids[:, cut:])]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-5, rtol=1e-5)


def test_captions_start_with_the_prompt_and_do_not_depend_on_the_batch(captioner, general):
    images = captioner.encode_image(general.images)
    prompt = torch.tensor([[2, 5, 6]] * 4)
    rule = BeamRule(beams=3, max_length=9, min_length=4, eos=3)
    captions = captioner.generate(images, prompt, rule)
    assert torch.equal(captions[:, :3], captioner.started(prompt))
    for row in range(4):
        alone = captioner.generate(images[[row]], prompt[[row]], rule)[0]
        assert captions[row, : len(alone)].tolist() == alone.tolist()


def test_gradients_reach_every_weight(captioner, general):
    captioner.prompt = 1
    captioner.train().captioning_losses(general)["lm"].backward()
    assert [name for name, p in captioner.named_parameters() if p.grad is None] == []


def test_a_retrieval_model_cannot_become_a_captioner(blip):
    blip.drop_decoder()
    with pytest.raises(ValueError, match="cannot become a captioner"):
        BLIPCaptioner.of(blip)


def test_smoothing_out_of_range(config):
    with pytest.raises(ValueError, match=r"below 1, got 1\.0"):
        XVLMCaptioner(config, smoothing=1.0)


# --- words ---


def test_targets_by_hand():
    ids = torch.tensor([[2, 5, 6, 7, 0]])
    assert targets(ids, 0, 2).tolist() == [[-100, -100, 6, 7, -100]]
    assert ids.tolist() == [[2, 5, 6, 7, 0]]


def test_replace_first_by_hand():
    ids = torch.tensor([[2, 5], [2, 6]])
    assert replace_first(ids, 9).tolist() == [[9, 5], [9, 6]]
    assert ids[0, 0] == 2


def test_both_kinds_of_smoothing_by_hand():
    logits = torch.tensor([[[1.0, 2.0, 0.5, 0.0], [0, 0, 0, 0]]])
    log_probs, labels = logits[0, 0].log_softmax(-1), torch.tensor([[0, 1]])
    others = -(0.9 * log_probs[1] + 0.1 / 4 * (log_probs.sum() - log_probs[1]))
    shared = -(0.9 * log_probs[1] + 0.1 / 4 * log_probs.sum())
    for kind, expected in (("others", others), ("shared", shared)):
        torch.testing.assert_close(next_word_loss(logits, labels, 0.1, kind=kind), expected)
        torch.testing.assert_close(next_word_loss(logits, labels, kind=kind), -log_probs[1])


def test_words_that_do_not_count_are_left_out():
    logits = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[1, -100, 3, -100], [1, 2, -100, -100]])
    losses = next_word_losses(logits, labels, 0.1, kind="others")
    assert (losses != 0).tolist() == [[False, True, False], [True, False, False]]
    torch.testing.assert_close(next_word_loss(logits, labels, 0.1, kind="others"), losses.sum() / 2)
    assert next_word_loss(logits, torch.full((2, 4), -100)) == 0


def test_an_unknown_kind_of_smoothing():
    with pytest.raises(ValueError, match="shared, others, got 'half'"):
        next_word_losses(torch.zeros(1, 2, 3), torch.zeros(1, 2).long(), 0.1, kind="half")
