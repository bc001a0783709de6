"""Questions and images for a model that is asked in words and answers in words, untrained (BLIP-2): zero-shot tasks."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Unpack

import torch
from torch import Tensor

from vlp_bench.batch import Batch
from vlp_bench.data.datasets.captioning import CaptioningData, CaptionSource
from vlp_bench.data.datasets.questions import Asked, QuestionData, QuestionSource
from vlp_bench.data.datasets.retrieval import Shared
from vlp_bench.data.text import Tokenizer

QUESTION, PICTURE = "Question: {} Short answer:", "a photo of"
"""BLIP-2's prompts of zero-shot questions and captions, in LAVIS's evaluations."""
_DELETED = re.compile(r"[.!\"()*#:;~]")


def kept_question(question: str, max_words: int) -> str:
    """LAVIS's cleaning of a question: lower case, some punctuation deleted (not "?", "," and hyphens), cut."""
    text = _DELETED.sub("", question.lower()).rstrip()
    words = text.split(" ")
    return text if len(words) <= max_words else " ".join(words[:max_words])


def said(language: Tokenizer, ids: Tensor) -> list[str]:
    """(b, t) generated ids -> texts without special tokens."""
    return [text.strip() for text in language.batch_decode(ids, skip_special_tokens=True)]


def speaker(language: Tokenizer | None) -> Tokenizer:
    """The tokenizer; ValueError if there is none."""
    if language is None:
        raise ValueError("data.language is null: a task with prompts needs the language model's tokenizer")
    return language


@dataclass(frozen=True)
class PromptCollate:
    """Questions -> Batch: each in a prompt, in a language model's tokens; `idx`: their places."""

    language: Tokenizer
    prompt: str
    max_words: int

    def __call__(self, items: Sequence[Asked]) -> Batch:
        texts = [self.prompt.replace("{}", kept_question(item.question, self.max_words)) for item in items]
        told = self.language(texts, return_tensors="pt", padding="longest")
        batch = Batch(torch.stack([item.image for item in items]), told["input_ids"], told["attention_mask"])
        batch.idx = torch.tensor([item.number for item in items])
        return batch


class PromptedQuestions(QuestionData):
    """Questions in a prompt; nothing is trained.

    Args:
        source: where questions and images come from.
        prompt: what is asked, with `{}` in the place of the question.
        test_words: see `QuestionData`.
        shared: see `TaskData`; `language` must be given.
    """

    def __init__(
        self, source: QuestionSource, *, prompt: str = QUESTION, test_words: int = 50, **shared: Unpack[Shared]
    ) -> None:
        if prompt.count("{}") != 1:
            raise ValueError(f"data.prompt has one {{}} for the question, got {prompt!r}")
        super().__init__(source, test_words=test_words, **shared)
        self.speaker, self.prompt = speaker(self.language), prompt

    def collate(self, max_words: int) -> PromptCollate:
        return PromptCollate(self.speaker, self.prompt, max_words)

    def words(self, ids: Tensor) -> list[str]:
        """(b, t) generated ids -> answers."""
        return said(self.speaker, ids)


class PromptedPictures(CaptioningData):
    """Images with a prompt that is continued; nothing is trained.

    Args:
        source: where captions and images come from.
        prompt: what a caption follows; it is no part of it.
        shared: see `TaskData`; `language` must be given.
    """

    def __init__(self, source: CaptionSource, *, prompt: str = PICTURE, **shared: Unpack[Shared]) -> None:
        super().__init__(source, prompt=prompt, **shared)
        self.speaker = speaker(self.language)

    def prompted(self, b: int) -> Tensor:
        """(b, t) ids of the prompt."""
        return self.speaker([self.prompt], return_tensors="pt")["input_ids"].expand(b, -1)

    def words(self, ids: Tensor) -> list[str]:
        """(b, t) generated ids -> captions."""
        return said(self.speaker, ids)
