"""Class names as sentences: what a zero-shot classifier compares an image with.

Templates are those of CoOp (Zhou et al., IJCV 2022), one for each of its eleven data sets.
"""

from collections.abc import Sequence

from torch import Tensor
from transformers import BertTokenizer

from vlp_bench.data.shapes.phrases import vocabulary
from vlp_bench.data.text import Tokenizer, make_tokenizer

TEMPLATES = {
    "imagenet": "a photo of a {}.",
    "caltech101": "a photo of a {}.",
    "oxford_pets": "a photo of a {}, a type of pet.",
    "stanford_cars": "a photo of a {}.",
    "oxford_flowers": "a photo of a {}, a type of flower.",
    "food101": "a photo of {}, a type of food.",
    "fgvc_aircraft": "a photo of a {}, a type of aircraft.",
    "sun397": "a photo of a {}.",
    "dtd": "{} texture.",
    "eurosat": "a centered satellite photo of {}.",
    "ucf101": "a photo of a person doing {}.",
}


class Prompts:
    """Sentences about classes.

    Args:
        template: a sentence with `{}` in the place of the class, or the name of one of CoOp's data sets.
        tokenizer: of the model that reads them.
        max_tokens: where sentences are cut.

    Raises:
        ValueError: the template has no place for a class.
    """

    def __init__(self, template: str, tokenizer: Tokenizer, max_tokens: int = 77) -> None:
        self.template = TEMPLATES.get(template, template)
        if self.template.count("{}") != 1:
            names = ", ".join(TEMPLATES)
            raise ValueError(f"a template has one {{}} for the class, or is one of {names}; got {template!r}")
        self.tokenizer, self.max_tokens = tokenizer, max_tokens

    def sentence(self, name: str) -> str:
        """The template with a class in it; underscores are read as spaces."""
        return self.template.replace("{}", name.replace("_", " "))

    def encode(self, names: Sequence[str]) -> tuple[Tensor, Tensor]:
        """c names -> (c, t) ids and (c, t) attention, 1 = token."""
        cut = {"padding": "longest", "truncation": True, "max_length": self.max_tokens}
        encoded = self.tokenizer([self.sentence(name) for name in names], return_tensors="pt", **cut)
        return encoded["input_ids"], encoded["attention_mask"]


def world_tokenizer() -> BertTokenizer:
    """The embedded world's tokenizer: `[CLS] text`."""
    return make_tokenizer(vocabulary())
