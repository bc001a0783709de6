"""How well a language model knows what comes next: perplexity of a long text, and questions with four choices."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

from vlp_bench.data.datasets.evaluated import CORPUS, EXAM, Corpus, Exam
from vlp_bench.data.readers.corpus import LETTERS
from vlp_bench.data.records import MultipleChoice as Question
from vlp_bench.metrics.classification import class_ranks
from vlp_bench.models.foreign.inputs import Inputs
from vlp_bench.models.foreign.likelihood import Told, log_likelihoods, longest, reads_on
from vlp_bench.spelling import count_of
from vlp_bench.tasks.foreign.task import Measured, Watch, check_counts, chunks

WINDOW = 2048
"""Tokens that are read at once, as by SparseGPT, Wanda and MMLU's own code; fewer where a model has fewer places."""
READERS = "Llama, FlanT5 and others with a head of words that need no image"


def window_of(model: PreTrainedModel, asked: int | None) -> int:
    """How many tokens are read at once: what was asked, else WINDOW or what the model has places for.

    Raises:
        ValueError: the model has fewer places, or fewer than two are asked.
    """
    most = longest(model)
    window = min(WINDOW, most or WINDOW) if asked is None else asked
    if window < 2 or (most is not None and window > most):
        allowed = f"from 2 to the {most} that the model has places for" if most else "at least 2"
        raise ValueError(f"task.window={window}: expected a number of tokens, {allowed}")
    return window


@dataclass(frozen=True)
class Perplexity:
    """exp of the mean negative log-likelihood of a text's tokens, cut into windows.

    Without overlap (stride null) the first token of each window has no likelihood, and a last incomplete window is left
    out: SparseGPT's and Wanda's number. With a stride below the window each window begins `stride` tokens after the one
    before, and of all but the first only the last `stride` tokens count. An encoder-decoder's encoder reads the first
    half of a window, and the tokens of the second half count, which its decoder says.

    Args:
        window: tokens that are read at once; null: 2,048, or fewer where the model has no places for them.
        stride: tokens from one window to the next; null: the window.
        batch_size: windows at a time.
    """

    READS: ClassVar[str] = CORPUS
    NEEDS: ClassVar[str] = READERS
    window: int | None = None
    stride: int | None = None
    batch_size: int = 1

    def __post_init__(self) -> None:
        check_counts(batch_size=self.batch_size, **({} if self.stride is None else {"stride": self.stride}))

    def fits(self, model: PreTrainedModel) -> bool:
        return reads_on(model)

    def measure(self, model: PreTrainedModel, inputs: Inputs, data: Corpus, watch: Watch) -> Measured:
        both, window = bool(getattr(model.config, "is_encoder_decoder", False)), window_of(model, self.window)
        ids = inputs.ids(data.text, special=not both)
        told = windows(ids, window, self._stride(window, both), both=both)
        total, count = 0.0, 0
        for part in watch(chunks(told, self.batch_size), "windows"):
            found = torch.cat(log_likelihoods(model, part)).double()
            total, count = total - float(found.sum()), count + len(found)
        left = len(ids) - window - self._stride(window, both) * (len(told) - 1)
        unread = f"; the last {left:,} of the text are left out" if left else ""
        seen = f"{count_of(count, 'token')} in {count_of(len(told), 'window')} of {window}{unread}"
        return Measured({"perplexity": _exp(total / count)}, {"perplexity": seen})

    def _stride(self, window: int, both: bool) -> int:
        stride = window if self.stride is None else self.stride
        if stride > window or (both and stride != window):
            what = "an encoder-decoder's windows do not overlap" if both else f"the window has {window} tokens"
            raise ValueError(f"task.stride={stride}: {what}; leave it out, or give at most that")
        return stride


def _exp(value: float) -> float:
    """Infinite where no number is that large."""
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf


def windows(ids: Sequence[int], window: int, stride: int, *, both: bool) -> list[Told]:
    """What is read and what is said in each window, see `Perplexity`.

    Raises:
        ValueError: the text is shorter than a window.
    """
    if len(ids) < window:
        raise ValueError(f"the text has {len(ids)} tokens, less than a window: set task.window={len(ids)} or less")
    starts = range(0, len(ids) - window + 1, stride)
    cuts = [1 if start == 0 else max(1, window - stride) for start in starts]
    cuts = [window // 2] * len(cuts) if both else cuts
    rows = [tuple(ids[start : start + window]) for start in starts]
    return [Told(row[:cut], row[cut:]) for row, cut in zip(rows, cuts, strict=True)]


@dataclass(frozen=True)
class MultipleChoice:
    """MMLU: the letter that is likeliest after "Answer:", with a few answered questions of the subject before it.

    A decoder reads all in one row; of an encoder-decoder the encoder reads the prompt and the decoder says the letter.
    Values: `accuracy` over all questions, `subjects` the mean of the subjects', `subject/NAME` of each.

    Args:
        shots: answered questions before each; fewer where they don't fit into the window.
        window: tokens that are read at once, see `Perplexity`.
        batch_size: questions at a time.
    """

    READS: ClassVar[str] = EXAM
    NEEDS: ClassVar[str] = READERS
    shots: int = 5
    window: int | None = None
    batch_size: int = 4

    def __post_init__(self) -> None:
        check_counts(batch_size=self.batch_size)
        if self.shots < 0:
            raise ValueError(f"task.shots={self.shots}: at least 0 is needed")

    def fits(self, model: PreTrainedModel) -> bool:
        return reads_on(model)

    def measure(self, model: PreTrainedModel, inputs: Inputs, data: Exam, watch: Watch) -> Measured:
        told = _Letters(inputs, bool(getattr(model.config, "is_encoder_decoder", False)), window_of(model, self.window))
        before = self._before(data)
        asked = [told.after(question, before[question.subject]) for question in data.records]
        found: list[Tensor] = []
        for part in watch(chunks(asked, self.batch_size), "questions"):
            single = log_likelihoods(model, [own for four in part for own in four])
            found.append(torch.stack([own.sum() for own in single]).view(-1, len(LETTERS)))
        return _marked(torch.cat(found), data.records)

    def _before(self, data: Exam) -> dict[str, list[Question]]:
        """The answered questions of each subject. ValueError where there are too few."""
        known: dict[str, list[Question]] = defaultdict(list)
        for example in data.examples:
            known[example.subject].append(example)
        for subject in dict.fromkeys(question.subject for question in data.records):
            if len(known[subject]) < self.shots:
                raise ValueError(
                    f"{subject} has {len(known[subject])} answered questions in dev/, {self.shots} are asked for: set "
                    f"task.shots={len(known[subject])}"
                )
        return {subject: own[: self.shots] for subject, own in known.items()}


def _marked(found: Tensor, questions: Sequence[Question]) -> Measured:
    """(q, 4) log-likelihoods -> accuracies. Of equal ones none is chosen."""
    right = class_ranks(found, torch.tensor([question.answer for question in questions])) < 0.5
    by_subject: dict[str, list[bool]] = defaultdict(list)
    for question, own in zip(questions, right.tolist(), strict=True):
        by_subject[question.subject].append(own)
    each = {f"subject/{name}": 100 * sum(own) / len(own) for name, own in by_subject.items()}
    mean = sum(each.values()) / len(each)
    said = [{"subject": q.subject, "answer": LETTERS[int(n)]} for q, n in zip(questions, found.argmax(1), strict=True)]
    return Measured({"accuracy": 100 * float(right.double().mean()), "subjects": mean, **each}, {}, said)


def written(question: Question, *, answered: bool) -> str:
    """A question as MMLU's own code writes it."""
    choices = "".join(f"\n{letter}. {choice}" for letter, choice in zip(LETTERS, question.choices, strict=True))
    end = f" {LETTERS[question.answer]}\n\n" if answered else ""
    return f"{question.question}{choices}\nAnswer:{end}"


def prompt(question: Question, before: Sequence[Question]) -> str:
    """What is read before the letter; two spaces stand before a subject, as in MMLU's own code."""
    subject = question.subject.replace("_", " ")
    head = f"The following are multiple choice questions (with answers) about  {subject}.\n\n"
    return "".join([head, *(written(own, answered=True) for own in before), written(question, answered=False)])


@dataclass(frozen=True)
class _Letters:
    """What is read, and each letter as it is said after it."""

    inputs: Inputs
    both: bool
    window: int

    def after(self, question: Question, before: Sequence[Question]) -> list[Told]:
        """One for each letter, with as many of the questions before as fit.

        Raises:
            ValueError: the question alone is too long, or its letters are not told apart.
        """
        for shots in range(len(before), -1, -1):
            found = self._after(prompt(question, before[:shots]))
            if all(len(own.read) + len(own.said) - 1 <= self.window for own in found):
                return found
        raise ValueError(
            f"a question of {question.subject} has {len(found[0].read)} tokens, the window {self.window}: raise "
            "task.window where the model has places"
        )

    def _after(self, text: str) -> list[Told]:
        read = tuple(self.inputs.ids(text, special=True))
        if self.both:
            said = [tuple(self.inputs.ids(letter, special=False)) for letter in LETTERS]
            found = [Told(read, own) for own in said]
        else:
            found = [self._continued(read, text, letter) for letter in LETTERS]
        if len({own.said for own in found}) < len(LETTERS) or not all(own.said for own in found):
            raise ValueError(f"the tokenizer of {self.inputs.folder} does not tell A, B, C and D apart after 'Answer:'")
        return found

    def _continued(self, read: tuple[int, ...], text: str, letter: str) -> Told:
        """The ids that a letter adds to a text; what both have in common is read."""
        whole = tuple(self.inputs.ids(f"{text} {letter}", special=True))
        same = next(
            (n for n, (a, b) in enumerate(zip(read, whole, strict=False)) if a != b), min(len(read), len(whole))
        )
        return Told(whole[:same], whole[same:])
