"""A tokenizer that knows letters, texts, MMLU's CSV files, questions and class folders for tiny models."""

import csv
import json
from pathlib import Path

import numpy as np
import transformers as t
from PIL import Image
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from tests.runs.own_model.folders import folder, pictures

WORDS = (
    *("<pad>", "<s>", "</s>", "<unk>", "A", "B", "C", "D", "Answer:", ".", "The", "following", "are", "multiple"),
    *("choice", "questions", "about", "what", "is", "red", "dog", "blue", "cat", "one", "two", "three", "four"),
)


def letters(**more):
    """Words and stops; no <s> before a text, as T5's."""
    made = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="<unk>"))
    split = pre_tokenizers.Split(Regex(r"Answer:|\w+|\."), "removed", invert=True)
    made.pre_tokenizer = pre_tokenizers.Sequence([split])
    signs = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return t.PreTrainedTokenizerFast(tokenizer_object=made, **signs, **({"model_max_length": 4096} | more))


def text(place: Path, name: str = "wiki.test.raw", count: int = 40) -> Path:
    place.mkdir(parents=True, exist_ok=True)
    drawn = np.random.default_rng(0).choice(WORDS[4:], (count, 8))
    (place / name).write_text("".join(f" {' '.join(row)} \n" if n % 5 else " \n" for n, row in enumerate(drawn)))
    return place


QUESTIONS = {"plane_geometry": 7, "anatomy": 5}


def mmlu(place: Path) -> Path:
    """Two subjects, five answered questions each."""
    generator = np.random.default_rng(1)
    for split in ("dev", "test"):
        (place / split).mkdir(parents=True)
        for subject, count in QUESTIONS.items():
            with open(place / split / f"{subject}_{split}.csv", "w", newline="") as file:
                for _ in range(5 if split == "dev" else count):
                    words = " ".join(generator.choice(WORDS[17:23], generator.integers(2, 9)))
                    choices = [f'a "{word}", quoted' for word in generator.choice(WORDS[19:27], 4)]
                    csv.writer(file).writerow([f"what is\n{words}?", *choices, "ABCD"[generator.integers(4)]])
    return place


def karpathy(place: Path, count: int = 12) -> Path:
    """`dataset.json` with five captions an image, all of the test split, and `images`."""
    pictures(place / "images", count)
    words = np.random.default_rng(2)
    names = ("a", "red", "dog", "blue", "cat", "of", "the", "w20", "w21", "w22", "w23", "w24")
    told = lambda: {"raw": " ".join(words.choice(names, words.integers(3, 9)))}  # noqa: E731
    images = [
        {"filename": f"{n}.png", "imgid": n, "split": "test" if n else "train", "sentences": [told() for _ in range(5)]}
        for n in range(count)
    ]
    (place / "dataset.json").write_text(json.dumps({"images": images}))
    return place


def vqa(place: Path, count: int = 12) -> Path:
    """Salesforce's list of questions."""
    pictures(place / "images", count)
    rows = [
        {
            "image": f"{n}.png",
            "question": f"what is the {'red ' * (n % 4)}dog",
            "question_id": n,
            "answer": ["w12"] * 6 + ["cat"] * 4,
        }
        for n in range(count)
    ]
    (place / "vqa_test.json").write_text(json.dumps(rows))
    return place


def folders_of_classes(place: Path, names: tuple[str, ...], each: int = 3) -> Path:
    generator = np.random.default_rng(3)
    for name in names:
        (place / "val" / name).mkdir(parents=True)
        for number in range(each):
            pixels = generator.integers(0, 255, (18, 20, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(place / "val" / name / f"{number}.png")
    return place


def folders_when_asked(tmp_path_factory):
    """Folders by name, each made when it is first asked for; those of language models with letters."""
    place, made = tmp_path_factory.mktemp("folders"), {}

    def get(name):
        if name not in made:
            made[name] = folder(name, place)
            if name in ("llama", "gpt2", "t5", "bert"):
                letters().save_pretrained(made[name])
        return made[name]

    return get
