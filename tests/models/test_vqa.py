"""Question answering: losses, rankings and what the models inherit."""

import pytest
import torch

from vlp_bench.models.blip.towers import BLIPConfig
from vlp_bench.models.checkpoints.inherit import inherited
from vlp_bench.models.vqa import BLIPVQA, XVLMVQA, Answers
from vlp_bench.models.xvlm.towers import XVLMConfig


@pytest.fixture(params=["xvlm", "blip"])
def vqa(request, model, blip):
    made = XVLMVQA.of(model) if request.param == "xvlm" else BLIPVQA.of(blip)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(3 if parameter.ndim == 2 and request.param == "blip" else 1)
    return made


@pytest.fixture
def answers():
    ids = torch.tensor([[2, 5, 3, 0], [2, 6, 7, 3], [2, 8, 3, 0], [2, 9, 4, 3], [2, 5, 6, 3]])
    return Answers(ids, (ids != 0).long(), torch.tensor([2, 1, 1, 1]), torch.tensor([0.4, 0.6, 1.0, 0.3, 0.7]))


def asked(vqa, general):
    return vqa.read(general.text_ids, general.text_atts, vqa.encode_image(general.images)), general.text_atts


@pytest.mark.parametrize("kind, count", [(XVLMVQA, 184_025_088 + 56_623_104), (BLIPVQA, 311_427_072)])
def test_prunable_weights_of_the_paper_s_models(kind, count):
    with torch.device("meta"):
        model = kind(XVLMConfig() if kind is XVLMVQA else BLIPConfig())
    assert sum(model.get_parameter(name).numel() for name in inherited(model)) == count


def test_xvlm_s_decoder_starts_as_its_fusion_layers(model):
    made = XVLMVQA.of(model)
    theirs, ours = model.text_encoder, made.text_decoder
    assert len(ours.bert.encoder.layer) == 2
    for own, source in zip(ours.bert.encoder.layer, theirs.bert.encoder.layer[1:], strict=True):
        assert torch.equal(own.crossattention.self.key.weight, source.crossattention.self.key.weight)
    assert torch.equal(ours.bert.embeddings.word_embeddings.weight, theirs.bert.embeddings.word_embeddings.weight)
    assert torch.equal(ours.cls.predictions.bias, theirs.cls.predictions.bias)
    assert ours.bert.encoder.layer[0].output.dense.weight is not theirs.bert.encoder.layer[1].output.dense.weight


def test_every_weight_comes_from_a_prunable_one(vqa, model, blip):
    parent = model if isinstance(vqa, XVLMVQA) else blip
    assert set(inherited(vqa).values()) == set(parent.adapter.prunable(parent))


def test_blip_s_encoder_and_decoder_are_apart(blip):
    made = BLIPVQA.of(blip)
    encoder, decoder = made.text_encoder.encoder.layer[1], made.text_decoder.bert.encoder.layer[1]
    assert torch.equal(encoder.output.dense.weight, decoder.output.dense.weight)
    assert encoder.output.dense.weight is not decoder.output.dense.weight
    assert [layer.drop_path for layer in made.vision_model.encoder.layers] == [0.0, 0.1]


def test_the_loss_is_the_weighted_sum_over_answers_per_question(vqa, general, answers):
    states, atts = asked(vqa, general)
    of = [0, 0, 1, 2, 3]
    each = torch.stack(
        [vqa.answer_losses(answers.ids[[i]], answers.atts[[i]], states[[q]], atts[[q]])[0] for i, q in enumerate(of)]
    )
    loss = vqa.vqa_losses(general.images, general.text_ids, general.text_atts, answers)["vqa"]
    torch.testing.assert_close(loss, (answers.weights * each).sum() / 4)


def test_padding_of_questions_and_answers_changes_nothing(vqa, general, answers):
    states, atts = asked(vqa, general)
    of = torch.tensor([0, 0, 1, 2, 3])
    padded = vqa.answer_losses(answers.ids, answers.atts, states[of], atts[of])
    for i, q in enumerate(of.tolist()):
        words, length = int(answers.atts[i].sum()), int(atts[q].sum())
        alone = vqa.answer_losses(answers.ids[[i], :words], answers.atts[[i], :words], states[[q], :length], None)
        torch.testing.assert_close(alone[0], padded[i], atol=1e-5, rtol=1e-5)


def test_ranking_all_candidates_orders_them_by_their_loss(vqa, general, answers):
    states, atts = asked(vqa, general)
    rows, probabilities = vqa.rank(states, atts, answers.ids, answers.atts, k=128)
    assert rows.shape == (4, 5)
    start = vqa.predict_words(vqa._started(answers.ids[:1, :1]).expand(4, 1), None, states, atts)[:, 0]
    for q in range(4):
        scores = -vqa.answer_losses(answers.ids, answers.atts, states[[q] * 5], atts[[q] * 5])
        if vqa.counts_first_word_twice:
            scores = scores + start[q].log_softmax(-1)[answers.ids[:, 1]]
        assert rows[q].tolist() == scores.argsort(descending=True).tolist()
    torch.testing.assert_close(probabilities.sum(1), torch.ones(4))


def test_only_the_likeliest_first_words_are_ranked(vqa, general, answers):
    states, atts = asked(vqa, general)
    start = vqa.predict_words(vqa._started(answers.ids[:1, :1]).expand(4, 1), None, states, atts)[:, 0]
    likeliest = start[:, answers.ids[:, 1]].argmax(1)
    rows, _ = vqa.rank(states, atts, answers.ids, answers.atts, k=1)
    picked = answers.ids[rows[:, 0], 1]
    assert torch.equal(picked, answers.ids[likeliest, 1])


def test_gradients_reach_every_weight(vqa, general, answers):
    vqa.train()
    vqa.vqa_losses(general.images, general.text_ids, general.text_atts, answers)["vqa"].backward()
    assert [name for name, p in vqa.named_parameters() if p.grad is None] == []


def test_answers_that_do_not_add_up(answers):
    with pytest.raises(ValueError, match="counts add up to 3, but there are 5 answers with 5 weights"):
        Answers(answers.ids, answers.atts, torch.tensor([2, 1]), answers.weights)


def test_a_retrieval_model_cannot_answer(blip):
    blip.drop_decoder()
    with pytest.raises(ValueError, match="cannot answer questions"):
        BLIPVQA.of(blip)
