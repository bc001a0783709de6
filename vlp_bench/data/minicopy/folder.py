"""Where a copy is written to: images drawn as JPEG, JSON as the papers' files have it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from vlp_bench.data.records import CaptionedImage
from vlp_bench.data.shapes.world import World

QUALITY = 95


@dataclass
class Target:
    """A folder to write to. `side`: pixels along an image; boxes grow with it."""

    root: Path
    world: World
    side: int = 48
    told: dict[str, Any] = field(default_factory=dict)
    """Path, with #split where a file has several -> the records a reader finds there."""

    @property
    def scale(self) -> float:
        return self.side / self.world.size[0]

    def image(self, key: str, place: str) -> Path:
        """Draw the scene of a key to `place`, below the root."""
        path = self.root / place
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            drawn = self.world.open(key).resize((self.side, self.side), Image.Resampling.NEAREST)
            drawn.save(path, "PNG" if path.suffix == ".png" else "JPEG", quality=QUALITY, subsampling=0)
        return path

    def json(self, place: str, content: object) -> None:
        self.text(place, json.dumps(content))

    def lines(self, place: str, records: Sequence[object]) -> None:
        self.text(place, "\n".join(map(json.dumps, records)) + "\n")

    def text(self, place: str, content: str) -> None:
        path = self.root / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")

    def images(self, split: str, n: int) -> list[CaptionedImage]:
        """Scenes of a split of the embedded world with five captions each."""
        return self.world.images(split, n)
