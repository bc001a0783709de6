"""Visual question answering: prune once, learn to write people's answers, rank a list of answers in evaluation."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Unpack, cast

import torch
from torch import Tensor, nn

from vlp_bench.batch import Batch
from vlp_bench.data.records import Question
from vlp_bench.metrics.vqa import RULES, accuracy, breakdown, exact, majority
from vlp_bench.models.vqa import Answers, VQAModel
from vlp_bench.tasks.finetuning import FineTuning, Shared
from vlp_bench.tasks.gathering import Gathered, write_json

SCORES = (*RULES, "exact")


class Questions(Protocol):
    """What the task asks of its data."""

    def asked(self, split: str) -> Sequence[Question]:
        """The questions of "train", "val" or "test"; `Batch.idx` counts them."""
        ...

    def candidates(self) -> tuple[list[str], Tensor, Tensor]:
        """The answers to rank, their ids (c, t) and attention (c, t)."""
        ...


class VQA(FineTuning):
    """Fine-tunes a VQAModel and logs the soft accuracy by question and answer type, and that of majority answers.

    Args:
        model, shared: see `FineTuning`; `becomes` makes the VQAModel.
        k_test: answers, by their first word, that are ranked as a whole; cut to the list.
        pairs: question-answer pairs ranked at a time; bounds memory.
        score: "official" or "released" (see `metrics.vqa.accuracy`), or "exact" (GQA).
        mask_decoder: whether weights of the answer decoder stay pruned that were copied from pruned ones. XVLM's
            decoder is a second copy of its fusion layers; the released code lets that copy regrow unless told.

    Raises:
        ValueError: an argument is out of its range.
    """

    HEADLINES = ("accuracy", "majority")
    MONITOR = "accuracy"
    LEGEND = "in % (majority: the commonest training answer of each question type)"
    model: VQAModel

    def __init__(
        self,
        model: nn.Module,
        *,
        k_test: int = 128,
        pairs: int = 512,
        score: str = "official",
        mask_decoder: bool = True,
        **shared: Unpack[Shared],
    ) -> None:
        for name, value in (("k_test", k_test), ("pairs", pairs)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if score not in SCORES:
            raise ValueError(f"score must be one of {', '.join(SCORES)}, got {score!r}")
        super().__init__(model, **shared)
        self.k_test, self.pairs, self.score, self.mask_decoder = k_test, pairs, score, mask_decoder
        self.examples: dict[str, Tensor] = {}
        self._gathered = Gathered[str]()

    def heirs(self, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found = super().heirs(masks)
        return {n: m for n, m in found.items() if self.mask_decoder or not n.startswith("text_decoder.")}

    def losses(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        ids, atts, counts, weights = batch.answer_ids, batch.answer_atts, batch.answer_counts, batch.answer_weights
        assert ids is not None and atts is not None and counts is not None and weights is not None  # noqa: PT018
        assert batch.text_ids is not None and batch.text_atts is not None  # noqa: PT018
        answers = Answers(ids, atts, counts, weights)
        return self.model.vqa_losses(batch.images, batch.text_ids, batch.text_atts, answers)

    # Evaluation

    @property
    def questions(self) -> Questions:
        return cast(Questions, self.trainer.datamodule)  # pyright: ignore[reportAttributeAccessIssue]

    def on_validation_epoch_start(self) -> None:
        self._begin()

    def on_test_epoch_start(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._gathered = Gathered()
        self.answers, ids, atts = self.questions.candidates()
        self._candidates = (ids.to(self.device), atts.to(self.device))

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._answer(batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._answer(batch)

    def _answer(self, batch: Batch) -> None:
        assert batch.text_ids is not None and batch.idx is not None  # noqa: PT018
        states = self.model.read(batch.text_ids, batch.text_atts, self.model.encode_image(batch.images))
        rows, _ = self.model.rank(states, batch.text_atts, *self._candidates, self.k_test, pairs=self.pairs)
        best = rows[:, 0].tolist()
        self._gathered.add(batch.idx.tolist(), [self.answers[row] for row in best])

    def on_validation_epoch_end(self) -> None:
        self._log_metrics("val")

    def on_test_epoch_end(self) -> None:
        self._log_metrics("test")

    def _log_metrics(self, split: str) -> None:
        predicted, asked = self._gathered.whole(), self.questions.asked(split)
        if split == "test" and self.trainer.is_global_zero:
            write_answers(Path(self.trainer.default_root_dir) / "answers.json", asked, predicted)
        if not all(question.answers for question in asked):
            self.notes["accuracy"] = "not computed: the questions have no answers; answers.json goes to the server"
            return
        scores = [self._score(predicted[n], question) for n, question in enumerate(asked)]
        metrics = breakdown(scores, [q.question_type for q in asked], [q.answer_type for q in asked])
        if split == "test":
            self.examples = {"accuracy": 100 * torch.tensor(scores)}
        metrics["majority"] = self._majority(asked)
        self.log_dict({f"{split}/{name}": value for name, value in metrics.items()}, rank_zero_only=False)

    def _score(self, answer: str, question: Question) -> float:
        if self.score == "exact":
            return exact(answer, question.answers)
        return accuracy(answer, question.answers, rule=self.score)

    def _majority(self, asked: Sequence[Question]) -> float:
        """Accuracy in percent of the answer most often given in training to questions of the same type."""
        usual = majority((q.question_type, q.answers) for q in self.questions.asked("train"))
        scores = [self._score(usual.get(q.question_type, usual[""]), q) for q in asked]
        return 100 * sum(scores) / len(scores)


def write_answers(file: Path, asked: Sequence[Question], predicted: Mapping[int, str]) -> None:
    """The result file of the evaluation server (EvalAI): `[{"question_id": ..., "answer": ...}, ...]`."""
    rows: list[dict[str, Any]] = [{"question_id": q.question_id, "answer": predicted[n]} for n, q in enumerate(asked)]
    write_json(file, rows)
