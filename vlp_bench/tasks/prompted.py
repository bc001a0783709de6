"""Zero-shot tasks of a model that answers in words (BLIP-2): prune once, ask, measure; nothing is trained."""

from collections.abc import Sequence
from typing import Any, Protocol, Unpack, cast

import torch
from torch import Tensor, nn

from vlp_bench.batch import Batch
from vlp_bench.data.records import Question
from vlp_bench.metrics.caption_scores import CaptionScorer
from vlp_bench.models.blip2.model import BLIP2
from vlp_bench.tasks.answering import Answering, Asker
from vlp_bench.tasks.captioning import Captioning
from vlp_bench.tasks.finetuning import FineTuningArguments

UNTRAINED = "this task is zero-shot, nothing of it can be trained: set recipe.epochs=0"


class Prompter(Asker, Protocol):
    """What the task asks of its data: questions in prompts."""

    def words(self, ids: Tensor) -> list[str]:
        """(b, t) generated ids -> answers."""
        ...


class PromptedVQA(Answering):
    """Answers questions with what the language model says after a prompt, by beam search.

    Args:
        model, score, lemmas, shared: see `Answering`.
        beams, max_new, length_penalty: of generation; BLIP-2's published numbers prefer short answers (-1), and as in
            LAVIS an answer may be empty: its shortest length, 1, counts the token a decoder starts from.
    """

    HEADLINES = ("accuracy", "accuracy_lemmas")
    LEGEND = "in %"
    model: BLIP2

    def __init__(
        self,
        model: nn.Module,
        *,
        score: str = "official",
        lemmas: bool = False,
        beams: int = 5,
        max_new: int = 10,
        length_penalty: float = -1.0,
        **shared: Unpack[FineTuningArguments],
    ) -> None:
        check_lengths(beams=beams, max_new=max_new)
        super().__init__(model, score=score, lemmas=lemmas, **shared)
        self.settings = {"num_beams": beams, "max_new_tokens": max_new, "min_length": 1}
        self.length_penalty = length_penalty

    def losses(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        raise ValueError(UNTRAINED)

    def answers_to(self, batch: Batch) -> list[str]:
        assert batch.text_ids is not None and batch.text_atts is not None  # noqa: PT018
        ids = self.model.generate(
            batch.images, batch.text_ids, batch.text_atts, length_penalty=self.length_penalty, **self.settings
        )
        return cast(Prompter, self.asker).words(ids)

    def baselines(self, asked: Sequence[Question]) -> dict[str, Any]:
        """None: there is no training set."""
        return {}


class PromptedCaptioning(Captioning):
    """Describes images with what the language model says after a prompt, by beam search.

    Args:
        model, scorers, best, shared: see `Captioning`; `task_model` may put another bridge between image and words.
        beams, max_new, min_length: of generation; `min_length` counts the token a decoder starts from, as LAVIS does.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        scorers: Sequence[CaptionScorer],
        best: str = "cider",
        beams: int = 5,
        max_new: int = 30,
        min_length: int = 8,
        **shared: Unpack[FineTuningArguments],
    ) -> None:
        check_lengths(beams=beams, max_new=max_new, min_length=min_length)
        super().__init__(model, scorers=scorers, best=best, **shared)
        self.settings = {"num_beams": beams, "max_new_tokens": max_new, "min_length": min_length}

    def losses(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        raise ValueError(UNTRAINED)

    def described_by(self, images: Tensor) -> Tensor:
        prompt = self.pictures.prompted(len(images)).to(self.device)
        model: BLIP2 = self.model  # pyright: ignore[reportAssignmentType]
        return model.generate(images, prompt, torch.ones_like(prompt), **self.settings)


def check_lengths(**counts: int) -> None:
    """Raise ValueError for a length or number of beams below 1."""
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} must be at least 1, got {count}")
