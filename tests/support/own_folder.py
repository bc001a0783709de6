"""A folder of pictures and captions as somebody might have it: every kind of file, some words nobody has heard of."""

import json
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageDraw

COLOURS = {"red": (220, 30, 30), "green": (30, 160, 60), "blue": (40, 60, 220), "yellow": (230, 210, 40)}
SHAPES = ("circle", "square", "triangle")
ODD = ("CMYK.jpg", "turned.jpg", "clear.png", "deep.png")


def drawn(shape: str, colour: str, place: int) -> Image.Image:
    """One shape of one colour at one of 25 places on grey, 40 x 32."""
    image = Image.new("RGB", (40, 32), (128, 128, 128))
    x, y = 2 + 4 * (place % 5), 2 + 2 * (place // 5)
    box, draw = (x, y, x + 16, y + 16), ImageDraw.Draw(image)
    if shape == "circle":
        draw.ellipse(box, COLOURS[colour])
    elif shape == "square":
        draw.rectangle(box, COLOURS[colour])
    else:
        draw.polygon([(x, y + 16), (x + 8, y), (x + 16, y + 16)], COLOURS[colour])
    return image


def saved(image: Image.Image, folder: Path, number: int) -> str:
    """Write an image as PNG, every tenth in one of the odd ways; its name."""
    name = f"{number:04d}.png" if number % 10 else f"{number:04d}-{ODD[number // 10 % 4]}"
    if name.endswith("CMYK.jpg"):
        image = image.convert("CMYK")
    elif name.endswith("clear.png"):
        image.putalpha(Image.fromarray(np.where(np.asarray(image)[..., 0] == 128, 0, 255).astype(np.uint8)))
    elif name.endswith("deep.png"):
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    exif = Image.Exif()
    if name.endswith("turned.jpg"):
        exif[ExifTags.Base.Orientation] = 6
    image.save(folder / name, **({"exif": exif} if exif else {}))
    return name


def write(root: Path, images: int = 300, unknown: int = 20) -> Path:
    """`images` pictures in root/images and root/dataset.json in Karpathy's form; every `unknown`-th says a new word."""
    (root / "images").mkdir(parents=True)
    records = []
    for number in range(images):
        shape, colour = SHAPES[number % 3], list(COLOURS)[number // 3 % 4]
        name = saved(drawn(shape, colour, number // 12), root / "images", number)
        texts = [f"a {colour} {shape}", f"there is a {colour} {shape}" + (" zyxt" if number % unknown == 0 else "")]
        split = "test" if number % 10 == 9 else "val" if number % 10 == 8 else "train"
        sentences = [{"raw": text} for text in texts]
        records.append({"filename": name, "imgid": number, "split": split, "sentences": sentences})
    (root / "dataset.json").write_text(json.dumps({"images": records, "dataset": "mine"}))
    return root
