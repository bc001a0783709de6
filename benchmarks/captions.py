"""What an epoch's caption evaluation costs against pycocoevalcap's own driver, SPICE left out of both (it needs jars).

    python benchmarks/captions.py [--images 5000]

5 captions of plain words an image. The driver starts Java for METEOR and cuts the references anew every epoch; here
METEOR's process waits and references are cut once, so the second epoch is what counts. Goal: at most half the time.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np

from vlp_bench.data.records import CaptionedImage
from vlp_bench.metrics.captions import CaptionScores
from vlp_bench.metrics.tokenisers import MISSING, java, no_java, package

TEXT = "a the man woman dog cat red blue table street riding sitting holding on near with two small kite cake"
WORDS = tuple(TEXT.split())


def sentence(rng: np.random.Generator) -> str:
    """8 to 13 words."""
    return " ".join(WORDS[i] for i in rng.integers(len(WORDS), size=int(rng.integers(8, 14))))


def seconds(call: Callable[[], object]) -> float:
    """Wall time of one call."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


class Annotations:
    """What the driver asks of pycocotools."""

    def __init__(self, texts: dict[int, tuple[str, ...]]) -> None:
        self.imgToAnns = {n: [{"caption": text} for text in each] for n, each in texts.items()}

    def getImgIds(self) -> list[int]:
        return list(self.imgToAnns)


def driver(references: dict[int, tuple[str, ...]], captions: dict[int, str]) -> None:
    """One evaluation by pycocoevalcap's driver, SPICE replaced by nothing."""
    from pycocoevalcap import eval as driving

    class Nothing:
        def compute_score(self, gts: dict, res: dict) -> tuple[float, list[dict]]:
            return 0.0, [{} for _ in gts]

        def method(self) -> str:
            return "SPICE"

    driving.Spice = Nothing
    told = Annotations({n: (text,) for n, text in captions.items()})
    driving.COCOEvalCap(Annotations(references), told).evaluate()


def main() -> None:
    """Time both and print the ratio."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--images", type=int, default=5000)
    n = parser.parse_args().images
    if package() is None or java() is None:
        print(f"not measured: {MISSING if package() is None else no_java('METEOR')}")
        return
    rng = np.random.default_rng(0)
    references = {i: tuple(sentence(rng) for _ in range(5)) for i in range(n)}
    captions = {i: sentence(rng) for i in range(n)}
    images = [CaptionedImage(str(i), texts, str(i)) for i, texts in references.items()]
    scorer = CaptionScores()
    scorer.prepare()
    first, second = (seconds(lambda: scorer(captions, images)) for _ in range(2))
    theirs = seconds(lambda: driver(references, captions))
    print(f"{n} images: first epoch {first:.1f} s, later ones {second:.1f} s; the driver {theirs:.1f} s")
    print(f"ratio {second / theirs:.2f} (goal: at most 0.5)")


if __name__ == "__main__":
    main()
