"""Captioners and beam search against numbers and sequences recorded from the released code (transformers 4.31)."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.parity.test_blip_tiny import TINY as BLIP_TINY
from tests.parity.test_xvlm_tiny import TINY as XVLM_TINY
from vlp_bench.batch import Batch
from vlp_bench.models.beam import BeamRule
from vlp_bench.models.blip.model import BLIP
from vlp_bench.models.captioning import BLIPCaptioner, XVLMCaptioner
from vlp_bench.models.released_names import blip_key_map, xvlm_key_map
from vlp_bench.models.xvlm.model import XVLM

DATA = Path(__file__).parent / "data"
RULE = BeamRule(beams=3, max_length=20, min_length=5, eos=3, pad=0)


def read(name):
    with np.load(DATA / name) as file:
        return {key: torch.from_numpy(file[key]) for key in file.files if file[key].dtype.kind in "fiu"}


def filled(model, state):
    """The model with the recorded weights; what it shares is not in `state`."""
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected
    assert not {n for n, _ in model.named_parameters()} & set(missing)
    return model.eval()


def weights(recorded):
    return {name[3:]: tensor for name, tensor in recorded.items() if name.startswith("sd/")}


@pytest.fixture(scope="module")
def xvlm():
    return read("xvlm_tiny.npz") | read("xvlm_downstream_tiny.npz")


@pytest.fixture(scope="module")
def blip():
    return read("blip_tiny.npz")


@pytest.fixture(params=["eager", "sdpa"])
def xvlm_captioner(request, xvlm):
    return XVLMCaptioner.of(filled(XVLM(XVLM_TINY, attention=request.param), xvlm_key_map(weights(xvlm))))


@pytest.fixture(params=["eager", "sdpa"])
def blip_captioner(request, blip):
    return BLIPCaptioner.of(filled(BLIP(BLIP_TINY, attention=request.param), blip_key_map(weights(blip))))


def batch_of(recorded):
    return Batch(recorded["inp/img"], recorded["inp/ids"], recorded["inp/att"])


def close(ours, theirs):
    torch.testing.assert_close(ours.detach(), theirs, atol=1e-5, rtol=0)


def biased(captioner, by):
    """The captioner with the end token so much likelier."""
    with torch.no_grad():
        captioner.text_decoder.cls.predictions.bias[3] += by
    return captioner


def test_xvlm_logits_padded_and_unpadded(xvlm_captioner, xvlm):
    images = xvlm_captioner.encode_image(xvlm["inp/img"])
    close(images, xvlm["out/vision"])
    close(xvlm_captioner.predict_words(xvlm["inp/ids"], xvlm["inp/att"], images), xvlm["out/cap_logits"])
    for row, length in enumerate(xvlm["inp/att"].sum(1).tolist()):
        logits = xvlm_captioner.predict_words(xvlm["inp/ids"][[row], :length], None, images[[row]])
        close(logits, xvlm["out/cap_logits"][[row], :length])


def test_xvlm_loss_with_and_without_label_smoothing(xvlm_captioner, xvlm):
    close(xvlm_captioner.captioning_losses(batch_of(xvlm))["lm"], xvlm["out/cap_loss"])
    xvlm_captioner.smoothing = 0.0
    close(xvlm_captioner.captioning_losses(batch_of(xvlm))["lm"], xvlm["out/cap_loss_nols"])


@pytest.mark.parametrize("bias, name", [(0, "out/gen"), (3, "out/gen_eos")])
def test_xvlm_captions(xvlm_captioner, xvlm, bias, name):
    images = xvlm_captioner.encode_image(xvlm["inp/img"])
    assert torch.equal(biased(xvlm_captioner, bias).generate(images, xvlm["inp/prm"], RULE), xvlm[name])


def test_all_672_recorded_captions(xvlm_captioner):
    recorded, before = read("beam_search.npz"), 0.0
    for name in [key for key in recorded if key.startswith("res/")]:
        biased(xvlm_captioner, float(name[4:]) - before)
        before = float(name[4:])
        ours = xvlm_captioner.generate(recorded["ve"], recorded["prm"].long(), RULE)
        assert ours.tolist() == recorded[name][:, : ours.shape[1]].tolist()
        assert not recorded[name][:, ours.shape[1] :].any()


def test_blip_loss(blip_captioner, blip):
    close(blip_captioner.captioning_losses(batch_of(blip))["lm"], blip["out/cap"])


def test_blip_captions(blip_captioner, blip):
    images = blip_captioner.encode_image(blip["inp/img"])
    assert torch.equal(blip_captioner.generate(images, blip["inp/prm"], RULE), blip["out/gen"])
