"""Answers with their nouns and verbs as lemmas: how LAVIS compares predictions with OK-VQA's answers.

People's answers of OK-VQA are lemmas themselves ("pony", "ride"), so that "riding ponies" counts as wrong without.
The language model that knows lemmas (spaCy's) is no dependency: where it is not, the metric is not computed.
"""

from collections.abc import Callable, Sequence
from functools import cache

MODEL = "en_core_web_sm"
Lemmatise = Callable[[Sequence[str]], list[str]]
"""Answers -> answers with lemmas."""


@cache
def lemmatiser() -> Lemmatise | str:
    """What lemmatises answers, or why it cannot be had and how to mend it."""
    try:
        import spacy  # pyright: ignore[reportMissingImports]
    except ImportError:
        return f"spaCy is not installed; pip install spacy, then python -m spacy download {MODEL}"
    try:
        read = spacy.load(MODEL)
    except OSError:
        return f"spaCy has no {MODEL}; python -m spacy download {MODEL}"

    def lemmatise(answers: Sequence[str]) -> list[str]:
        return [
            " ".join(word.lemma_ if word.pos_ in ("NOUN", "VERB") else word.text for word in read(answer))
            for answer in answers
        ]

    return lemmatise
