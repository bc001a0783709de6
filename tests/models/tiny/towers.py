"""XVLM's two towers alone, as a CLIP."""

from tests.models.tiny import words, xvlm
from vlp_bench.batch import Batch
from vlp_bench.models.clip import XVLMTowers


def model(attention: str = "sdpa") -> XVLMTowers:
    return XVLMTowers(xvlm.model(attention))


def batches() -> list[Batch]:
    return [words(seed=0), words(seed=1)]
