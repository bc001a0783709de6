"""Folders as the hub has them, of the tiny models, with tokenizer, processor, chat template; and calibration sets."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import transformers as t
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers

from tests.models.foreign.zoo import BEGIN, END, IMAGE, VIDEO, built

NAMED = ("<pad>", "<s>", "</s>", "<unk>", "a", "red", "dog", "blue", "cat", "Describe", "the", "image.", "user", "of")
SIGNS = {"<image>": IMAGE, "<video>": VIDEO, "<begin>": BEGIN, "<end>": END}
SIGNS |= {"<fake_token_around_image>": 57, "<global-img>": 58, "<end_of_utterance>": 59}  # of Idefics3
CHAT = (
    "{% for m in messages %}{{ m.role }} {% if m.content is string %}{{ m.content }} {% else %}"
    "{% for c in m.content %}{% if c.type == 'image' %}IMAGE {% else %}{{ c.text }} {% endif %}{% endfor %}"
    "{% endif %}</s> {% endfor %}"
)
SIZE = {"height": 16, "width": 16}


def tokenizer(**more: Any) -> Any:
    """Whole words; those that are not known are <unk>."""
    words = {word: number for number, word in enumerate(NAMED)} | {f"w{n}": n for n in range(len(NAMED), 57)}
    made = Tokenizer(models.WordLevel(words | SIGNS, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    signs = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    settings = {"additional_special_tokens": list(SIGNS), "model_max_length": 64} | more
    return t.PreTrainedTokenizerFast(tokenizer_object=made, **signs, **settings)


def _chat(sign: str) -> str:
    return CHAT.replace("IMAGE", sign)


def _llava() -> Any:
    images = t.CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size=SIZE)
    words = tokenizer(extra_special_tokens={"image_token": "<image>"})
    return t.LlavaProcessor(
        images, words, patch_size=4, vision_feature_select_strategy="default", chat_template=_chat("<image>"),
        num_additional_image_tokens=1,
    )  # fmt: skip


def _gemma3() -> Any:
    signs = {"image_token": "<image>", "boi_token": "<begin>", "eoi_token": "<end>"}
    words = tokenizer(extra_special_tokens=signs)
    return t.Gemma3Processor(
        t.Gemma3ImageProcessorPil(size=SIZE), words, image_seq_length=4, chat_template=_chat("<begin>")
    )


def _paligemma() -> Any:
    images = t.SiglipImageProcessorPil(size=SIZE)
    images.image_seq_length = 16
    return t.PaliGemmaProcessor(images, tokenizer(extra_special_tokens={"image_token": "<image>"}))


def _idefics3() -> Any:
    images = t.Idefics3ImageProcessorPil(
        size={"longest_edge": 16}, max_image_size={"longest_edge": 16}, do_image_splitting=False
    )
    return t.Idefics3Processor(images, tokenizer(), image_seq_len=4, chat_template=_chat("<image>"))


def _blip2() -> Any:
    return t.Blip2Processor(t.BlipImageProcessorPil(size=SIZE), tokenizer(), num_query_tokens=4)


def _siglip() -> Any:
    words = tokenizer(model_max_length=16, model_input_names=["input_ids"])
    return t.SiglipProcessor(t.SiglipImageProcessorPil(size=SIZE), words)


def _clip() -> Any:
    images = t.CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size=SIZE)
    return t.CLIPProcessor(images, tokenizer(model_max_length=16))


PROCESSORS: dict[str, Callable[[], Any]] = {
    "vit": lambda: t.ViTImageProcessorPil(size=SIZE),
    "dinov2": lambda: t.ViTImageProcessorPil(size=SIZE),
    "siglip": _siglip,
    "clip": _clip,
    **dict.fromkeys(
        ("blip", "blip_questions"), lambda: t.BlipProcessor(t.BlipImageProcessorPil(size=SIZE), tokenizer())
    ),
    "blip2": _blip2,
    "blip2_t5": _blip2,
    "llava": _llava,
    "gemma3": _gemma3,
    "paligemma": _paligemma,
    "idefics3": _idefics3,
    **dict.fromkeys(("t5", "bart", "bert", "gpt2", "llama", "mixtral"), tokenizer),
}
"""What lies beside the weights."""


def folder(name: str, place: Path) -> Path:
    """The folder of a tiny model, `place`/`name`."""
    path = place / name
    built(name).save_pretrained(path)
    if name in VIDEOS:
        _with_videos(path, name)
    else:
        PROCESSORS[name]().save_pretrained(path)
    return path


QWEN = {"patch_size": 4, "temporal_patch_size": 2, "merge_size": 2, "min_pixels": 64, "max_pixels": 1024}
EDGES = {"size": {"longest_edge": 16}, "max_image_size": {"longest_edge": 16}, "do_image_splitting": False}
PINS = {"size": SIZE, "image_grid_pinpoints": [[16, 16], [16, 32], [32, 16]]}
VIDEOS: dict[str, tuple[str, str, Callable[[], Any], dict[str, Any]]] = {
    "qwen2_5_vl": ("Qwen2_5_VLProcessor", "<begin> <image> <end>", lambda: t.Qwen2VLImageProcessorPil(**QWEN), {}),
    "qwen3_vl": ("Qwen3VLProcessor", "<begin> <image> <end>", lambda: t.Qwen2VLImageProcessorPil(**QWEN), {}),
    "smolvlm": ("SmolVLMProcessor", "<image>", lambda: t.SmolVLMImageProcessorPil(**EDGES), {"image_seq_len": 4}),
    "llava_onevision": (
        "LlavaOnevisionProcessor", "<image>", lambda: t.LlavaOnevisionImageProcessorPil(**PINS),
        {"num_image_tokens": 16, "vision_feature_select_strategy": "full"},
    ),
}  # fmt: skip
"""Written without transformers, whose part for videos needs torchvision: class, sign for an image, images, the rest."""


def _with_videos(path: Path, name: str) -> None:
    kind, sign, images, more = VIDEOS[name]
    signs = {"image_token": "<image>", "video_token": "<video>"}
    tokenizer(extra_special_tokens=signs, model_max_length=512).save_pretrained(path)
    (path / "chat_template.jinja").write_text(_chat(sign))
    content = {"processor_class": kind, "image_processor": images().to_dict(), "video_processor": {"merge_size": 2}}
    (path / "processor_config.json").write_text(json.dumps(content | more, default=str))


SAID = ("a red dog", "a blue cat of the red dog", "a dog", "blue cat of a w20 w21")


def pictures(place: Path, count: int = 12, listed: bool = True) -> Path:
    """Images with captions: `captions.jsonl`, or a .txt beside each."""
    place.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    rows = []
    for number in range(count):
        shape = (20 + number, 24, 3)
        Image.fromarray(generator.integers(0, 255, shape, dtype=np.uint8)).save(place / f"{number}.png")
        rows.append({"file_name": f"{number}.png", "caption": SAID[number % len(SAID)]})
        if not listed:
            (place / f"{number}.txt").write_text(rows[-1]["caption"])
    if listed:
        lines(place / "captions.jsonl", rows)
    return place


def lines(path: Path, rows: list[Any]) -> Path:
    """A JSON lines file."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def texts(place: Path, count: int = 12) -> Path:
    return lines(place / "texts.jsonl", [{"text": SAID[n % len(SAID)]} for n in range(count)])


def chats(place: Path, count: int = 12) -> Path:
    """One image a chat, below `pictures`."""
    pictures(place / "pictures", count)
    return lines(place / "chats.jsonl", [{"messages": _turns(n)} for n in range(count)])


def _turns(number: int) -> list[dict[str, Any]]:
    shown = [{"type": "image", "image": f"pictures/{number}.png"}, {"type": "text", "text": "Describe the image."}]
    return [{"role": "user", "content": shown}, {"role": "assistant", "content": SAID[number % len(SAID)]}]
