"""Tokens, cleaning and masking."""

import pytest
import torch

from vlp_bench.data.shapes.phrases import vocabulary
from vlp_bench.data.text import IGNORED, Masker, make_tokenizer, pre_caption, too_long, unknown_words


def test_without_sep_a_caption_ends_with_its_last_word():
    tokenizer = make_tokenizer(vocabulary())
    ids = tokenizer("a red circle")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["[CLS]", "a", "red", "circle"]
    ids = make_tokenizer(vocabulary(), sep=True)("a red circle")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["[CLS]", "a", "red", "circle", "[SEP]"]


def test_a_vocabulary_file_is_read_and_a_missing_one_named(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(vocabulary()) + "\n")
    assert make_tokenizer(path)("a red circle") == make_tokenizer(vocabulary())("a red circle")
    with pytest.raises(ValueError, match=r"no vocabulary at .*nowhere.txt"):
        make_tokenizer(tmp_path / "nowhere.txt")
    with pytest.raises(ValueError, match=r"lacks \[SEP\]"):
        make_tokenizer({w: i for i, w in enumerate(["[PAD]", "[UNK]", "[CLS]", "[MASK]", "a"])})


def test_cleaning_follows_the_released_rule():
    assert pre_caption("A T-shirt, and/or (the) <person>'s hat!\n", 30) == "a t shirt and or the persons hat"
    assert pre_caption("one two three", 2) == "one two"
    with pytest.raises(ValueError, match="empty"):
        pre_caption("...", 30)


def test_texts_that_are_cut_are_counted_by_words_and_by_tokens():
    tokenizer = make_tokenizer(vocabulary())
    texts = ["a red circle", "A red, blue circle!", "a red blue green circle", ""]
    assert [too_long(texts, tokenizer, words, 40) for words in (5, 4, 3, 0)] == [0, 1, 2, 3]
    assert [too_long(texts, tokenizer, 30, tokens) for tokens in (6, 5, 4, 3)] == [0, 1, 2, 3]
    assert too_long(["a red circle"], make_tokenizer(vocabulary(), sep=True), 30, 4) == 1
    cut = tokenizer(texts, truncation=True, max_length=5)["input_ids"]
    whole = tokenizer(texts)["input_ids"]
    assert sum(own != other for own, other in zip(cut[:1] + cut[2:], whole[:1] + whole[2:], strict=True)) == 1


def _masked(masker, texts, seed=0):
    ids = masker.tokenizer(texts, padding="longest", return_tensors="pt")["input_ids"]
    return ids, *masker(ids, torch.Generator().manual_seed(seed))


def test_masking_hides_what_it_says_and_nothing_special():
    masker = Masker(make_tokenizer(vocabulary()), probability=0.4, most=3)
    ids, masked, positions, labels = _masked(masker, ["a small red circle left of a blue square", "a ring"] * 20)
    used = labels != IGNORED
    assert used.any(1).all()
    assert (used.sum(1) <= 3).all()
    assert torch.equal(labels[used], ids.gather(1, positions)[used])
    assert (positions[used] > 0).all()
    assert (ids.gather(1, positions)[used] != 0).all()
    untouched = torch.ones_like(ids, dtype=torch.bool).scatter(1, torch.where(used, positions, 0), False)
    untouched[:, 0] = True
    assert torch.equal(ids[untouched], masked[untouched])


def test_masking_is_reproducible_and_boosts_attribute_words():
    tokenizer = make_tokenizer(vocabulary())
    red = tokenizer.convert_tokens_to_ids("red")
    masker = Masker(tokenizer, probability=0.1, most=8, boosted=frozenset([red]), boost=0.9)
    _, *first = _masked(masker, ["a small red circle left of a blue square"] * 200, seed=1)
    _, *again = _masked(masker, ["a small red circle left of a blue square"] * 200, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    hidden = first[2] == red
    assert 0.8 < hidden.any(1).float().mean() < 1.0
    assert (first[2] == tokenizer.convert_tokens_to_ids("left")).any(1).float().mean() < 0.3


def test_pieces_of_a_word_are_hidden_together():
    words = {w: i for i, w in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "snow", "##board", "##er", "a"])}
    masker = Masker(make_tokenizer(words), probability=0.5, most=8)
    ids, _, positions, labels = _masked(masker, ["a snowboarder a snowboarder"] * 50, seed=2)
    for row in range(len(ids)):
        at = set(positions[row][labels[row] != IGNORED].tolist())
        for word in ({2, 3, 4}, {6, 7, 8}):
            assert len(at & word) in (0, 3)


def test_unknown_words_are_counted_by_hand() -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog", "##s", "on"]
    found = unknown_words(
        ["A dog on a Sofa!", "sofa-bed", "dogs", "zebra zebra", ""],
        make_tokenizer(dict(zip(words, range(9), strict=True))),
    )
    assert (found.words, found.unknown) == (10, 5)  # sofa twice, bed, zebra twice
    assert (found.texts, found.mute) == (5, 2)
    assert found.examples == ("sofa", "zebra", "bed")
    assert found.share == 0.5
    assert (
        str(found)
        == "50.0% of 10 words are not in the vocabulary ('sofa', 'zebra', 'bed'), 40.0% of 5 texts have nothing else"
    )


def test_an_unknown_word_is_shown_in_part() -> None:
    """A caption that lost its spaces is a word of megabytes."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"]
    found = unknown_words(["a " + "x" * 1_000_000], make_tokenizer(dict(zip(words, range(6), strict=True))))
    assert str(found) == f"50.0% of 2 words are not in the vocabulary ('{'x' * 12}...{'x' * 13}')"


def test_a_vocabulary_with_a_token_on_two_lines_is_refused(tmp_path) -> None:
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\ndog\ndog\n")
    with pytest.raises(ValueError, match="has 'dog' on more than one line"):
        make_tokenizer(tmp_path / "vocab.txt")
