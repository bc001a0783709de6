"""What several scorers say of generated captions: `score` of all captions at hand, `CaptionMetrics` over processes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from vlp_bench import processes
from vlp_bench.data.records import CaptionedImage
from vlp_bench.metrics.example_metric import TextMetric


@dataclass(frozen=True)
class Scores:
    """Values by metric; `examples`: (images,) their values of single images; `notes`: why a metric is not there."""

    values: dict[str, float]
    examples: dict[str, list[float]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)


class CaptionScorer(Protocol):
    """Compares captions with images and what people said of them."""

    def prepare(self) -> None:
        """Start what takes long to start, before it is needed."""
        ...

    def names(self, images: Sequence[CaptionedImage]) -> Sequence[str]:
        """The metrics it computes of captions of such images."""
        ...

    def __call__(self, captions: Mapping[int, str], images: Sequence[CaptionedImage]) -> Scores:
        """One caption for every image, by its place in `images`."""
        ...


def score(scorers: Iterable[CaptionScorer], captions: Mapping[int, str], images: Sequence[CaptionedImage]) -> Scores:
    """What all scorers say of one caption for every image, by its place in `images`.

    Where images have domains (NoCaps), each domain is scored by itself too: `in-domain/cider`, ... Its words are
    weighed by that domain alone.
    """
    scorers, whole = list(scorers), Scores({})
    for scorer in scorers:
        scores = scorer(captions, images)
        whole = Scores(whole.values | scores.values, whole.examples | scores.examples, whole.notes | scores.notes)
    for domain in sorted({image.domain for image in images if image.domain}):
        places = [n for n, image in enumerate(images) if image.domain == domain]
        of_domain = {place: captions[n] for place, n in enumerate(places)}, [images[n] for n in places]
        for scorer in scorers:
            scores = scorer(*of_domain)
            whole.values.update({f"{domain}/{name}": value for name, value in scores.values.items()})
            whole.notes.update({f"{domain}/{n}": why for n, why in scores.notes.items() if n not in whole.notes})
    return whole


class CaptionMetrics(TextMetric):
    """What scorers say of one caption for every image of a split, over all processes; the main one asks the scorers.

    Args:
        images: the split; example n is `images[n]`.
        scorers: compare captions with references, such as `vlp_bench.metrics.captions.CaptionScores`.

    After `compute`, `captions` has the caption of every image; on the main process `scores` has the values of single
    images, and why a metric is not there.

    >>> import torch
    >>> from vlp_bench.data.records import CaptionedImage
    >>> from vlp_bench.metrics import CaptionMetrics
    >>> from vlp_bench.metrics.captions import CaptionScores
    >>> images = [CaptionedImage("1.jpg", ("a dog on a sofa",), "1"), CaptionedImage("2.jpg", ("a red car",), "2")]
    >>> metric = CaptionMetrics(images, [CaptionScores(tokenizer="regex", meteor=False)])
    >>> metric.update(torch.tensor([0, 1]), ["a dog on a sofa", "a red car"])
    >>> metric.compute()["bleu1_regex"]
    tensor(100.)
    """

    def __init__(self, images: Sequence[CaptionedImage], scorers: Iterable[CaptionScorer]) -> None:
        super().__init__()
        self.images, self.scorers = images, list(scorers)
        self.captions: dict[int, str] = {}
        self.scores = Scores({})

    def update(self, numbers: Tensor, captions: Sequence[str]) -> None:
        """The captions of the images `numbers` (b,)."""
        self.keep_texts(numbers, captions)

    def compute(self) -> dict[str, Tensor]:
        """All values by metric, float32; see `score`. ValueError if an image has no caption."""
        self.captions = dict(enumerate(self.needed(len(self.images), "images")))
        if processes.is_main():  # METEOR needs a process and memory of its own
            self.scores = score(self.scorers, self.captions, self.images)
        return self.tensors(processes.from_main(self.scores.values))
