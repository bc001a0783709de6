"""Questions: how they become batches, and what is refused."""

import logging
from typing import Any

import pytest
import torch

from vlp_bench.data.datasets.questions import (
    QuestionData,
    QuestionDataset,
    ShapesQuestions,
    most_frequent,
    pre_question,
    weighted,
)
from vlp_bench.data.datasets.retrieval import CalibrationSettings, RetrievalData
from vlp_bench.data.datasets.sources import ShapesRetrieval, Split
from vlp_bench.data.records import Question
from vlp_bench.data.text import words_of
from vlp_bench.data.transforms.images import Eval

SIZES: dict[str, Any] = {"train": 14, "val": 5, "test": 7, "general": 8, "regions": 8}
SETTINGS = CalibrationSettings(Eval(48), Eval(48), side=6, num_batches=2, batch_size=4)


def data(source: Any = None, **changes: Any) -> QuestionData:
    source = source or ShapesQuestions(**SIZES)
    shared: dict[str, Any] = {"train_transform": Eval(48), "eval_transform": Eval(48), "calibration": SETTINGS}
    return QuestionData(source, **shared | {"batch_size": 4, "eval_batch_size": 3} | changes)


def asked(answers: tuple[str, ...], dataset: str = "vqa", number: int = 1, question: str = "what is this") -> Question:
    return Question("shapes-1-000000", question, answers, number, "what", "other", dataset=dataset)


def test_a_training_batch_holds_every_answer_once_with_its_share() -> None:
    made = data()
    batch = next(iter(made.train_dataloader()))
    questions = [made.asked("train")[n] for n in batch.idx.tolist()]
    assert batch.answer_counts.tolist() == [len(set(q.answers)) for q in questions]
    assert len(batch.answer_ids) == len(batch.answer_weights) == int(batch.answer_counts.sum())
    assert batch.answer_weights.split(batch.answer_counts.tolist())[1].sum() == pytest.approx(1.0)
    words = made.answer_tokenizer.batch_decode(batch.answer_ids)
    assert words[0].split()[0] == "[CLS]"
    assert words[0].split()[2] == "[SEP]"
    assert words[0].split()[1] in questions[0].answers


def test_questions_end_as_the_model_wants_them() -> None:
    for sep in (False, True):
        made = data(sep=sep)
        batch = next(iter(made.val_dataloader()))
        last = batch.text_ids[0, int(batch.text_atts[0].sum()) - 1]
        assert (int(last) == made.tokenizer.convert_tokens_to_ids("[SEP]")) is sep


def test_evaluation_goes_in_order_and_shows_no_answer() -> None:
    batches = list(data().test_dataloader())
    assert torch.cat([b.idx for b in batches]).tolist() == list(range(7))
    assert all(b.answer_ids is None for b in batches)


def test_the_commonest_answer_weighs_most_and_visual_genome_half() -> None:
    assert dict(weighted(asked(("a", "b", "a", "a")))) == {"a": 0.75, "b": 0.25}
    assert dict(weighted(asked(("a",), "vg"))) == {"a": 0.5}


def test_first_choices_are_listed() -> None:
    questions = [asked(("b", "b", "c")), asked(("b", "c")), asked(("a",))]
    assert most_frequent(questions, least=1) == ["a", "b"]
    assert most_frequent(questions, least=2) == ["b"]
    with pytest.raises(ValueError, match="no answer is left to rank: the first choice of 3 of 3 training questions"):
        most_frequent(questions, least=3)


def test_questions_are_cleaned_as_released() -> None:
    assert pre_question("What's on the T-shirt?", 30) == "whats on the t shirt"
    assert pre_question("one two three", 2) == "one two"


def test_texts_that_are_cut_are_counted_once(caplog) -> None:
    long = data(max_words=2, max_tokens=4, test_words=30)
    with caplog.at_level(logging.WARNING):
        long.inspect(None)
    lengths = {s: [len(words_of(text)) for text in long.texts_of(s)] for s in ("train", "val", "test")}
    words = {"train": 2, "val": 30, "test": 30}
    cut = {split: sum(n > words[split] or n + 1 > 4 for n in found) for split, found in lengths.items()}
    assert cut["train"] > 0
    assert [line for line in caplog.messages if "longer" in line] == [
        f"{split}: {cut[split]} of {len(lengths[split])} texts are longer than {words[split]} words or 4 tokens "
        "(data.max_words, data.max_tokens) and cut" for split in cut if cut[split]
    ]  # fmt: skip
    caplog.clear()
    data().inspect(None)
    assert not [line for line in caplog.messages if "longer" in line]


def test_an_image_is_mirrored_unless_its_question_knows_sides() -> None:
    world = ShapesQuestions(**SIZES).world
    plain, sided = asked(("a",), question="what is this"), asked(("a",), question="what is left")
    items = QuestionDataset([plain, sided], world, Eval(48), answered=True, flip=1.0)
    straight = Eval(48)(world.open(plain.image), None)  # pyright: ignore[reportArgumentType]
    assert torch.equal(items[0].image, straight.flip(2))
    assert torch.equal(items[1].image, straight)


class Listed(ShapesQuestions):
    """Questions as they are listed."""

    def __init__(self, **splits: list[Question]) -> None:
        super().__init__(**SIZES)
        self.listed = splits

    def questions(self, split: str) -> Split[Question]:
        return Split(self.listed[split], self.world)


def test_validation_can_be_kept_out_of_training() -> None:
    same = [asked(("a",), number=1), asked(("a",), "vg", number=1), asked(("a",), number=2)]
    source = Listed(train=same, val=[asked(("a",), number=1)], test=[])
    assert len(data(source).asked("train")) == 3
    assert [(q.dataset, q.question_id) for q in data(source, train_on_val=False).asked("train")] == [
        ("vg", 1),
        ("vqa", 2),
    ]


def test_calibration_is_that_of_retrieval() -> None:
    shared: dict[str, Any] = {"train_transform": Eval(48), "eval_transform": Eval(48), "calibration": SETTINGS}
    retrieval = RetrievalData(ShapesRetrieval(**SIZES), **shared)
    assert data().calibration_fingerprint() == retrieval.calibration_fingerprint()
    assert data().fingerprint() != retrieval.fingerprint()
    ours, theirs = (next(iter(d.calibration()))[0] for d in (data(), retrieval))
    assert torch.equal(ours.text_ids, theirs.text_ids)


def test_shares_and_splits_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"data.flip is a share .* got 2"):
        data(flip=2)
    with pytest.raises(ValueError, match="train, val or test, got 'dev'"):
        ShapesQuestions(**SIZES).questions("dev")


def test_training_begins_after_the_skipped_questions():
    whole, part = ShapesQuestions(**SIZES), ShapesQuestions(**SIZES, skip=2)
    assert part.questions("train").records[:-2] == whole.questions("train").records[2:]
    assert len(part.questions("train").records) == SIZES["train"]
    assert part.questions("val").records == whole.questions("val").records
    with pytest.raises(ValueError, match="at least 0; got -1"):
        ShapesQuestions(**SIZES, skip=-1)
