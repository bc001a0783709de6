"""What a scorer of captions returns, and what several return together."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from vlp_bench.data.records import CaptionedImage


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
        said = scorer(captions, images)
        whole = Scores(whole.values | said.values, whole.examples | said.examples, whole.notes | said.notes)
    for domain in sorted({image.domain for image in images if image.domain}):
        own = [n for n, image in enumerate(images) if image.domain == domain]
        told, seen = {place: captions[n] for place, n in enumerate(own)}, [images[n] for n in own]
        for scorer in scorers:
            whole.values.update({f"{domain}/{name}": value for name, value in scorer(told, seen).values.items()})
    return whole
