"""Lemmas of predictions by spaCy, which is no dependency: a stand-in here, and what is said without it."""

import sys
from types import ModuleType, SimpleNamespace

import pytest

from vlp_bench.metrics.lemmas import lemmatiser


@pytest.fixture(autouse=True)
def forgotten():
    lemmatiser.cache_clear()
    yield
    lemmatiser.cache_clear()


def reader(text: str) -> list[SimpleNamespace]:
    known = {"riding": ("VERB", "ride"), "ponies": ("NOUN", "pony"), "bigger": ("ADJ", "big")}
    words = [(word, *known.get(word, ("X", word))) for word in text.split()]
    return [SimpleNamespace(text=word, pos_=kind, lemma_=lemma) for word, kind, lemma in words]


def spacy(monkeypatch, load) -> None:
    module = ModuleType("spacy")
    module.load = load
    monkeypatch.setitem(sys.modules, "spacy", module)


def test_nouns_and_verbs_become_lemmas_and_nothing_else_does(monkeypatch):
    spacy(monkeypatch, lambda name: reader if name == "en_core_web_sm" else None)
    assert lemmatiser()(["riding bigger ponies", "yes", ""]) == ["ride bigger pony", "yes", ""]


def test_what_lacks_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "spacy", None)
    assert lemmatiser().startswith("spaCy is not installed; pip install spacy")
    lemmatiser.cache_clear()

    def nothing(name):
        raise OSError(name)

    spacy(monkeypatch, nothing)
    assert "python -m spacy download en_core_web_sm" in lemmatiser()
