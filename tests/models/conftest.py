"""A model small enough to run in milliseconds, and batches of every kind for it."""

import pytest
import torch

from tests.models.small import SMALL_BLIP, SMALL_XVLM
from vlp_bench.batch import Batch
from vlp_bench.models.blip.model import BLIP
from vlp_bench.models.xvlm.model import XVLM


@pytest.fixture
def config():
    return SMALL_XVLM


@pytest.fixture
def model(config):
    """Random weights five times as large as at the start of training, so that every path makes a difference."""
    torch.manual_seed(0)
    model = XVLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(5 if parameter.ndim == 2 else 1)
    return model


@pytest.fixture
def blip():
    """A BLIP of the same size, with random weights."""
    torch.manual_seed(0)
    return BLIP(SMALL_BLIP).eval()


@pytest.fixture
def general():
    """4 images with a caption each, of 6, 6, 4 and 3 tokens."""
    draw = torch.Generator().manual_seed(1)
    atts = (torch.arange(6) < torch.tensor([[6], [6], [4], [3]])).long()
    ids = torch.randint(1, 20, (4, 6), generator=draw) * atts
    return Batch(
        images=torch.randn(4, 3, 24, 24, generator=draw),
        text_ids=ids,
        text_atts=atts,
        text_ids_masked=ids.index_fill(1, torch.tensor([2]), 1),
        masked_pos=torch.tensor([[2, 0]] * 4),
        masked_ids=torch.stack([ids[:, 2], torch.full((4,), -100)], dim=1),
    )


@pytest.fixture
def region(general):
    """The same captions as regions of 2 images; the last describes a whole image."""
    atts = torch.ones(4, 10)
    atts[0, 5:] = atts[1, 1:5] = atts[2, 2:] = 0
    return Batch(
        general.images[:2],
        *(general.text_ids, general.text_atts, general.text_ids_masked, general.masked_pos, general.masked_ids),
        idx_to_group_img=torch.tensor([0, 0, 1, 1]),
        image_atts=atts,
        target_bbox=torch.tensor([[0.5, 0.2, 1, 0.4], [0.5, 0.8, 1, 0.4], [0.1, 0.1, 0.2, 0.2], [0.5, 0.5, 1, 1]]),
        is_image=torch.tensor([0, 0, 0, 1]),
    )
