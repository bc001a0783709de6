"""Questions answered in words: gathered from all processes, scored by the data set's rule, kept for the server."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Unpack, cast

import torch
from torch import Tensor, nn

from vlp_bench.batch import Batch
from vlp_bench.data.records import Question
from vlp_bench.metrics.lemmas import lemmatiser
from vlp_bench.metrics.vqa import RULES, accuracy, breakdown, exact, majority
from vlp_bench.tasks.finetuning import FineTuning, Shared
from vlp_bench.tasks.gathering import Gathered, write_json

SCORES = (*RULES, "exact")


class Asker(Protocol):
    """What such a task asks of its data."""

    def asked(self, split: str) -> Sequence[Question]:
        """The questions of "train", "val" or "test"; `Batch.idx` counts them."""
        ...


class Answering(FineTuning):
    """Logs the accuracy of answers by question and answer type. Subclasses say what is answered to a batch.

    Args:
        model, shared: see `FineTuning`.
        score: "official" or "released" (see `metrics.vqa.accuracy`), or "exact" (GQA).
        lemmas: whether `accuracy_lemmas` is logged too: nouns and verbs of predictions are lemmatised first, by spaCy,
            as OK-VQA's published numbers are (LAVIS). Without spaCy it is said not to be computed.

    Raises:
        ValueError: there is no such score.
    """

    HEADLINES = ("accuracy", "accuracy_lemmas", "majority")
    MONITOR = "accuracy"
    LEGEND = "in % (majority: the commonest training answer of each question type)"

    def __init__(
        self, model: nn.Module, *, score: str = "official", lemmas: bool = False, **shared: Unpack[Shared]
    ) -> None:
        if score not in SCORES:
            raise ValueError(f"score must be one of {', '.join(SCORES)}, got {score!r}")
        super().__init__(model, **shared)
        self.score, self.lemmas = score, lemmas
        self.examples: dict[str, Tensor] = {}
        self._gathered = Gathered[str]()

    def answers_to(self, batch: Batch) -> list[str]:
        """An answer to every question of a batch."""
        raise AssertionError("a task with questions answers them")

    @property
    def asker(self) -> Asker:
        return cast(Asker, self.trainer.datamodule)  # pyright: ignore[reportAttributeAccessIssue]

    def on_validation_epoch_start(self) -> None:
        self._gathered = Gathered()

    def on_test_epoch_start(self) -> None:
        self._gathered = Gathered()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._answer(batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._answer(batch)

    def _answer(self, batch: Batch) -> None:
        assert batch.idx is not None, "an evaluation batch says which questions it holds"
        self._gathered.add(batch.idx.tolist(), self.answers_to(batch))

    def on_validation_epoch_end(self) -> None:
        self._log_metrics("val")

    def on_test_epoch_end(self) -> None:
        self._log_metrics("test")

    def _log_metrics(self, split: str) -> None:
        predicted, asked = self._gathered.whole(), self.asker.asked(split)
        if split == "test" and self.trainer.is_global_zero:
            write_answers(Path(self.trainer.default_root_dir) / "answers.json", asked, predicted)
        if not all(question.answers for question in asked):
            self.notes["accuracy"] = "not computed: the questions have no answers; answers.json goes to the server"
            return
        scores = [self._score(predicted[n], question) for n, question in enumerate(asked)]
        metrics = breakdown(scores, [q.question_type for q in asked], [q.answer_type for q in asked])
        if split == "test":
            self.examples = {"accuracy": 100 * torch.tensor(scores)}
        metrics |= self._with_lemmas(predicted, asked) | self.baselines(asked)
        self.log_dict({f"{split}/{name}": value for name, value in metrics.items()}, rank_zero_only=False)

    def _score(self, answer: str, question: Question) -> float:
        if self.score == "exact":
            return exact(answer, question.answers)
        return accuracy(answer, question.answers, rule=self.score)

    def _with_lemmas(self, predicted: Mapping[int, str], asked: Sequence[Question]) -> dict[str, float]:
        if not self.lemmas:
            return {}
        found = lemmatiser()
        if isinstance(found, str):
            self.notes["accuracy_lemmas"] = f"not computed: {found}"
            return {}
        told = found([predicted[n] for n in range(len(asked))])
        scores = [self._score(answer, question) for answer, question in zip(told, asked, strict=True)]
        return {"accuracy_lemmas": 100 * sum(scores) / len(scores)}

    def baselines(self, asked: Sequence[Question]) -> dict[str, float]:
        """`majority`: accuracy in percent of the answer most often given in training to questions of the same type."""
        usual = majority((q.question_type, q.answers) for q in self.asker.asked("train"))
        scores = [self._score(usual.get(q.question_type, usual[""]), q) for q in asked]
        return {"majority": 100 * sum(scores) / len(scores)}


def write_answers(file: Path, asked: Sequence[Question], predicted: Mapping[int, str]) -> None:
    """The result file of the evaluation server (EvalAI): `[{"question_id": ..., "answer": ...}, ...]`."""
    rows: list[dict[str, Any]] = [{"question_id": q.question_id, "answer": predicted[n]} for n, q in enumerate(asked)]
    write_json(file, rows)
