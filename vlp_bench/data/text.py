"""Text to tokens: BERT's tokenizer in X-VLM's form, the released caption cleaning, and the masking of words for MLM."""

import re
import reprlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import BertTokenizer

_DELETED = re.compile(r"([,.'!?\"()*#:;~])")
IGNORED = -100
"""The label that cross entropy leaves out."""


class Tokenizer(Protocol):
    """What turns sentences into token ids: any tokenizer of transformers."""

    def __call__(self, text: list[str], **settings: Any) -> Any:
        """`input_ids` and `attention_mask`."""

    def batch_decode(self, sequences: Tensor, **settings: Any) -> list[str]:
        """Token ids -> texts."""
        ...


def make_tokenizer(vocab: Mapping[str, int] | str | Path, *, sep: bool = False) -> BertTokenizer:
    """BERT's tokenizer over a vocabulary (word -> id, or the path of a vocab.txt).

    `sep=False` encodes as `[CLS] text`, as X-VLM's retrieval, VQA and pruning do; `sep=True` is the stock
    `[CLS] text [SEP]`.

    Raises:
        ValueError: the path is no file, or the vocabulary lacks a special token.
    """
    words = dict(vocab) if isinstance(vocab, Mapping) else _read_vocab(Path(vocab))
    missing = [t for t in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]") if t not in words]
    if missing:
        where = "" if isinstance(vocab, Mapping) else f" {vocab}"
        raise ValueError(f"the vocabulary{where} lacks {', '.join(missing)}; it needs BERT's five special tokens")
    tokenizer = BertTokenizer(vocab=words)
    if not sep:
        template = TemplateProcessing("[CLS] $A", special_tokens=[("[CLS]", words["[CLS]"])])
        tokenizer.backend_tokenizer.post_processor = template
    return tokenizer


def _read_vocab(path: Path) -> dict[str, int]:
    if not path.is_file():
        raise ValueError(f"no vocabulary at {path}: it should be bert-base-uncased's vocab.txt, one token a line")
    lines = vocabulary_lines(path)
    words = {word: i for i, word in enumerate(lines)}
    if len(words) != len(lines):
        twice = Counter(lines).most_common(1)[0][0]
        raise ValueError(f"the vocabulary {path} has {twice!r} on more than one line; every token has one")
    return words


def vocabulary_lines(path: Path) -> list[str]:
    """The tokens of a vocab.txt; ValueError for what is no text, and for a token that is empty or has a space in it."""
    try:
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"the vocabulary {path} is no text ({error.reason}); fetch it again") from None
    if odd := next((number for number, line in enumerate(lines, 1) if line.split() != [line] or min(line) < " "), None):
        raise ValueError(
            f"the vocabulary {path}, line {odd}, is {lines[odd - 1][:80]!r}: one token a line, without spaces"
        )
    return lines


def words_of(text: str) -> list[str]:
    """The words of a caption, a question or an answer once it is cleaned."""
    return _DELETED.sub("", text.lower()).replace("-", " ").replace("/", " ").replace("<person>", "person").split()


@dataclass(frozen=True)
class UnknownWords:
    """How much of some texts a vocabulary does not know.

    words, unknown: how many words there are, and of how many [UNK] is all that a model reads. texts, mute: how many
    texts, and how many of nothing but such words. examples: the commonest unknown words.
    """

    words: int
    unknown: int
    texts: int
    mute: int
    examples: tuple[str, ...]

    @property
    def share(self) -> float:
        """Share of the words that are unknown."""
        return self.unknown / max(1, self.words)

    def __str__(self) -> str:
        shown = ", ".join(map(reprlib.repr, self.examples))
        only = f", {self.mute / self.texts:.1%} of {self.texts:,} texts have nothing else" if self.mute else ""
        return f"{self.share:.1%} of {self.words:,} words are not in the vocabulary ({shown}){only}"


def unknown_words(texts: Iterable[str], tokenizer: Tokenizer, named: int = 5) -> UnknownWords:
    """Count the words of which the tokenizer makes [UNK]."""
    split = [words_of(text) for text in texts]
    counted = Counter(word for words in split for word in words)
    distinct = list(counted)
    read = tokenizer(distinct, add_special_tokens=False)["input_ids"] if distinct else []
    mark = tokenizer.get_vocab()["[UNK]"]  # pyright: ignore[reportAttributeAccessIssue]
    strange = {word for word, ids in zip(distinct, read, strict=True) if mark in ids}
    common = sorted(strange, key=lambda word: (-counted[word], word))
    mute = sum(bool(words) and strange.issuperset(words) for words in split)
    unknown = sum(counted[word] for word in strange)
    return UnknownWords(counted.total(), unknown, len(split), mute, tuple(common[:named]))


def too_long(texts: Iterable[str], tokenizer: Tokenizer, max_words: int, max_tokens: int) -> int:
    """How many texts are cut to `max_words` words, or after them to `max_tokens` tokens, special ones among them."""
    split = [words_of(text) for text in texts]
    distinct = list({word for words in split for word in words})
    read = tokenizer(distinct, add_special_tokens=False)["input_ids"] if distinct else []
    pieces = dict(zip(distinct, map(len, read), strict=True))
    special = len(tokenizer([""])["input_ids"][0])
    return sum(len(own) > max_words or special + sum(pieces[word] for word in own) > max_tokens for own in split)


def pre_caption(caption: str, max_words: int) -> str:
    """The released cleaning of a caption: lower case, punctuation deleted, hyphens and slashes to spaces, cut.

    Raises:
        ValueError: nothing is left.
    """
    words = words_of(caption)[:max_words]
    if not words:
        raise ValueError(f"caption {caption!r} is empty once punctuation is removed")
    return " ".join(words)


@dataclass
class Masker:
    """Chooses the words that MLM hides: whole words with probability `probability`, `boosted` token ids with `boost`.

    Of the chosen tokens 80 % become [MASK], 10 % another word of the vocabulary, 10 % stay. At least one and at most
    `most` tokens of a caption are chosen.
    """

    tokenizer: BertTokenizer
    probability: float = 0.25
    most: int = 8
    boosted: frozenset[int] = field(default_factory=frozenset)
    boost: float = 0.0

    def __post_init__(self) -> None:
        vocabulary = self.tokenizer.get_vocab()
        self._mask = vocabulary["[MASK]"]
        self._continues = torch.zeros(len(vocabulary), dtype=torch.bool)
        self._continues[[i for w, i in vocabulary.items() if w.startswith("##")]] = True
        self._chance = torch.full((len(vocabulary),), self.probability)
        self._chance[list(self.boosted)] = self.boost
        self._special = torch.zeros(len(vocabulary), dtype=torch.bool)
        self._special[self.tokenizer.all_special_ids] = True

    def __call__(self, ids: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """(b, t) ids -> (b, t) masked ids, (b, most) positions (unused: 0), (b, most) true ids (unused: -100)."""
        chosen = self._choose(ids, generator)
        order = torch.rand(ids.shape, generator=generator).masked_fill(~chosen, 2.0).argsort(1)[:, : self.most]
        used = chosen.gather(1, order)
        if used.shape[1] < self.most:
            order, used = (torch.nn.functional.pad(x, (0, self.most - x.shape[1])) for x in (order, used))
        positions = torch.where(used, order, 0)
        labels = torch.where(used, ids.gather(1, positions), IGNORED)
        hidden = torch.zeros_like(chosen).scatter(1, positions, used)
        hidden[:, 0] = False
        return self._replace(ids, hidden, generator), positions, labels

    def _choose(self, ids: Tensor, generator: torch.Generator) -> Tensor:
        words = ~self._special[ids]
        chance = torch.where(words, torch.rand(ids.shape, generator=generator), 2.0)
        chosen = chance < self._chance[ids]
        chosen |= words & (chance == chance.amin(1, keepdim=True)) & ~chosen.any(1, keepdim=True)
        for t in range(1, ids.shape[1]):  # a word is hidden as a whole: its pieces follow its first
            chosen[:, t] = torch.where(self._continues[ids[:, t]], chosen[:, t - 1], chosen[:, t])
        return chosen & words

    def _replace(self, ids: Tensor, hidden: Tensor, generator: torch.Generator) -> Tensor:
        dice = torch.rand(ids.shape, generator=generator)
        other = torch.randint(len(self._special), ids.shape, generator=generator)
        other = torch.where(self._special[other], ids, other)
        masked = torch.where(dice < 0.8, self._mask, torch.where(dice < 0.9, other, ids))
        return torch.where(hidden, masked, ids)
