"""Questions about images: where they come from, how they become batches, and which answers there are to rank."""

import hashlib
import logging
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, Unpack

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from transformers import BertTokenizer

from vlp_bench.batch import Batch
from vlp_bench.data.datasets.retrieval import CalibrationSource, Shared, TaskData
from vlp_bench.data.datasets.sources import ShapesRetrieval, Split
from vlp_bench.data.items import ImageSource, Transform, Where
from vlp_bench.data.loading import ResumableLoader
from vlp_bench.data.records import Question, said_in
from vlp_bench.data.shapes.drawn_once import drawn_once
from vlp_bench.data.shapes.world import World
from vlp_bench.data.text import make_tokenizer

_log = logging.getLogger(__name__)
_DELETED = re.compile(r"([,.'!?\"()*#:;~])")
_SIDES = ("left", "right")
ONE_ANSWER = {"vg": 0.5}
"""Weight of the single answer of a data set that has one, where it is not 1."""


class QuestionSource(CalibrationSource, Protocol):
    """A set of questions and what a model is calibrated on before it is pruned."""

    def questions(self, split: str) -> Split[Question]:
        """ "train", "val" or "test"."""
        ...

    def answers(self) -> Sequence[str]:
        """The answers that are ranked, each once."""
        ...


@drawn_once
def _drawn(world: int, split: str, n: int) -> tuple[Question, ...]:
    """Questions of the embedded world: half a second a thousand."""
    return tuple(World(world).questions(split, n))


class ShapesQuestions(ShapesRetrieval):
    """Questions in the embedded world, each about a scene of its own.

    What a model is calibrated on is that of retrieval, so that a mask serves both.

    Args:
        skip: questions that are drawn before the first of training; 0.1.0 took as many as validation has for
            validation's, by their numbers, and its recorded runs were trained without them.
        others: see `ShapesRetrieval`.
    """

    def __init__(
        self, *, train: int, val: int, test: int, general: int, regions: int, twins: float = 0.2, world: int = 0,
        skip: int = 0,
    ) -> None:  # fmt: skip
        super().__init__(train=train, val=val, test=test, general=general, regions=regions, twins=twins, world=world)
        if skip < 0:
            raise ValueError(f"skip is the number of questions drawn before training's, at least 0; got {skip}")
        self.skip = skip

    def questions(self, split: str) -> Split[Question]:
        if split not in ("train", "val", "test"):
            raise ValueError(f"a split of questions is train, val or test, got {split!r}")
        before = self.skip if split == "train" else 0
        return Split(_drawn(self.world.seed, f"vqa_{split}", before + self.sizes[split])[before:], self.world)

    def answers(self) -> Sequence[str]:
        return most_frequent(self.questions("train").records, least=1)

    def fingerprint(self, *splits: str) -> str:
        """Hash of every question, and of retrieval's calibration data; of the first drawn image of each split too."""
        total = hashlib.sha256()
        for name in splits:
            if name in ("general", "regions"):
                return super().fingerprint(*splits)
            split = self.questions(name)
            total.update("\n".join(map(repr, split.records)).encode())
            total.update(np.asarray(split.images.open(split.records[0].image)).tobytes())
        return total.hexdigest()[:16]


def most_frequent(questions: Sequence[Question], least: int) -> list[str]:
    """Answers that are the first choice of at least `least` questions, in the order of the alphabet.

    Raises:
        ValueError: there is none.
    """
    counts = Counter(Counter(q.answers).most_common(1)[0][0] for q in questions if q.answers)
    found = sorted(answer for answer, n in counts.items() if n >= least)
    rare = sum(n for n in counts.values() if n < least)
    why = f"the first choice of {rare} of {counts.total()} training questions stands in fewer than {least} of them"
    if not found:
        raise ValueError(
            f"no answer is left to rank: {why}; set data.source.answer_list=FILE (a JSON list), or data.source.least=1"
        )
    if rare:
        _log.warning("%s: it is not ranked; least=1 or answer_list=FILE of the data ranks it", why)
    return found


def pre_question(question: str, max_words: int) -> str:
    """The released cleaning of a question: lower case, punctuation deleted, hyphens and slashes to spaces, cut."""
    text = _DELETED.sub("", question.lower()).replace("-", " ").replace("/", " ")
    return " ".join(text.split()[:max_words])


def weighted(question: Question) -> Mapping[str, float]:
    """Each answer once -> its weight in the loss: the share of the people who gave it; one half in Visual Genome."""
    if question.dataset in ONE_ANSWER:
        return dict.fromkeys(question.answers, ONE_ANSWER[question.dataset])
    return {answer: n / len(question.answers) for answer, n in Counter(question.answers).items()}


@dataclass(frozen=True)
class Asked:
    """One question with its image (3, h, w); `answers` with their weights, none in evaluation; `number`: its place."""

    image: Tensor
    question: str
    answers: Mapping[str, float]
    number: int


class QuestionDataset(Dataset[Asked]):
    """Questions as items; images are mirrored with probability `flip` unless question or answers say left or right."""

    def __init__(
        self,
        records: Sequence[Question],
        images: ImageSource,
        transform: Transform,
        *,
        answered: bool,
        flip: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.records, self.images, self.transform = records, images, transform
        self.answered, self.flip, self.seed = answered, flip, seed

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, where: Where) -> Asked:
        epoch, index = where if isinstance(where, tuple) else (0, where)
        rng = np.random.default_rng((self.seed, epoch, index))
        record = self.records[index]
        image = self.images.open(record.image)
        if self.flip and rng.random() < self.flip and not _sided(record):
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        answers = weighted(record) if self.answered else {}
        return Asked(self.transform(image, rng), record.question, answers, index)


def _same(record: Question) -> tuple[str, int | str, str, str]:
    """What two records of one question share; ids alone begin anew in every file of some sets."""
    return record.dataset, record.question_id, record.image, record.question


def _sided(record: Question) -> bool:
    return any(side in text for side in _SIDES for text in (record.question, *record.answers))


@dataclass
class QuestionCollate:
    """Questions -> Batch: cut to `max_words` words and `max_tokens` tokens, padded to the longest of the batch.

    Answers are written `[CLS] answer [SEP]`, for both models; `tokenizer` decides how questions end.
    """

    tokenizer: BertTokenizer
    answer_tokenizer: BertTokenizer
    max_words: int
    max_tokens: int

    def __call__(self, items: Sequence[Asked]) -> Batch:
        texts = [pre_question(item.question, self.max_words) for item in items]
        cut = {"padding": "longest", "truncation": True, "max_length": self.max_tokens}
        asked = self.tokenizer(texts, return_tensors="pt", **cut)
        batch = Batch(torch.stack([item.image for item in items]), asked["input_ids"], asked["attention_mask"])
        batch.idx = torch.tensor([item.number for item in items])
        if any(item.answers for item in items):
            answers = [answer for item in items for answer in item.answers]
            batch.answer_ids, batch.answer_atts = self.encode_answers(answers)
            batch.answer_counts = torch.tensor([len(item.answers) for item in items])
            batch.answer_weights = torch.tensor([w for item in items for w in item.answers.values()])
        return batch

    def encode_answers(self, answers: Sequence[str]) -> tuple[Tensor, Tensor]:
        """a answers -> (a, t) ids from [CLS] to [SEP] and (a, t) attention."""
        encoded = self.answer_tokenizer(list(answers), padding="longest", return_tensors="pt")
        return encoded["input_ids"], encoded["attention_mask"]


class QuestionData(TaskData):
    """Training batches of questions with answers; validation and test questions in order, dealt to the processes.

    Args:
        source: where questions and images come from.
        flip: share of the training images that are mirrored, where neither question nor answers say left or right.
        train_on_val: False leaves questions out of training that are validation's too. The papers train on both and
            report the server's test; a local validation accuracy is honest only without.
        test_words: words a question is cut to in evaluation; in training `max_words`.
        shared: see `TaskData`; `batch_size` counts questions.
    """

    def __init__(
        self,
        source: QuestionSource,
        *,
        flip: float = 0.0,
        train_on_val: bool = True,
        test_words: int = 50,
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(source, **shared)
        if not 0 <= flip <= 1:
            raise ValueError(f"data.flip is a share of the images in [0, 1], got {flip}")
        self.source, self.flip, self.train_on_val, self.test_words = source, flip, train_on_val, test_words
        if self.language is None:
            self._with_answers(self.max_words)  # a vocabulary that is not there is told now

    @cached_property
    def answer_tokenizer(self) -> BertTokenizer:
        """Of answers, which end with [SEP] whatever questions do."""
        return make_tokenizer(self.source.vocabulary, sep=True)

    def collate(self, max_words: int) -> Callable[[Sequence[Asked]], Batch]:
        """What makes batches of questions cut to so many words."""
        return self._with_answers(max_words)

    def _with_answers(self, max_words: int) -> QuestionCollate:
        return QuestionCollate(self.tokenizer, self.answer_tokenizer, max_words, self.max_tokens)

    def train_dataloader(self) -> ResumableLoader:
        """Shuffled questions, each with all of its answers."""
        images = self.source.questions("train").images
        dataset = QuestionDataset(
            self.asked("train"), images, self.train_transform, answered=True, flip=self.flip, seed=self.seed
        )
        return self.training_loader(dataset, self.collate(self.max_words), "questions")

    def val_dataloader(self) -> DataLoader:
        return self._evaluation("val")

    def test_dataloader(self) -> DataLoader:
        return self._evaluation("test")

    def _evaluation(self, name: str) -> DataLoader:
        split = self.source.questions(name)
        dataset = QuestionDataset(split.records, split.images, self.eval_transform, answered=False)
        return self.dealt_loader(dataset, self.collate(self.test_words))

    def asked(self, split: str) -> Sequence[Question]:
        """The questions of a split; `Batch.idx` counts them."""
        records = self.source.questions(split).records
        if split != "train" or self.train_on_val:
            return records
        held_out = set(map(_same, self.source.questions("val").records))
        kept = [q for q in records if _same(q) not in held_out]
        if records and not kept:
            raise ValueError(
                f"all {len(records)} training questions are validation's too, and data.train_on_val=false leaves them "
                "out: give other files, or set data.train_on_val=true"
            )
        return kept

    def texts_of(self, split: str) -> Sequence[str]:
        """Questions, and of training and the list the answers; those of evaluation are only compared with."""
        asked = self.source.questions(split).records
        return said_in(asked) if split == "train" else [question.question for question in asked]

    def words_read(self, split: str) -> int:
        return self.max_words if split == "train" else self.test_words

    def longest_answer(self, *, training: bool) -> tuple[str, int]:
        """Of the answers to rank, and in training of those to learn, the longest, and its tokens: none is cut.

        Raises:
            ValueError: there is no answer to rank.
        """
        answers = dict.fromkeys(self.source.answers())
        for question in self.source.questions("train").records if training else ():
            answers.update(dict.fromkeys(question.answers))
        lengths = map(len, self.answer_tokenizer(list(answers))["input_ids"])
        return max(zip(answers, lengths, strict=True), key=lambda answer: answer[1])

    def candidates(self) -> tuple[list[str], Tensor, Tensor]:
        """The answers to rank, their ids (c, t) and attention (c, t)."""
        answers = list(self.source.answers())
        return answers, *self._with_answers(self.max_words).encode_answers(answers)
