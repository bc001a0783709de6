"""Visual question answering: prune once, learn to write people's answers, rank a list of answers in evaluation."""

from collections.abc import Mapping
from typing import Protocol, Unpack, cast

import torch
from torch import Tensor, nn

from vlp_bench.batch import Batch
from vlp_bench.models.vqa import Answers, VQAModel
from vlp_bench.tasks.answering import Answering, Asker
from vlp_bench.tasks.finetuning import FineTuningArguments


class Questions(Asker, Protocol):
    """What the task asks of its data."""

    def candidates(self) -> tuple[list[str], Tensor, Tensor]:
        """The answers to rank, their ids (c, t) and attention (c, t)."""
        ...


class VQA(Answering):
    """Fine-tunes a VQAModel and logs the soft accuracy by question and answer type, and that of majority answers.

    Args:
        model, score, lemmas, shared: see `Answering`; `task_model` makes the VQAModel.
        k_test: answers, by their first word, that are ranked as a whole; cut to the list.
        pairs: question-answer pairs ranked at a time; bounds memory.
        mask_decoder: whether weights of the answer decoder stay pruned that were copied from pruned ones. XVLM's
            decoder is a second copy of its fusion layers; the released code lets that copy regrow unless told.

    Raises:
        ValueError: an argument is out of its range.
    """

    model: VQAModel

    def __init__(
        self,
        model: nn.Module,
        *,
        k_test: int = 128,
        pairs: int = 512,
        score: str = "official",
        lemmas: bool = False,
        mask_decoder: bool = True,
        **shared: Unpack[FineTuningArguments],
    ) -> None:
        for name, value in (("k_test", k_test), ("pairs", pairs)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        super().__init__(model, score=score, lemmas=lemmas, **shared)
        self.k_test, self.pairs, self.mask_decoder = k_test, pairs, mask_decoder

    def task_masks(self, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        by_name = super().task_masks(masks)
        return {n: m for n, m in by_name.items() if self.mask_decoder or not n.startswith("text_decoder.")}

    def losses(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        ids, atts, counts, weights = batch.answer_ids, batch.answer_atts, batch.answer_counts, batch.answer_weights
        assert ids is not None and atts is not None and counts is not None and weights is not None  # noqa: PT018
        assert batch.text_ids is not None and batch.text_atts is not None  # noqa: PT018
        answers = Answers(ids, atts, counts, weights)
        return self.model.vqa_losses(batch.images, batch.text_ids, batch.text_atts, answers)

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        self._encode_candidates()

    def on_test_epoch_start(self) -> None:
        super().on_test_epoch_start()
        self._encode_candidates()

    def _encode_candidates(self) -> None:
        self.answers, ids, atts = cast(Questions, self.asker).candidates()
        self._candidates = (ids.to(self.device), atts.to(self.device))

    def answers_to(self, batch: Batch) -> list[str]:
        assert batch.text_ids is not None, "a batch of questions has texts"
        states = self.model.read(batch.text_ids, batch.text_atts, self.model.encode_image(batch.images))
        rows, _ = self.model.rank(states, batch.text_atts, *self._candidates, self.k_test, pairs=self.pairs)
        return [self.answers[row] for row in rows[:, 0].tolist()]
