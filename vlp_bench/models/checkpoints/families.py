"""The models whose weight files `checkpoints` reads: what each is built from and what its files are like."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

from vlp_bench.models.blip.model import BLIP
from vlp_bench.models.blip.nlvr import BLIPNLVR, NLVRConfig
from vlp_bench.models.blip.towers import BLIPConfig
from vlp_bench.models.dino import DINO, DINOConfig
from vlp_bench.models.released_names import (
    BLIP_POSITIONS,
    VISION_POSITIONS,
    XVLM_POSITIONS,
    blip_key_map,
    dino_key_map,
    nlvr_key_map,
    xvlm_key_map,
)
from vlp_bench.models.xvlm.model import XVLM
from vlp_bench.models.xvlm.towers import XVLMConfig

Model = XVLM | BLIP | BLIPNLVR | DINO
AnyModel = TypeVar("AnyModel", XVLM, BLIP, BLIPNLVR, DINO)
Config = XVLMConfig | BLIPConfig | NLVRConfig | DINOConfig
ROOTS = ("model", "model_state", "student")


@dataclass(frozen=True)
class Family:
    """What the files of one model are like.

    format: the entry in the header of our files. key_map: released names to ours. positions: the tables that are
    resized with the images. fresh: names that no released file has, which stay as the model begins with them. roots:
    where in a released file its state dict may lie.
    """

    name: str
    format: str
    config: type
    model: type
    key_map: Callable[[dict[str, Tensor]], dict[str, Tensor]]
    positions: tuple[str, ...]
    fresh: tuple[str, ...] = ()
    roots: tuple[str, ...] = ROOTS


FAMILIES = (
    Family("XVLM", "vlp_bench.xvlm.1", XVLMConfig, XVLM, xvlm_key_map, (XVLM_POSITIONS,)),
    Family(
        "BLIP",
        "vlp_bench.blip.1",
        BLIPConfig,
        BLIP,
        blip_key_map,
        (BLIP_POSITIONS, BLIP_POSITIONS.replace("model.", "model_m.", 1)),
    ),
    Family(
        "BLIP, fine-tuned for NLVR2", "vlp_bench.blip_nlvr.1", NLVRConfig, BLIPNLVR, nlvr_key_map, (BLIP_POSITIONS,)
    ),
    Family(
        "DINO",
        "vlp_bench.dino.1",
        DINOConfig,
        DINO,
        dino_key_map,
        (VISION_POSITIONS,),
        fresh=("classifier.weight", "classifier.bias"),
        roots=("teacher", *ROOTS),
    ),
)


def family_of(config: Config) -> Family:
    """The family of a configuration."""
    return next(family for family in FAMILIES if type(config) is family.config)
