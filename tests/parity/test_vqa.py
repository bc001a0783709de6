"""Question answering against losses, logits and rankings recorded from the released code on tiny models."""

import pytest
import torch

from tests.parity.test_blip_tiny import TINY as BLIP_TINY
from tests.parity.test_captions import close, filled, read, weights
from tests.parity.test_xvlm_tiny import TINY as XVLM_TINY
from vlp_bench.models.blip.model import BLIP
from vlp_bench.models.next_word_losses import replace_first
from vlp_bench.models.released_names import blip_key_map, xvlm_key_map
from vlp_bench.models.vqa import BLIPVQA, XVLMVQA, Answers
from vlp_bench.models.xvlm.model import XVLM


@pytest.fixture(scope="module")
def xvlm():
    return read("xvlm_tiny.npz") | read("xvlm_downstream_tiny.npz")


@pytest.fixture(scope="module")
def blip():
    return read("blip_tiny.npz")


@pytest.fixture(params=["eager", "sdpa"])
def xvlm_model(request, xvlm):
    return XVLMVQA.of(filled(XVLM(XVLM_TINY, attention=request.param), xvlm_key_map(weights(xvlm))))


@pytest.fixture(params=["eager", "sdpa"])
def blip_model(request, blip):
    return BLIPVQA.of(filled(BLIP(BLIP_TINY, attention=request.param), blip_key_map(weights(blip))))


def answers_of(recorded):
    chosen = recorded["inp/sel"]
    return Answers(recorded["inp/aids"][chosen], recorded["inp/aatt"][chosen], recorded["inp/k"], recorded["inp/w"])


def question_states(model, recorded):
    images = model.encode_image(recorded["inp/img"])
    return model.read(recorded["inp/ids"], recorded["inp/att"], images)


def vqa_loss(model, recorded):
    inputs = (recorded[f"inp/{name}"] for name in ("img", "ids", "att"))
    return model.vqa_losses(*inputs, answers_of(recorded))["vqa"]


def test_xvlm_loss(xvlm_model, xvlm):
    close(vqa_loss(xvlm_model, xvlm), xvlm["out/vqa_loss"])


@pytest.mark.parametrize("pairs", [512, 7])
def test_xvlm_ranking(xvlm_model, xvlm, pairs):
    candidates = xvlm["inp/aids"], xvlm["inp/aatt"]
    states = question_states(xvlm_model, xvlm)
    rows, probabilities = xvlm_model.rank(states, xvlm["inp/att"], *candidates, k=8, pairs=pairs)
    assert torch.equal(rows, xvlm["out/vqa_ids"])
    close(probabilities, xvlm["out/vqa_probs"])


def test_blip_questions_logits_and_losses(blip_model, blip):
    states, answers = question_states(blip_model, blip), answers_of(blip)
    close(states, blip["out/vqa_q"])
    of = torch.arange(6).repeat_interleave(answers.counts)
    given = states[of], blip["inp/att"][of]
    logits = blip_model.predict_words(replace_first(answers.ids, 130), answers.atts, *given)
    close(logits, blip["out/vqa_logits"])
    close(blip_model.answer_losses(answers.ids, answers.atts, *given), blip["out/vqa_each"])
    close(vqa_loss(blip_model, blip), blip["out/vqa"])


def test_blip_ranking(blip_model, blip):
    candidates = blip["inp/aids"], blip["inp/aatt"]
    rows, _ = blip_model.rank(question_states(blip_model, blip), blip["inp/att"], *candidates, k=8)
    assert torch.equal(rows[:, 0], blip["out/vqa_ids"])
