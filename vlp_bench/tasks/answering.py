"""Questions answered in words: scored by the data set's rule, kept for the server."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Unpack, cast

from torch import Tensor, nn

from vlp_bench.batch import Batch
from vlp_bench.data.records import Question
from vlp_bench.metrics.vqa import SCORES, VQAAccuracy, majority_accuracy
from vlp_bench.tasks.finetuning import FineTuning, FineTuningArguments
from vlp_bench.tasks.result_file import write_json


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
        self, model: nn.Module, *, score: str = "official", lemmas: bool = False, **shared: Unpack[FineTuningArguments]
    ) -> None:
        if score not in SCORES:
            raise ValueError(f"score must be one of {', '.join(SCORES)}, got {score!r}")
        super().__init__(model, **shared)
        self.score, self.lemmas = score, lemmas
        self.examples: dict[str, Tensor] = {}

    @classmethod
    def check(cls, data: Any, *, trained: bool, **arguments: Any) -> None:
        """ValueError for questions without answers in training and validation, or in a part of the test split."""
        for split in ("train", "val", "test") if trained else ("test",):
            asked = data.asked(split)
            silent = [question for question in asked if not question.answers]
            if silent and (split != "test" or len(silent) < len(asked)):
                raise ValueError(
                    f"{len(silent)} of {len(asked)} questions of the {split} split have no answers, the first is "
                    f"question_id {silent[0].question_id}: give their answers, or leave them out"
                )

    def answers_to(self, batch: Batch) -> list[str]:
        """An answer to every question of a batch."""
        raise AssertionError("a task with questions answers them")

    @property
    def asker(self) -> Asker:
        return cast(Asker, self.trainer.datamodule)  # pyright: ignore[reportAttributeAccessIssue]

    def _start(self, split: str) -> None:
        questions = self.asker.asked(split)
        self.metric = VQAAccuracy(questions, score=self.score, lemmas=self.lemmas).to(self.device)

    def on_validation_epoch_start(self) -> None:
        self._start("val")

    def on_test_epoch_start(self) -> None:
        self._start("test")

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._answer(batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._answer(batch)

    def _answer(self, batch: Batch) -> None:
        assert batch.idx is not None, "an evaluation batch says which questions it holds"
        self.metric.update(batch.idx, self.answers_to(batch))

    def on_validation_epoch_end(self) -> None:
        self._log_metrics("val")

    def on_test_epoch_end(self) -> None:
        predicted = self.metric.predictions()
        if self.trainer.is_global_zero:
            folder = Path(self.trainer.default_root_dir)
            write_answers(folder / "answers.json", self.metric.questions, predicted)
        self._log_metrics("test")
        self.examples = {"accuracy": self.metric.examples} if len(self.metric.examples) else {}

    def _log_metrics(self, split: str) -> None:
        asked = self.metric.questions
        if not all(question.answers for question in asked):
            self.notes["accuracy"] = "not computed: the questions have no answers; answers.json goes to the server"
            return
        values = self.metric.compute() | self.baselines(asked)
        self.notes = dict(self.metric.notes)
        self.log_of_all(split, values)

    def baselines(self, asked: Sequence[Question]) -> dict[str, Any]:
        """`majority`: accuracy in percent of the answer most often given in training to questions of the same type."""
        return {"majority": majority_accuracy(self.asker.asked("train"), asked, self.score)}


def write_answers(file: Path, asked: Sequence[Question], predicted: Mapping[int, str]) -> None:
    """The result file of the evaluation server (EvalAI): `[{"question_id": ..., "answer": ...}, ...]`."""
    rows: list[dict[str, Any]] = [{"question_id": q.question_id, "answer": predicted[n]} for n, q in enumerate(asked)]
    write_json(file, rows)
