"""Questions about images, and captions, by what a model says after a prompt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from transformers import PreTrainedModel

from vlp_bench.data.datasets.evaluated import CAPTIONS, QUESTIONS
from vlp_bench.data.readers.calibration_sets import opened
from vlp_bench.metrics.caption_scores import score as scored
from vlp_bench.metrics.captions import CaptionScores
from vlp_bench.metrics.vqa import SCORES, VQAAccuracy
from vlp_bench.models.foreign.generation import Generation, answers, continued
from vlp_bench.models.foreign.inputs import Inputs
from vlp_bench.tasks.foreign.task import Measured, Watch, check_counts, chunks, numbered

PLACE = "{}"
"""Where a prompt has its question."""
ASKED_IN_CHAT = "{}\nAnswer the question using a single word or phrase."
ASKED = "Question: {} Short answer:"
DESCRIBED_IN_CHAT = "Provide a one-sentence caption for the provided image."
DESCRIBED = "a photo of"
SPEAKERS = "BLIP-2, LLaVA, Qwen-VL, SmolVLM and others that say words about an image"


@dataclass(frozen=True)
class Speaking:
    """What both tasks are told.

    Args:
        prompt: what is said beside the image; for questions with {} in the place of the question; null: as the model
            was trained, by whether it has a chat template.
        beams, max_new, length_penalty: see `Generation`.
        batch_size: images at a time.
    """

    NEEDS: ClassVar[str] = SPEAKERS
    prompt: str | None = None
    beams: int = 1
    max_new: int = 10
    length_penalty: float = 1.0
    batch_size: int = 8

    def __post_init__(self) -> None:
        check_counts(batch_size=self.batch_size)
        self.how  # noqa: B018

    @property
    def how(self) -> Generation:
        return Generation(self.beams, self.max_new, self.length_penalty)

    def fits(self, model: PreTrainedModel) -> bool:
        return answers(model)

    def said(
        self, model: PreTrainedModel, inputs: Inputs, data: Any, prompts: Sequence[str], watch: Watch
    ) -> Iterator[tuple[int, list[str]]]:
        """The number of the first example of each batch, and what is said to its examples."""
        pairs = list(zip(data.records, prompts, strict=True))
        for first, part in numbered(watch(chunks(pairs, self.batch_size), "examples")):
            images = [opened(data.images, record.image) for record, _ in part]
            ids = continued(model, inputs.prompts(images, [prompt for _, prompt in part]), self.how)
            texts = inputs.processor.tokenizer.batch_decode(ids, skip_special_tokens=True)
            yield first, [text.strip() for text in texts]


@dataclass(frozen=True)
class SpokenAnswers(Speaking):
    """Accuracy of short answers, as the VQA server counts it.

    Args:
        score: official, released or exact (GQA), see `metrics.vqa`.
        lemmas: OK-VQA's accuracy of lemmas as well; needs spaCy.
    """

    READS: ClassVar[str] = QUESTIONS
    score: str = "official"
    lemmas: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.score not in SCORES:
            raise ValueError(f"task.score={self.score}: use one of {', '.join(SCORES)}")
        if self.prompt is not None and PLACE not in self.prompt:
            raise ValueError(f"task.prompt={self.prompt!r}: it needs {PLACE} where the question comes, as in {ASKED!r}")

    def measure(self, model: PreTrainedModel, inputs: Inputs, data: Any, watch: Watch) -> Measured:
        asked = self.prompt or (ASKED_IN_CHAT if inputs.chats else ASKED)
        prompts = [asked.replace(PLACE, question.question) for question in data.records]
        metric = VQAAccuracy(data.records, score=self.score, lemmas=self.lemmas)
        listed: list[dict[str, Any]] = []
        for first, texts in self.said(model, inputs, data, prompts, watch):
            metric.update(torch.arange(first, first + len(texts)), texts)
            own = zip(data.records[first:], texts, strict=False)
            listed += [{"question_id": q.question_id, "answer": text} for q, text in own]
        values = {name: float(value) for name, value in metric.compute().items()}
        return Measured(values, dict(metric.notes), listed)


@dataclass(frozen=True)
class SpokenCaptions(Speaking):
    """Captions against people's: CIDEr, BLEU, ROUGE-L.

    Args:
        tokenizer: ptb (the papers'; needs Java) or regex, see `metrics.captions`.
        meteor: METEOR too; needs Java.
    """

    READS: ClassVar[str] = CAPTIONS
    max_new: int = 30
    tokenizer: str = "ptb"
    meteor: bool = False

    def measure(self, model: PreTrainedModel, inputs: Inputs, data: Any, watch: Watch) -> Measured:
        scorer = CaptionScores(tokenizer=self.tokenizer, meteor=self.meteor)
        asked = self.prompt or (DESCRIBED_IN_CHAT if inputs.chats else DESCRIBED)
        prompts = [asked] * len(data.records)
        captions: dict[int, str] = {}
        for first, texts in self.said(model, inputs, data, prompts, watch):
            captions |= dict(enumerate(texts, first))
        found = scored([scorer], captions, data.records)
        listed = [{"image_id": r.image_id, "caption": captions[n]} for n, r in enumerate(data.records)]
        return Measured(found.values, found.notes, listed)
