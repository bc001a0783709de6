"""What the runs of each task said to the test examples, read from their folders and told in words.

Retrieval: the text put first for an image. Captioning: the caption. VQA: the answer. Classification: the class.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from vlp_bench.data.datasets.captioning import CaptioningData
from vlp_bench.data.datasets.classification import ClassificationData
from vlp_bench.data.datasets.questions import QuestionData
from vlp_bench.data.datasets.retrieval import RetrievalData
from vlp_bench.results.examples import Arrays

HALF = 50.0  # per cent: an answer that half of the people gave is right
CAPTIONS = ("truth", "cider", "cider_regex")  # what says whether a caption is right, the best first


class Pictures(Protocol):
    """Opens the images of a data set by their keys."""

    def open(self, key: str) -> Image.Image: ...


@dataclass(frozen=True)
class Answers:
    """What a run said to each of n examples, and how good that was: (n,), larger is better, right from `least` on.

    `least` is None where nothing is right or wrong, only better or worse (CIDEr).
    """

    said: Sequence[str]
    value: np.ndarray
    least: float | None


@dataclass(frozen=True)
class Examples:
    """The test examples in order: image, what is right and, in VQA, the question."""

    pictures: Pictures
    images: Sequence[str]
    right: Sequence[str]
    asked: Sequence[str]
    words: Sequence[str] = ()  # texts or classes that runs name by number

    def answers(self, arrays: Arrays, folder: Path) -> Answers | None:
        """Of the run in `folder`; None where it kept none.

        Raises:
            ValueError: it saw other examples.
        """
        found = _answers(arrays, folder, self.words)
        if found is not None and not len(found.said) == len(found.value) == len(self.images):
            raise ValueError(f"the runs saw {len(found.value)} examples, the data set has {len(self.images)}")
        return found


def examples_of(data: Any) -> Examples:
    """The test examples of a task's data; ValueError where no gallery shows them (pairs of images)."""
    right, asked, words = [], None, ()
    if isinstance(data, QuestionData):
        split = data.source.questions("test")
        right = [Counter(q.answers).most_common(1)[0][0] if q.answers else "" for q in split.records]
        asked = [q.question for q in split.records]
    elif isinstance(data, ClassificationData):
        split, words = data.source.labelled("test"), data.classes
        right = [words[record.label] for record in split.records]
    elif isinstance(data, CaptioningData | RetrievalData):
        tested = data.tested if isinstance(data, CaptioningData) else None
        split = (tested or data.source).captions("test")
        right = [record.captions[0] for record in split.records]
        words = [caption for record in split.records for caption in record.captions]
    else:
        raise ValueError(f"none is made of {type(data).__name__}")
    return Examples(split.images, [record.image for record in split.records], right, asked or [""] * len(right), words)


def _answers(arrays: Arrays, folder: Path, words: Sequence[str]) -> Answers | None:
    if "txt_first" in arrays:
        if len(arrays["text_image"]) != len(words):
            raise ValueError(f"the runs saw {len(arrays['text_image'])} texts, the data set has {len(words)}")
        return Answers([words[int(i)] for i in arrays["txt_first"]], -arrays["txt_rank"].astype(float), 0.0)
    if "predicted" in arrays:
        return Answers([words[int(i)] for i in arrays["predicted"]], arrays["accuracy"], HALF)
    if "accuracy" in arrays and (said := _told(folder / "answers.json", "answer")):
        return Answers(said, arrays["accuracy"], HALF)
    metric = next((name for name in CAPTIONS if name in arrays), None)
    if metric is not None and (said := _told(folder / "captions.json", "caption")):
        return Answers(said, arrays[metric], HALF if metric == "truth" else None)
    return None


def _told(file: Path, key: str) -> list[str]:
    """What a result file for a server says, in the order of the examples; ValueError if it is broken."""
    if not file.is_file():
        return []
    try:
        return [str(row[key]) for row in json.loads(file.read_text(encoding="utf-8"))]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{file} cannot be read ({error}); compute the run again with force=true") from error
