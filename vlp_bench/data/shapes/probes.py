"""Captions of the embedded world with one word hidden, sorted by the attribute that word names."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from transformers import BertTokenizer

from vlp_bench.batch import Batch
from vlp_bench.data.shapes.drawing import SIDE, draw
from vlp_bench.data.shapes.phrases import Phrase
from vlp_bench.data.shapes.scenes import ATTRIBUTES, Scene
from vlp_bench.data.text import IGNORED
from vlp_bench.data.transforms.images import Eval

Told = Sequence[tuple[Scene, list[Phrase]]]
Case = tuple[Scene, Phrase, int]
"""A scene, a caption true of it, and the position of the hidden word."""


def cases(told: Told, most: int) -> dict[str, list[Case]]:
    """Attribute -> up to `most` cases, spread over the scenes: every word that names the attribute is one."""
    found: dict[str, list[Case]] = {a: [] for a in ATTRIBUTES}
    for scene, phrases in told:
        for phrase in phrases:
            for at, tag in enumerate(phrase.tags):
                if tag in found:
                    found[tag].append((scene, phrase, at))
    return {a: listed[:: max(1, len(listed) // most)][:most] for a, listed in found.items()}


def batches(cases: Sequence[Case], tokenizer: BertTokenizer, size: int = 100) -> list[Batch]:
    """The cases as batches whose single masked position is the hidden word."""
    return [_batch(cases[i : i + size], tokenizer) for i in range(0, len(cases), size)]


def _batch(cases: Sequence[Case], tokenizer: BertTokenizer) -> Batch:
    rng = np.random.default_rng(0)  # the transform of evaluation draws nothing
    images = torch.stack([Eval(SIDE)(Image.fromarray(draw(scene)), rng) for scene, _, _ in cases])
    encoded = tokenizer([p.text for _, p, _ in cases], padding="longest", return_tensors="pt")
    ids, atts = encoded["input_ids"], encoded["attention_mask"]
    where = torch.tensor([[at + 1] for _, _, at in cases])  # one word is one token, after [CLS]
    mask = tokenizer.convert_tokens_to_ids("[MASK]")
    labels = ids.gather(1, where)
    assert (labels != IGNORED).all()
    return Batch(images, ids, atts, ids.scatter(1, where, mask), where, labels)
