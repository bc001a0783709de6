"""What records say twice: no fault of their form, but seldom meant."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from vlp_bench.data.readers.checked import MOST_NAMED
from vlp_bench.data.records import CaptionedImage, ImagePair, LabelledImage, Question, RegionImage


def repeated(records: Sequence[Any]) -> Iterator[str]:
    """One line for every kind of thing that is said twice, with how many there are and the first of them."""
    images = Counter(r.image for r in records if isinstance(r, CaptionedImage | RegionImage | LabelledImage))
    yield from listed("images are in more than one record", [image for image, n in images.items() if n > 1])
    captions = [(r.image, Counter(r.captions)) for r in records if isinstance(r, CaptionedImage)]
    twice = [f"{image}: {c!r}" for image, counted in captions for c, n in counted.items() if n > 1]
    yield from listed("captions are given twice to the same image", twice)
    asked = Counter((r.image, r.question) for r in records if isinstance(r, Question))
    yield from listed(
        "questions are asked twice of the same image", [f"{i}: {q!r}" for (i, q), n in asked.items() if n > 1]
    )
    yield from listed("questions have another number of answers than most", _answered_otherwise(records))
    regions = [(r.image, Counter(r.regions)) for r in records if isinstance(r, RegionImage)]
    twice = [f"{image}: {region.caption!r}" for image, counted in regions for region, n in counted.items() if n > 1]
    yield from listed("regions are described twice alike", twice)
    pairs = Counter((r.images, r.sentence) for r in records if isinstance(r, ImagePair))
    yield from listed("sentences are said twice of the same pair", [f"{s!r}" for (_, s), n in pairs.items() if n > 1])
    yield from listed("images or pairs have two labels", _contradicted(records))


def _answered_otherwise(records: Sequence[Any]) -> list[str]:
    """Questions of sets in which at least four of five have equally many answers, and these have not."""
    sizes: defaultdict[str, Counter[int]] = defaultdict(Counter)
    for r in records:
        if isinstance(r, Question):
            sizes[r.dataset][len(r.answers)] += 1
    usual = {name: counted.most_common(1)[0] for name, counted in sizes.items()}
    most = {name: size for name, (size, n) in usual.items() if n >= 0.8 * sizes[name].total()}
    return [
        str(r.question_id)
        for r in records
        if isinstance(r, Question) and len(r.answers) != most.get(r.dataset, len(r.answers))
    ]


def _contradicted(records: Sequence[Any]) -> list[str]:
    labels: defaultdict[str, set[Any]] = defaultdict(set)
    for r in records:
        if isinstance(r, LabelledImage):
            labels[r.image].add(r.label)
        elif isinstance(r, ImagePair):
            labels[f"{' and '.join(r.images)}: {r.sentence!r}"].add(r.label)
    return [what for what, given in labels.items() if len(given) > 1]


def listed(what: str, found: Sequence[str]) -> list[str]:
    """One line that says how many and which; none where there is nothing.

    `what` is said of several: 'records are wrong', 'images or pairs have two labels'.
    """
    if not found:
        return []
    shown = "; ".join(found[:MOST_NAMED])
    more = f"; and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
    return [f"{len(found)} {what if found[1:] else _of_one(what)}: {shown}{more}"]


def _of_one(what: str) -> str:
    """'record is wrong' of 'records are wrong'."""
    head, verb, rest = re.split(r" (are|have) ", what, maxsplit=1)
    alone = re.sub(r"(^|(?<= or ))([a-z]+)s", r"\2", head)
    return f"{alone} {'is' if verb == 'are' else 'has'} {rest}"
