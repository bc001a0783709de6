"""Accuracy of visual question answering: an answer is right to the degree that people gave it.

The rule of the VQA evaluation server (Antol et al., ICCV 2015; Goyal et al., CVPR 2017), with the oddities of its
normalisation kept, for published numbers carry them: a period goes only where no digit follows, at most 32 of them; a
hyphen between letters becomes a space, but vanishes if the answer has the same sign beside a space or a comma between
digits anywhere; "none" is the number 0; contractions get the apostrophe they lack.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from vlp_bench.data.records import Question
from vlp_bench.metrics.example_metric import TextMetric
from vlp_bench.metrics.lemmas import lemmatiser

RULES = ("official", "released")
SCORES = (*RULES, "exact")
ENOUGH = 3
"""So many of the nine other people must agree for full marks."""

_SIGNS = tuple(';/[]"{}()=+\\_-><@`,?!')
_PERIOD = re.compile(r"\.(?!\d)")
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_MOST_PERIODS = 32
_NUMBERS = {
    "none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7",
    "eight": "8", "nine": "9", "ten": "10",
}  # fmt: skip
_ARTICLES = ("a", "an", "the")
_CONTRACTED = (
    "ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd "
    "he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've "
    "needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've "
    "somebody'll somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll "
    "that's there'd there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've "
    "weren't what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's who've "
    "why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're "
    "you've"
)


def _with_one_apostrophe_less(word: str) -> list[str]:
    return [word[:i] + word[i + 1 :] for i, sign in enumerate(word) if sign == "'"]


CONTRACTIONS = {short: word for word in _CONTRACTED.split() for short in _with_one_apostrophe_less(word)}
"""What lacks one apostrophe -> what it stands for."""
CONTRACTIONS["somebody'd"] = "somebodyd"  # the wrong way round in the server's table, and so in every number


def without_signs(answer: str) -> str:
    """The answer without punctuation. A sign beside a space vanishes, any other becomes a space."""
    text, number = answer, _COMMA_IN_NUMBER.search(answer) is not None
    for sign in _SIGNS:
        alone = f"{sign} " in answer or f" {sign}" in answer
        text = text.replace(sign, "" if alone or number else " ")
    return _PERIOD.sub("", text, count=_MOST_PERIODS)


def plain_words(answer: str) -> str:
    """Lower case, numbers as figures, no articles, contractions with their apostrophe, single spaces."""
    words = [_NUMBERS.get(word, word) for word in answer.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def normalised(answer: str) -> str:
    """An answer as the server compares it."""
    return plain_words(without_signs(answer))


def _one_line(answer: str) -> str:
    return answer.replace("\n", " ").replace("\t", " ").strip()


def accuracy(predicted: str, answers: Sequence[str], *, rule: str = "official") -> float:
    """Share in 0..1 to which `predicted` is right, given what people answered (ten of them in VQAv2).

    As `server_accuracy` from four answers on. That rule gives nobody full marks who agrees with fewer: of two or three
    answers, all others must agree for full marks here, and a single answer is compared as in `exact`.

    Args:
        rule: see `server_accuracy`.

    Raises:
        ValueError: nobody answered, or no such rule.
    """
    _check(answers, rule)
    if len(answers) == 1:
        return exact(predicted, answers)
    return _agreement(predicted, answers, rule, min(ENOUGH, len(answers) - 1))


def server_accuracy(predicted: str, answers: Sequence[str], *, rule: str = "official") -> float:
    """The evaluation server's number, whatever the number of answers; 0 where a single one is met exactly.

    The mean, over leaving out each person, of min(1, matches among the others / 3).

    Args:
        rule: "official" normalises both sides unless all people say the same to the letter; "released" is the copy in
            the code of ALBEF, X-VLM and MULTIFLOW: the prediction always, people's answers less thoroughly.

    Raises:
        ValueError: nobody answered, or no such rule.
    """
    _check(answers, rule)
    return _agreement(predicted, answers, rule, ENOUGH)


def _check(answers: Sequence[str], rule: str) -> None:
    if not answers:
        raise ValueError("a question without answers cannot be scored; test sets without them go to the server")
    if rule not in RULES:
        raise ValueError(f"the rule of VQA accuracy is one of {', '.join(RULES)}, got {rule!r}")


def _agreement(predicted: str, answers: Sequence[str], rule: str, enough: int) -> float:
    """The mean, over leaving out each person, of min(1, matches among the others / enough)."""
    given = [_one_line(answer) for answer in answers] if rule == "official" else list(answers)
    predicted = _one_line(predicted)
    differ = len(set(given)) > 1
    if differ:
        given = [normalised(a) if rule == "official" else without_signs(a) for a in given]
    if differ or rule == "released":
        predicted = normalised(predicted)
    matches = [answer == predicted for answer in given]
    each = [min(1.0, (sum(matches) - mine) / enough) for mine in matches]
    return sum(each) / len(each)


def exact(predicted: str, answers: Sequence[str]) -> float:
    """GQA's accuracy: 1 if the prediction is the one true answer, both normalised, else 0."""
    return float(normalised(_one_line(predicted)) == normalised(_one_line(answers[0])))


def marks(predicted: Sequence[str], questions: Sequence[Question], score: str = "official") -> list[float]:
    """0..1 for the prediction of each question; `score`: a rule of `accuracy`, or "exact" (GQA)."""
    pairs = zip(predicted, questions, strict=True)
    if score == "exact":
        return [exact(answer, question.answers) for answer, question in pairs]
    return [accuracy(answer, question.answers, rule=score) for answer, question in pairs]


def breakdown(scores: Sequence[float], question_types: Sequence[str], answer_types: Sequence[str]) -> dict[str, float]:
    """Mean accuracy in percent: `accuracy`, `type/<answer type>` and `asks/<question type>`, the last two where known.

    Raises:
        ValueError: there is no question, or a list has another length.
    """
    if not scores:
        raise ValueError("accuracy needs at least one question")
    grouped: dict[str, list[float]] = defaultdict(list)
    for score, asked, answered in zip(scores, question_types, answer_types, strict=True):
        grouped["accuracy"].append(score)
        if answered:
            grouped[f"type/{answered}"].append(score)
        if asked:
            grouped[f"asks/{asked}"].append(score)
    return {name: 100.0 * sum(group) / len(group) for name, group in grouped.items()}


def majority(asked: Iterable[tuple[str, Sequence[str]]]) -> dict[str, str]:
    """Question type -> the answer most often given to it (of equals the first in the alphabet); "" for all types."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for question_type, answers in asked:
        counts[question_type].update(answers)
        counts[""].update(answers)
    return {name: min(count, key=lambda answer: (-count[answer], answer)) for name, count in counts.items()}


def majority_accuracy(known: Sequence[Question], questions: Sequence[Question], score: str = "official") -> float:
    """Percent that the answer most often given to the `known` questions of the same type is right about `questions`."""
    usual = majority((question.question_type, question.answers) for question in known)
    predicted = [usual.get(question.question_type, usual[""]) for question in questions]
    return 100 * _mean(marks(predicted, questions, score))


class VQAAccuracy(TextMetric):
    """Accuracy in percent of the answers to a split's questions, by question and answer type, over all processes.

    Args:
        questions: the split; example n is `questions[n]`.
        score: "official" or "released" (see `accuracy`; OK-VQA takes "official"), or "exact" (GQA).
        lemmas: whether `accuracy_lemmas` is computed too, by spaCy (OK-VQA as LAVIS has it).

    After `compute`, `examples` (n,) has the percents of single questions and `notes` says what was not computed, why.

    Raises:
        ValueError: there is no such score.

    >>> import torch
    >>> from vlp_bench.data.records import Question
    >>> from vlp_bench.metrics import VQAAccuracy
    >>> metric = VQAAccuracy([Question("1.jpg", "what is it?", ("dog",) * 8 + ("puppy",) * 2, 1, answer_type="other")])
    >>> metric.update(torch.tensor([0]), ["a puppy"])
    >>> metric.compute()
    {'accuracy': tensor(60.), 'type/other': tensor(60.)}
    """

    def __init__(self, questions: Sequence[Question], *, score: str = "official", lemmas: bool = False) -> None:
        if score not in SCORES:
            raise ValueError(f"score must be one of {', '.join(SCORES)}, got {score!r}")
        super().__init__()
        self.questions, self.score, self.lemmas = questions, score, lemmas
        self.examples = torch.empty(0)
        self.notes: dict[str, str] = {}

    def update(self, numbers: Tensor, answers: Sequence[str]) -> None:
        """The answers to the questions `numbers` (b,)."""
        self.keep_texts(numbers, answers)

    def compute(self) -> dict[str, Tensor]:
        """As `breakdown`, float32. ValueError if a question has no prediction, or nobody's answer to compare with."""
        answers = self.needed(len(self.questions), "questions")
        scores = marks(answers, self.questions, self.score)
        types = ([q.question_type for q in self.questions], [q.answer_type for q in self.questions])
        values = breakdown(scores, *types)
        self.examples = 100 * torch.tensor(scores)
        self.notes = self._few()
        return self.tensors(values | (self._with_lemmas(answers) if self.lemmas else {}))

    def _few(self) -> dict[str, str]:
        if self.score == "exact":
            several = sum(len({*question.answers}) > 1 for question in self.questions)
            of_these = f"{several} of {len(self.questions)} questions have several answers"
            return {"answers": f"{of_these}, of which exact reads the first"} if several else {}
        few = sum(len(question.answers) <= ENOUGH for question in self.questions)
        if not few:
            return {}
        how_many = (
            f"{few} of {len(self.questions)} questions have fewer than four answers, and the rule is made for ten"
        )
        return {"answers": f"{how_many}: a single one is compared by equality, of two or three all others must agree"}

    def _with_lemmas(self, answers: Sequence[str]) -> dict[str, float]:
        lemmatise = lemmatiser()
        if isinstance(lemmatise, str):
            self.notes["accuracy_lemmas"] = f"not computed: {lemmatise}"
            return {}
        return {"accuracy_lemmas": 100 * _mean(marks(lemmatise(answers), self.questions, self.score))}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
