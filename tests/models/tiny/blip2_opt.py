"""BLIP-2 with OPT, which has no encoder."""

from dataclasses import replace

from tests.models.tiny import blip2
from vlp_bench.models.blip2.model import BLIP2

SIZES = replace(blip2.SIZES, language="opt")
batches = blip2.batches


def model(attention: str = "sdpa") -> BLIP2:
    return BLIP2(SIZES, attention=attention)
