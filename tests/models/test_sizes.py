"""Inner widths and LayerNorm's epsilon are what a configuration says, in every family."""

from dataclasses import fields, replace

import pytest
from torch import nn

from tests.models.tiny import blip, dino, xvlm
from vlp_bench.models.blip.model import BLIP
from vlp_bench.models.blip.towers import BLIPConfig
from vlp_bench.models.dino import DINO, DINOConfig
from vlp_bench.models.xvlm.model import XVLM
from vlp_bench.models.xvlm.towers import XVLMConfig, inner_width

NARROW = {"vision_width": 32, "vision_heads": 2}
TEXT = {"text_width": 32, "text_heads": 2}


@pytest.mark.parametrize(
    "make, sizes", [(XVLMConfig, NARROW | TEXT), (BLIPConfig, NARROW | TEXT), (DINOConfig, NARROW)]
)
def test_the_ratio_of_a_feed_forward_network_gives_a_whole_width(make, sizes):
    assert make(**sizes, mlp_ratio=2.5).mlp_ratio == 2.5  # 80 of 32
    with pytest.raises(ValueError, match=r"mlp_ratio 2\.51 times the width 32 is 80\.32, which is no width"):
        make(**sizes, mlp_ratio=2.51)
    with pytest.raises(ValueError, match="mlp_ratio must be"):
        make(**sizes, mlp_ratio=0)
    with pytest.raises(ValueError, match="vision_eps must be above 0"):
        make(**sizes, vision_eps=0.0)


def test_inner_widths_of_real_models():
    assert inner_width(6144 / 1408, 1408) == 6144  # EVA's ViT-g
    assert inner_width(4304 / 1152, 1152) == 4304  # SigLIP's So400m


@pytest.mark.parametrize(
    "model, config, usual",
    [
        (XVLM, xvlm.CONFIG, {1e-5, 1e-12}),
        (BLIP, blip.CONFIG, {1e-6, 1e-12}),
        (DINO, dino.CONFIG, {1e-6}),
    ],
)
def test_every_norm_has_the_epsilon_of_its_tower(model, config, usual):

    changes = {f.name: value for f in fields(config) for name, value in EPSILONS.items() if f.name == name}
    assert epsilons(model(config)) == usual
    assert epsilons(model(replace(config, **changes))) == set(changes.values())


EPSILONS = {"vision_eps": 3e-4, "text_eps": 7e-4}


def epsilons(model: nn.Module) -> set[float]:
    """Those of the towers; XVLM's heads are PyTorch's."""
    norms = [m for n, m in model.named_modules() if isinstance(m, nn.LayerNorm) and "_head" not in n]
    return {norm.eps for norm in norms}


@pytest.mark.parametrize("model, config", [(XVLM, xvlm.CONFIG), (BLIP, blip.CONFIG), (DINO, dino.CONFIG)])
def test_a_ratio_that_is_not_whole_reaches_every_network(model, config):

    made = model(replace(config, mlp_ratio=2.5))
    inner = {m.out_features for n, m in made.named_modules() if n.endswith((".fc1", ".intermediate.dense"))}
    assert inner == {round(2.5 * config.vision_width)}
