"""Accuracy of visual question answering: an answer is right to the degree that people gave it.

The rule of the VQA evaluation server (Antol et al., ICCV 2015; Goyal et al., CVPR 2017), with the oddities of its
normalisation kept, for published numbers carry them: a period goes only where no digit follows, at most 32 of them; a
hyphen between letters becomes a space, but vanishes if the answer has the same sign beside a space or a comma between
digits anywhere; "none" is the number 0; contractions get the apostrophe they lack.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence

RULES = ("official", "released")
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

    The mean, over leaving out each person, of min(1, matches among the others / 3).

    Args:
        rule: "official" normalises both sides unless all people say the same to the letter; "released" is the copy in
            the code of ALBEF, X-VLM and MULTIFLOW: the prediction always, people's answers less thoroughly.

    Raises:
        ValueError: nobody answered, or no such rule.
    """
    if not answers:
        raise ValueError("a question without answers cannot be scored; test sets without them go to the server")
    if rule not in RULES:
        raise ValueError(f"the rule of VQA accuracy is one of {', '.join(RULES)}, got {rule!r}")
    given = [_one_line(answer) for answer in answers] if rule == "official" else list(answers)
    predicted = _one_line(predicted)
    differ = len(set(given)) > 1
    if differ:
        given = [normalised(a) if rule == "official" else without_signs(a) for a in given]
    if differ or rule == "released":
        predicted = normalised(predicted)
    matches = [answer == predicted for answer in given]
    marks = [min(1.0, (sum(matches) - mine) / ENOUGH) for mine in matches]
    return sum(marks) / len(marks)


def exact(predicted: str, answers: Sequence[str]) -> float:
    """GQA's accuracy: 1 if the normalised prediction is the one true answer, else 0."""
    return float(normalised(predicted) == answers[0])


Score = Callable[[str, Sequence[str]], float]
"""Predicted answer, people's answers -> 0..1."""


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
    return {name: 100.0 * sum(found) / len(found) for name, found in grouped.items()}


def majority(asked: Iterable[tuple[str, Sequence[str]]]) -> dict[str, str]:
    """Question type -> the answer most often given to it (of equals the first in the alphabet); "" for all types."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for question_type, answers in asked:
        counts[question_type].update(answers)
        counts[""].update(answers)
    return {name: min(count, key=lambda answer: (-count[answer], answer)) for name, count in counts.items()}
