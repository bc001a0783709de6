"""Drawing a scene: 48x48 RGB pixels, anti-aliased things on textured grey backgrounds."""

from functools import cache

import numpy as np

from vlp_bench.data.shapes.scenes import GRID, Scene, Thing

SIDE = 48
"""Width and height of an image, pixels."""
CELL = SIDE // GRID
RADII = (4.6, 7.2)
"""Half the extent of a small and of a large thing, pixels."""
_RGB = np.array(
    [
        [214, 39, 40],
        [150, 84, 28],
        [245, 222, 50],
        [44, 160, 44],
        [40, 200, 215],
        [40, 70, 220],
        [130, 50, 170],
        [247, 140, 200],
    ],
    np.float32,
)
_FINE = 4  # sub-pixels per pixel and axis
_REACH = 9  # half the side of a stamp, pixels


@cache
def stamp(shape: int, size: int) -> np.ndarray:
    """(2 reach, 2 reach) float32 coverage in 0..1 of a thing centred between the middle pixels."""
    axis = (np.arange(2 * _REACH * _FINE) + 0.5) / _FINE - _REACH
    v, u = np.meshgrid(axis / RADII[size], axis / RADII[size], indexing="ij")
    r = np.hypot(u, v)
    inside = (
        r <= 1,
        np.maximum(abs(u), abs(v)) <= 0.86,
        (v <= 0.75) & (abs(u) <= (v + 0.95) / 1.7),
        abs(u) + abs(v) <= 1.05,
        np.minimum(abs(u), abs(v)) <= 0.3,
        (r <= 1) & (r >= 0.55),
    )[shape] & (np.maximum(abs(u), abs(v)) <= 1.05)
    return inside.reshape(2 * _REACH, _FINE, 2 * _REACH, _FINE).mean((1, 3)).astype(np.float32)


@cache
def _stripes(phase: int) -> np.ndarray:
    """(2 reach, 2 reach) bool, diagonal stripes two pixels wide."""
    i, j = np.indices((2 * _REACH, 2 * _REACH))
    return (i + j + phase) % 4 < 2


def centre(thing: Thing, jitter: np.ndarray) -> tuple[int, int]:
    """Row and column in pixels of a thing's centre; `jitter` is two numbers in 0..1."""
    slack = (2, 0)[thing.size]
    dy, dx = (round(float(j * 2 - 1) * slack) for j in jitter)
    return thing.row * CELL + CELL // 2 + dy, thing.col * CELL + CELL // 2 + dx


def draw(scene: Scene) -> np.ndarray:
    """(48, 48, 3) uint8. The same scene always gives the same pixels."""
    rng = np.random.default_rng(scene.look)
    image = _background(rng)
    for thing in scene.things:
        _paint(image, thing, rng)
    return image[_REACH:-_REACH, _REACH:-_REACH].clip(0, 255).astype(np.uint8)


def boxes(scene: Scene) -> list[tuple[float, float, float, float]]:
    """x, y, width, height in pixels of every thing, in the scene's order, cut at the image's border."""
    rng = np.random.default_rng(scene.look)
    _background(rng)
    return [_box(thing, *_place(thing, rng)[:2]) for thing in scene.things]


def _box(thing: Thing, y: int, x: int) -> tuple[float, float, float, float]:
    r = RADII[thing.size] + 0.4
    x0, y0, x1, y1 = max(x - r, 0.0), max(y - r, 0.0), min(x + r, SIDE), min(y + r, SIDE)
    return x0, y0, x1 - x0, y1 - y0


def _place(thing: Thing, rng: np.random.Generator) -> tuple[int, int, np.ndarray]:
    """Centre of a thing and six numbers in 0..1 for its colour and stripes: drawn once, so boxes and pixels agree."""
    chance = rng.random(8)
    return *centre(thing, chance[:2]), chance[2:]


def _background(rng: np.random.Generator) -> np.ndarray:
    """(48 + 2 reach) squared by 3 float32: a grey level with coarse blotches, a slope and a fine grain."""
    side = SIDE + 2 * _REACH
    coarse = np.kron(rng.normal(0, 9, (11, 11)), np.ones((6, 6)))[:side, :side]
    slope = np.linspace(-1, 1, side) * rng.normal(0, 12)
    grain = rng.normal(0, 5, (side, side))
    grey = rng.uniform(70, 185) + coarse + grain + (slope if rng.random() < 0.5 else slope[:, None])
    return np.repeat(grey[:, :, None], 3, 2).astype(np.float32)


def _paint(image: np.ndarray, thing: Thing, rng: np.random.Generator) -> None:
    y, x, chance = _place(thing, rng)
    window = image[y : y + 2 * _REACH, x : x + 2 * _REACH]
    colour = _RGB[thing.colour] + (chance[:3] * 2 - 1).astype(np.float32) * 14
    fill = np.broadcast_to(colour, window.shape)
    if thing.texture == 1:
        fill = np.where(_stripes(int(chance[3] * 4))[:, :, None], fill, 250.0 if chance[4] < 0.5 else 8.0)
    alpha = stamp(thing.shape, thing.size)[:, :, None]
    window += alpha * (fill - window)
