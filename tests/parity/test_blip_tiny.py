"""BLIP against numbers recorded from the released code on a tiny model: width 48, random weights, float32.

`data/blip_tiny.npz`: `sd/` weights in the released naming (what the decoder shares with the encoder left out), `inp/`
inputs, `out/` outputs and losses, `grads/` the gradient of ITC + ITM + LM, `tied` the modules that are shared.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from vlp_bench.batch import Batch
from vlp_bench.models.blip.model import BLIP
from vlp_bench.models.blip.towers import BLIPConfig
from vlp_bench.models.checkpoints.read_write import load_weights
from vlp_bench.models.released_names import blip_name

TINY = BLIPConfig(
    image_size=64,
    patch_size=16,
    vision_width=48,
    vision_layers=3,
    vision_heads=4,
    text_width=48,
    text_layers=3,
    text_heads=4,
    vocab_size=132,
    embed_dim=32,
    max_positions=64,
    queue_size=60,
    dec_id=130,
    enc_id=131,
)


@pytest.fixture(scope="module")
def arrays():
    with np.load(Path(__file__).parent / "data" / "blip_tiny.npz") as file:
        return {name: file[name] for name in file.files}


@pytest.fixture(scope="module")
def recorded(arrays):
    return {name: torch.from_numpy(value) for name, value in arrays.items() if value.dtype.kind in "fi"}


@pytest.fixture(scope="module")
def released(recorded):
    """The recorded weights as the released code saves them, shared ones twice."""
    state = {name[3:]: tensor for name, tensor in recorded.items() if name.startswith("sd/")}
    shared = {n: t for n, t in state.items() if n.startswith("text_encoder.") and ".attention." not in n}
    state |= {n.replace("text_encoder.", "text_decoder.bert."): t.clone() for n, t in shared.items()}
    words = state["text_encoder.embeddings.word_embeddings.weight"]
    return state | {"text_decoder.cls.predictions.decoder.weight": words.clone()}


@pytest.fixture(scope="module")
def released_file(released, tmp_path_factory):
    path = tmp_path_factory.mktemp("released") / "model_base_14M.pth"
    torch.save({"model": released}, path)
    return path


@pytest.fixture(scope="module")
def retrieval_file(released, tmp_path_factory):
    """The retrieval model's file: no decoder, queues under other names."""
    path = tmp_path_factory.mktemp("released") / "retrieval.pth"
    state = {name: tensor for name, tensor in released.items() if not name.startswith("text_decoder.")}
    state["ptr_queue"] = state.pop("queue_ptr")
    torch.save({"model": state | {"idx_queue": torch.full((1, 60), -100)}}, path)
    return path


@pytest.fixture(params=["eager", "sdpa"])
def model(request, released_file):
    return load_weights(BLIP(TINY, attention=request.param), released_file).eval()


@pytest.fixture(scope="module")
def batch(recorded):
    return Batch(recorded["inp/img"], recorded["inp/ids"], recorded["inp/att"])


def close(ours, theirs):
    torch.testing.assert_close(ours.detach(), theirs, atol=1e-5, rtol=0)


def losses_of(values):
    return torch.stack(list(values.values()))


def test_towers_encoder_and_decoder_of_a_padded_batch(model, batch, recorded):
    vision = model.encode_image(batch.images)
    close(vision, recorded["out/vision"])
    close(model.text_states(batch.text_ids, batch.text_atts), recorded["out/text"])
    close(model.fuse(batch.text_ids, batch.text_atts, vision), recorded["out/fusion"])
    close(model.predict_words(batch.text_ids, batch.text_atts, vision), recorded["out/lm_logits"])


@pytest.mark.parametrize("row", range(6))
def test_a_caption_without_its_padding_gives_the_recorded_numbers_too(model, batch, recorded, row):
    length = int(batch.text_atts[row].sum())
    ids, vision = batch.text_ids[[row], :length], recorded["out/vision"][[row]]
    close(model.text_states(ids, None), recorded["out/text"][[row], :length])
    close(model.fuse(ids, None, vision), recorded["out/fusion"][[row], :length])
    close(model.predict_words(ids, None, vision), recorded["out/lm_logits"][[row], :length])


def test_pretraining_losses_queue_and_every_gradient(model, batch, recorded):
    torch.manual_seed(21)
    losses = losses_of(model.pretraining_losses(batch))
    close(losses, recorded["out/pre_alpha0"])
    close(losses[2], recorded["out/lm"])
    close(model.image_queue, recorded["out/queue_after"])
    assert int(model.queue_ptr) == 6
    losses.sum().backward()
    theirs = {blip_name(name[6:]): grad for name, grad in recorded.items() if name.startswith("grads/")}
    theirs["text_decoder.cls.predictions.bias"] = theirs.pop("text_decoder.cls.predictions.decoder.bias")
    ours = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert ours.keys() == theirs.keys()
    for name, grad in theirs.items():
        close(ours[name], grad)


def test_pretraining_losses_with_soft_targets(model, batch, recorded):
    torch.manual_seed(22)
    close(losses_of(model.pretraining_losses(batch, alpha=0.4)), recorded["out/pre_alpha4"])


def test_adapter_loss_is_the_sum_the_released_pruners_differentiate(model, batch, recorded):
    torch.manual_seed(21)
    close(model.adapter.loss(model, batch), recorded["out/pre_alpha0"].sum())


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_retrieval_losses_of_the_retrieval_model(attention, retrieval_file, batch, recorded):
    model = load_weights(BLIP(replace(TINY, decoder=False), attention=attention), retrieval_file).eval()
    torch.manual_seed(23)
    losses = model.retrieval_losses(replace(batch, idx=recorded["inp/idx"]))
    close(losses_of(losses), recorded["out/ret"])


def test_the_full_model_without_its_decoder_is_the_retrieval_model(model, batch, recorded):
    model.drop_decoder()
    losses = model.retrieval_losses(replace(batch, idx=recorded["inp/idx"]), torch.Generator().manual_seed(23))
    close(losses_of(losses), recorded["out/ret"])


def test_encoder_and_decoder_share_what_the_released_model_shares(model, arrays):
    encoder = dict(model.text_encoder.named_parameters())
    decoder = dict(model.text_decoder.bert.named_parameters())
    shared = {name.rpartition(".")[0] for name, p in encoder.items() if decoder[name] is p}
    assert shared == {line.split(" ")[0][1:].replace("/", ".") for line in arrays["tied"].tolist()}
