"""bert-base-uncased's vocabulary is found in three places, in their order, or not at all, plainly."""

import sys

import pytest

from vlp_bench.data import bert_vocabulary as module
from vlp_bench.data.bert_vocabulary import bert_vocabulary


def written(path, words=module.WORDS):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(words - 5))]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def nowhere(monkeypatch, tmp_path):
    """No cache and no package, whatever this machine has."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(module, "PACKAGE", "vlp_bench_no_such_package")


def cached(folder, name="models--google-bert--bert-base-uncased", **changes):
    """A file as the hub's cache keeps it."""
    (folder / "hub" / name / "refs").mkdir(parents=True)
    (folder / "hub" / name / "refs" / "main").write_text("abc")
    return written(folder / "hub" / name / "snapshots" / "abc" / "vocab.txt", **changes)


def test_what_was_given_comes_first(tmp_path):
    cached(tmp_path)
    given = written(tmp_path / "mine" / "vocab.txt", words=9)
    assert bert_vocabulary(given) == given
    assert bert_vocabulary(given.parent) == given
    with pytest.raises(ValueError, match=r"no vocabulary at .*gone"):
        bert_vocabulary(tmp_path / "gone")


@pytest.mark.parametrize("name", ["models--google-bert--bert-base-uncased", "models--bert-base-uncased"])
def test_then_the_hub_s_cache(tmp_path, name):
    file = cached(tmp_path, name)
    assert bert_vocabulary().samefile(file)


def test_then_the_extra(tmp_path, monkeypatch):
    file = written(tmp_path / "site" / "a_vocabulary" / "model" / "vocab.txt")
    (file.parents[1] / "__init__.py").write_text("raise ImportError('the package is not imported')")
    monkeypatch.setattr(module, "PACKAGE", "a_vocabulary")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site"), *sys.path])
    assert bert_vocabulary() == file
    assert bert_vocabulary() != cached(tmp_path)
    assert bert_vocabulary() != file


def test_nowhere_is_said_with_all_three_cures():
    with pytest.raises(ValueError, match=r"paths\.vocab=FILE.*pip install 'vlp_bench\[vocab\]'.*hf download"):
        bert_vocabulary()


def test_another_model_s_vocabulary_in_the_cache_is_refused(tmp_path):
    cached(tmp_path, words=28_996)
    with pytest.raises(ValueError, match="28,996 lines, it has 30,522"):
        bert_vocabulary()
