"""Captioned regions in Visual Genome's own files, X-VLM's list and the lists grouped by image."""

from dataclasses import replace

from vlp_bench.data.minicopy.folder import Target
from vlp_bench.data.records import RegionCaption, RegionImage


def regions(target: Target, n: int, questions: int) -> None:
    """All three, about the same images; `questions`: how many more images have questions alone (from 1001)."""
    scenes = target.world.region_images("calibration_region", n)
    places = [f"VG_100K/{number}.jpg" for number in range(1, n + 1)]
    found = [_moved(target, scene, place) for scene, place in zip(scenes, places, strict=True)]
    for scene, place in zip(scenes, places, strict=True):
        target.image(scene.image, f"images/vg/{place}")
    _original(target, found, questions)
    _released(target, found)
    _grouped(target, found)


def _moved(target: Target, scene: RegionImage, place: str) -> RegionImage:
    """The record of the scaled image."""
    grown = tuple(RegionCaption(r.caption, _box(r, target.scale)) for r in scene.regions)
    return RegionImage(place, grown, (target.side, target.side))


def _box(region: RegionCaption, scale: float) -> tuple[float, float, float, float]:
    x, y, w, h = (value * scale for value in region.box)
    return x, y, w, h


def _original(target: Target, found: list[RegionImage], questions: int) -> None:
    numbers = [*range(1, len(found) + 1), *range(1001, 1001 + questions)]
    folders = {number: "VG_100K" if number < 1001 else "VG_100K_2" for number in numbers}
    data = [
        {"image_id": n, "url": f"images/{folders[n]}/{n}.jpg", "width": target.side, "height": target.side}
        for n in numbers
    ]
    descriptions = []
    for number, record in enumerate(found, 1):
        listed = []
        for at, region in enumerate(record.regions):
            box = dict(zip(("x", "y", "width", "height"), region.box, strict=True))
            listed.append({"region_id": 100 * number + at, "image_id": number, "phrase": region.caption} | box)
        descriptions.append({"id": number, "regions": listed})
    target.json("visual_genome/image_data.json", data)
    target.json("visual_genome/region_descriptions.json", descriptions)
    target.told["visual_genome/region_descriptions.json"] = found


def _released(target: Target, found: list[RegionImage]) -> None:
    """X-VLM's list, whose paths start from the data folder."""
    records = [
        {
            "image": f"images/vg/{record.image}",
            "elems": [{"caption": r.caption, "bb": list(r.box)} for r in record.regions],
        }
        for record in found
    ]
    target.json("pretrain/vg_regions.json", records)
    target.told["pretrain/vg_regions.json"] = [replace(r, image=f"images/vg/{r.image}") for r in found]


def _grouped(target: Target, found: list[RegionImage]) -> None:
    records = [
        {
            "image": record.image,
            "caption": [r.caption for r in record.regions],
            "bb": [list(r.box) for r in record.regions],
            "dataset": "vg",
        }
        for record in found
    ]
    target.json("pretrain/vg_dense_gby_image.json", records)
    target.told["pretrain/vg_dense_gby_image.json"] = found
