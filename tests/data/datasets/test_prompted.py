"""Prompts for a language model: LAVIS's cleaning, and what data of such a task refuse."""

import pytest
import torch

from tests.tasks.worlds import SIZES, shared
from vlp_bench.data.calibration import TextCollate
from vlp_bench.data.datasets.captioning import ShapesCaptions
from vlp_bench.data.datasets.prompted import PromptedPictures, PromptedQuestions, kept_question
from vlp_bench.data.datasets.questions import ShapesQuestions
from vlp_bench.data.datasets.retrieval import CalibrationSettings
from vlp_bench.data.text import make_tokenizer
from vlp_bench.data.transforms.images import Eval

WORDS = {
    w: i for i, w in enumerate(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "question", "short", "answer", ":", "is"))
}
QUIET = CalibrationSettings(Eval(48), Eval(48), side=3, num_batches=2, batch_size=4, mask=None, parts=["general"])


def test_questions_keep_commas_hyphens_and_question_marks():
    assert kept_question('What (exactly) is this, a "T-shirt"? ', 50) == "what exactly is this, a t-shirt?"
    assert kept_question("one two three four", 2) == "one two"


def test_a_question_stands_in_the_prompt():
    tokenizer = make_tokenizer(WORDS, sep=True)
    data = PromptedQuestions(ShapesQuestions(**SIZES), **shared(language=tokenizer, calibration=QUIET))
    batch = next(iter(data.test_dataloader()))
    texts = tokenizer.batch_decode(batch.text_ids, skip_special_tokens=False)
    assert all(text.startswith("[CLS] question : ") for text in texts)
    assert all(text.replace(" [PAD]", "").endswith("short answer : [SEP]") for text in texts)
    assert batch.idx.tolist() == list(range(len(texts)))
    assert data.words(torch.tensor([[2, WORDS["is"], 3, 0]])) == ["is"]


def test_captions_follow_the_prompt_whole():
    tokenizer = make_tokenizer(WORDS, sep=True)
    data = PromptedPictures(
        ShapesCaptions(**SIZES), prompt="short answer", **shared(language=tokenizer, calibration=QUIET)
    )
    assert data.prompted(2).tolist() == [[2, WORDS["short"], WORDS["answer"], 3]] * 2


def test_texts_without_images_become_batches():
    batch = TextCollate(make_tokenizer(WORDS, sep=True), max_tokens=4)(["is is", "is is is is is"])
    assert batch.text_ids.shape == (2, 4)
    assert batch.text_atts.sum().item() == 8
    assert len(batch.images) == 0


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"prompt": "no place"}, r"data\.prompt has one {}"),
        ({"language": None}, r"data\.language is null"),
        ({"calibration": CalibrationSettings(Eval(48), Eval(48), side=3)}, "hides no words"),
    ],
)
def test_what_cannot_be_is_refused(changes, message):
    given = {"language": make_tokenizer(WORDS), "calibration": QUIET} | changes
    prompt = {"prompt": given.pop("prompt")} if "prompt" in given else {}
    with pytest.raises(ValueError, match=message):
        PromptedQuestions(ShapesQuestions(**SIZES), **prompt, **shared(**given))


def test_texts_are_of_a_language_model_and_of_files():
    both = CalibrationSettings(Eval(48), Eval(48), side=3, num_batches=1, mask=None, parts=["general", "text"])
    with pytest.raises(ValueError, match="takes a language model"):
        PromptedQuestions(ShapesQuestions(**SIZES), **shared(language=None, calibration=both))
    data = PromptedQuestions(ShapesQuestions(**SIZES), **shared(language=make_tokenizer(WORDS), calibration=both))
    with pytest.raises(ValueError, match="no texts without pictures"):
        data._calibration_part("text")
