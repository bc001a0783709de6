"""Batches of a calibration set, made by the processor that lies beside a model."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer, PreTrainedModel
from transformers.utils.import_utils import is_torchvision_available

from vlp_bench.data.readers.calibration_sets import CAPTIONS, CHATS, TEXTS, Example, Message
from vlp_bench.models.checkpoints.hub import SCARCE, told
from vlp_bench.models.foreign.labels import label_numbers
from vlp_bench.models.foreign.likelihood import longest
from vlp_bench.models.foreign.loading import check_beside, kind_with_videos, without_videos
from vlp_bench.models.foreign.losses import as_answer
from vlp_bench.models.foreign.tree import OF_PIXELS, answers_apart

log = logging.getLogger(__name__)
Batch = dict[str, Tensor]
LONGEST = 512
"""Tokens of a text, unless told otherwise."""
ASKED = "Describe the image."
"""What a caption answers, where a model was trained on chats."""
WITHOUT_SIGN = ("Blip", "InstructBlip", "Git", "Kosmos", "PaliGemma")
"""Processors that put the signs for an image before a text themselves."""
BEGUN = "a photo of"
"""What the encoder of a model with a decoder reads beside an image; the decoder says the caption."""


NEEDS_NONE = "a pruner that reads weights only needs no data (omp, lamp, random; vlp-bench list pruners)"


def reads(model: PreTrainedModel) -> set[str]:
    """Which of "image" and "text" a model takes."""
    if model.config.model_type in OF_PIXELS:
        return {"image"}
    takes = signature(model.forward).parameters
    names = {"image": ("pixel_values", "flattened_patches"), "text": ("input_ids", "decoder_input_ids")}
    return {kind for kind, keys in names.items() if any(key in takes for key in keys)}


@dataclass
class Inputs:
    """Makes what a model is called with.

    Args:
        model: its signature says what it takes.
        folder: where its processor, tokenizer or image processor lies.
        max_length: tokens of a text; 0: what the tokenizer and the model allow, at most LONGEST.
    """

    model: PreTrainedModel
    folder: Path
    max_length: int = 0
    _warned: bool = field(default=False, init=False, repr=False)

    def batches(self, examples: Sequence[Example], kind: str, batch_size: int, *, even: bool = False) -> list[Batch]:
        """All batches of a set, in memory. Examples with images and without are never in one batch.

        Args:
            examples: at least one.
            kind: CAPTIONS, TEXTS or CHATS.
            batch_size: examples in each but the last.
            even: those of one shape go together, so that nothing is padded.

        Raises:
            ValueError: the model reads nothing of that kind, or what its processor needs is missing.
        """
        make = self._maker(kind, any(e.images for e in examples))
        if even:
            return _of_one_shape([self._taken(make, [example]) for example in examples], batch_size)
        groups = ([e for e in examples if e.images], [e for e in examples if not e.images])
        chunks = (own[at : at + batch_size] for own in groups for at in range(0, len(own), batch_size))
        return [self._taken(make, chunk) for chunk in chunks]

    def prompts(self, images: Sequence[Any], texts: Sequence[str]) -> Batch:
        """What a model that answers in words goes on from: an image and a text each.

        The chat template puts both in where there is one; else the text follows the sign for its image. Padding is on
        the left, where the next word follows the last one; on the right for an encoder, which would see a gap between
        image and text (BLIP-2's processor pads the text before it puts the image there).
        """
        encodes = self.model.config.is_encoder_decoder or self.model.config.get_text_config().is_encoder_decoder
        self.processor.tokenizer.padding_side = "right" if encodes else "left"
        if not self.chats:
            made = self._taken(self._after_images, list(texts), list(images), prompt=True)
            return {name: tensor for name, tensor in made.items() if name != "labels"}
        messages = [({"role": "user", "content": [{"type": "image"}, {"type": "text", "text": t}]},) for t in texts]
        asked = [self._templated(self.processor, m, add_generation_prompt=True) for m in messages]
        return self._taken(self._shown, asked, [[image] for image in images])

    @property
    def chats(self) -> bool:
        """Whether there is a chat template for texts and images."""
        return bool(getattr(self.processor, "chat_template", None))

    def images(self, images: Sequence[Any]) -> Batch:
        """Images alone."""
        return self._taken(self.image_processor, images=list(images), return_tensors="pt")

    def texts(self, texts: Sequence[str]) -> Batch:
        """Texts alone, padded and cut as the model was trained."""
        return self._taken(self._tokens, list(texts))

    def cut(self, texts: Sequence[str]) -> str:
        """A note on how many of some texts are longer than what is read of them; "" where none is."""
        most = self._padding["max_length"]
        long = sum(len(ids) > most for ids in self.tokenizer(list(texts), verbose=False)["input_ids"])
        return f"{long} of {len(texts)} texts are longer than the {most} tokens that are read, and cut" if long else ""

    def ids(self, text: str, *, special: bool) -> list[int]:
        """A text of any length as ids, with or without the special tokens that the tokenizer adds."""
        return list(self.tokenizer(text, add_special_tokens=special)["input_ids"])

    def _maker(self, kind: str, with_images: bool) -> Callable[[Sequence[Example]], Any]:
        sees, said = reads(self.model), type(self.model).__name__
        main = self.model.main_input_name
        if not sees or main.startswith(("input_features", "input_values")):
            raise ValueError(f"{said} reads {main}, neither images nor texts: {NEEDS_NONE}")
        if kind != CAPTIONS and "text" not in sees:
            raise ValueError(f"the calibration set holds {kind}, and {said} reads images: give a folder of images")
        if kind == CHATS and with_images and "image" not in sees:
            raise ValueError(f"the calibration set holds images, and {said} reads texts: give texts, or chats without")
        if kind == CHATS:
            return self._chats
        if kind == TEXTS or "image" not in sees:
            return self._texts
        return self._images if "text" not in sees else self._captions

    def _texts(self, examples: Sequence[Example]) -> Any:
        texts = [e.text for e in examples]
        if not all(texts):
            raise ValueError(f"{type(self.model).__name__} reads texts, and these images have no captions")
        return self._tokens(texts)

    def _images(self, examples: Sequence[Example]) -> Any:
        made = self.image_processor(images=[_one(e) for e in examples], return_tensors="pt")
        return {**made, **self._labels(examples)}

    def _labels(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """Of a classifier and images in class folders that its labels have."""
        classes = examples[0].classes
        if not classes or "labels" not in signature(self.model.forward).parameters:
            return {}
        found = label_numbers(self.model, classes, classes)
        if found.missing and not self._warned:
            self._warned = True
            log.warning(
                "%d of %d class folders, the first is %s, are not in the labels of the model's config.json: the images "
                "have no labels, which a loss needs", len(found.missing), len(classes), found.missing[0],
            )  # fmt: skip
        return {} if found.missing else {"labels": torch.tensor([found.numbers[e.label] for e in examples])}

    def _captions(self, examples: Sequence[Example]) -> Any:
        """Images and their captions: side by side (CLIP), as a chat, or one after the other."""
        takes = signature(self.model.forward).parameters
        captions, images = [e.text for e in examples], [_one(e) for e in examples]
        if not all(captions):
            raise ValueError(f"{type(self.model).__name__} reads texts too: give every image a caption")
        if "return_loss" in takes:
            return self.processor(text=captions, images=images, return_tensors="pt", **self._padding)
        if getattr(self.model.config, "is_encoder_decoder", False) or answers_apart(self.model):
            return self._said(captions, images, "input_ids" in takes)
        if self.chats:
            chats = [Example(e.images, "", _asked(e.text)) for e in examples]
            return self._chats(chats)
        return self._after_images(captions, images)

    def _after_images(self, captions: list[str], images: list[Any], *, prompt: bool = False) -> Any:
        """A caption behind the sign for its image, which some processors put there themselves."""
        name, mark = type(self.processor).__name__, getattr(self.processor, "image_token", None)
        settings = {"padding": True, "return_tensors": "pt"}
        if name.startswith("PaliGemma") and not prompt:  # what is to be said is given apart
            return self.processor(text=[BEGUN] * len(images), suffix=captions, images=images, **settings)
        if mark is None or name.startswith(WITHOUT_SIGN):
            return self.processor(text=captions, images=images, **settings)
        nested = [[image] for image in images]
        return self.processor(text=[f"{mark}{caption}" for caption in captions], images=nested, **settings)

    def _said(self, captions: list[str], images: list[Any], prompted: bool) -> Any:
        """Images for the encoder, captions for the decoder."""
        begun = {"text": [BEGUN] * len(images), "padding": True} if prompted else {}
        made = self.processor if prompted else self.image_processor
        words = self._tokens(captions)
        given = as_answer(words["input_ids"], words["attention_mask"])
        own = given if answers_apart(self.model) else {"labels": given["labels"]}
        return {**made(images=images, return_tensors="pt", **begun), **own}

    def _chats(self, examples: Sequence[Example]) -> Any:
        """By the chat template; the processor puts the images in."""
        images = [list(e.images) for e in examples]
        if not any(images) and "image" not in reads(self.model):
            prompts = [self._templated(self.tokenizer, _plain(e.messages)) for e in examples]
            return self._tokens(prompts, add_special_tokens=False)
        return self._shown([self._templated(self.processor, e.messages) for e in examples], images)

    def _shown(self, prompts: list[str], images: list[list[Any]]) -> Any:
        """What a chat template wrote, with its images put in."""
        begins = getattr(self.processor.tokenizer, "bos_token", None)
        special = {"add_special_tokens": False} if begins and prompts[0].startswith(begins) else {}
        given = {"images": images} if any(images) else {}
        return self.processor(text=prompts, padding=True, return_tensors="pt", **given, **special)

    def _templated(self, speaker: Any, messages: Sequence[Message], **settings: Any) -> str:
        if not getattr(speaker, "chat_template", None):
            raise ValueError(
                f"{self.folder} has no chat template (chat_template.jinja): give texts, or images with captions"
            )
        return speaker.apply_chat_template([dict(message) for message in messages], tokenize=False, **settings)

    def _tokens(self, texts: list[str], **special: Any) -> Any:
        return self.tokenizer(texts, return_tensors="pt", **self._padding, **special)

    @cached_property
    def _padding(self) -> dict[str, Any]:
        """How texts of one batch are made equally long: a model without attention mask has only seen full length."""
        masked = "attention_mask" in self.tokenizer.model_input_names
        return {"padding": True if masked else "max_length", "truncation": True, "max_length": self._longest(masked)}

    def _longest(self, masked: bool) -> int:
        own = self.tokenizer.model_max_length
        allowed = min(longest(self.model) or own, own)
        if not masked:
            return allowed
        return min(self.max_length or LONGEST, allowed)

    def _taken(self, make: Callable[..., Any], *given: Any, **settings: Any) -> Batch:
        """What the model takes of what is made, numbers in the model's type. ValueError for what can't be made."""
        try:
            made = make(*given, **settings)
        except SCARCE:
            raise
        except Exception as error:  # of whatever kind a processor raises for what is not as it should be
            if _is_ours(error):
                raise
            raise ValueError(
                f"the processor of {self.folder} can't make a batch for {type(self.model).__name__} ({told(error)}): "
                "look whether all files beside the model are its own"
            ) from error
        takes = {*signature(self.model.forward).parameters, *signature(self.model.base_model.forward).parameters}
        tensors = {key: torch.as_tensor(value) for key, value in made.items() if key in takes}
        kept = {key: t.to(self.model.dtype) if t.is_floating_point() else t for key, t in tensors.items()}
        if not kept:
            raise ValueError(f"the processor of {self.folder} gives {', '.join(made)}, and the model takes none of it")
        self._check_ids(kept)
        return kept

    def _check_ids(self, batch: Batch) -> None:
        """ValueError for a word that the model's table does not have: it would be read out of bounds."""
        known = getattr(self.model.config.get_text_config(), "vocab_size", None)
        largest = max((int(batch[key].max()) for key in ("input_ids", "labels") if key in batch), default=-1)
        if known is not None and largest >= known:
            raise ValueError(
                f"the tokenizer of {self.folder} gives the id {largest}, the model has {known} words: it is another's"
            )

    # What lies beside the model

    @cached_property
    def tokenizer(self) -> Any:
        found = self._loaded(AutoTokenizer, "tokenizer (tokenizer.json)")
        if found.pad_token is None:
            if found.eos_token is None:
                raise ValueError(f"the tokenizer of {self.folder} has no word for padding; set its pad_token")
            found.pad_token = found.eos_token
        return found

    @cached_property
    def image_processor(self) -> Any:
        return self._loaded(AutoImageProcessor, "image processor (preprocessor_config.json)")

    @cached_property
    def processor(self) -> Any:
        what = "processor (processor_config.json)"
        check_beside(Path(self.folder))
        try:
            found = self._loaded(AutoProcessor, what)
        except ValueError:
            kind = None if is_torchvision_available() else kind_with_videos(self.folder)
            if kind is None:
                raise
            found = without_videos(kind, self.folder, self.image_processor, self.tokenizer)
        if hasattr(found, "tokenizer") and hasattr(found, "image_processor"):
            found.tokenizer.pad_token = self.tokenizer.pad_token
            return found
        raise ValueError(
            f"{self.folder} has no processor for texts and images (processor_config.json), only a "
            f"{type(found).__name__}: copy the files from where the model came from"
        )

    def _loaded(self, auto: Any, what: str) -> Any:
        check_beside(Path(self.folder))
        try:
            return auto.from_pretrained(self.folder, local_files_only=True, trust_remote_code=False)
        except SCARCE:
            raise
        except ImportError as error:
            lacks = " ".join(str(error).split()).partition(" Check out")[0]
            raise ValueError(f"the {what} of {self.folder} needs a package: {lacks}") from error
        except Exception as error:  # of whatever kind its library raises for a file that is not as it should be
            raise ValueError(
                f"{self.folder} has no {what} that can be read: copy the files from where the model came from"
            ) from error


def _of_one_shape(made: Sequence[Batch], batch_size: int) -> list[Batch]:
    """Batches of several examples of those of one; shapes in the order in which they come first."""
    groups: dict[Any, list[Batch]] = {}
    for batch in made:
        groups.setdefault(tuple((key, tensor.shape) for key, tensor in batch.items()), []).append(batch)
    chunks = (own[at : at + batch_size] for own in groups.values() for at in range(0, len(own), batch_size))
    return [{key: torch.cat([own[key] for own in chunk]) for key in chunk[0]} for chunk in chunks]


def _is_ours(error: Exception) -> bool:
    """Whether this package raised it."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return frame.f_globals.get("__name__", "").startswith("vlp_bench.")


def _one(example: Example) -> Any:
    if len(example.images) != 1:
        raise ValueError(f"an image with a caption is needed, this example has {len(example.images)} images")
    return example.images[0]


def _asked(caption: str) -> tuple[Message, ...]:
    question = [{"type": "image"}, {"type": "text", "text": ASKED}]
    answer = [{"type": "text", "text": caption}]
    return ({"role": "user", "content": question}, {"role": "assistant", "content": answer})


def _plain(messages: Sequence[Message]) -> list[Message]:
    """Contents as texts, as templates of language models read them."""
    return [{"role": m["role"], "content": "\n".join(_words(m))} for m in messages]


def _words(message: Message) -> Iterator[str]:
    return (part["text"] for part in message["content"] if part["type"] == "text")
