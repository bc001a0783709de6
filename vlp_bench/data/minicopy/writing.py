"""All formats into one folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlp_bench.data.minicopy import captions, classes, questions, regions
from vlp_bench.data.minicopy.folder import Target
from vlp_bench.data.shapes.phrases import vocabulary
from vlp_bench.data.shapes.world import World

ABOUT = """\
The embedded world of vlp_bench in the formats its readers know, written by
`vlp-bench data mini-copy`. Everything is drawn by code; nothing comes from the data sets whose
formats these are.

bert-base-uncased/  vocab.txt, one word a line
finetune/           lists of X-VLM, BLIP and MULTIFLOW: retrieval, captioning, questions       format=salesforce
pretrain/           lists to calibrate on: captions, regions, regions grouped by image         salesforce, grouped
karpathy/           dataset_coco.json                                                          karpathy
annotations/        COCO captions                                                              coco
vqa/                VQAv2's and OK-VQA's official files                                        vqav2
gqa/                GQA's official questions                                                   gqa
visual_genome/      image data, region descriptions, questions and answers                     visual_genome
nocaps/ nlvr2/      their official lists; BLIP's of NLVR2                                      nocaps, nlvr2
img2dataset/        webdataset shards and folders of files                                     webdataset, files
parquet/            a Hugging Face table (only where pyarrow is installed)                     parquet
imagenet/ oxford_pets/ fgvc_aircraft/ flowers102/ cifar-10-batches-bin/ cifar-100-binary/
                    images by class                                      imagefolder, coop, aircraft, listed, cifar
c4/                 text, one page a line
images/             coco, cc3m, vg, gqa, nocaps, nlvr2

vlp-bench data check +exp=xvlm_itr benchmark=paper paths.data=. \\
    paths.vocab=bert-base-uncased/vocab.txt
"""


@dataclass(frozen=True)
class Copy:
    """What was written: path below `root` (with #split where one has several) -> the records a reader finds there."""

    root: Path
    told: dict[str, Any]


def write(root: str | Path, images: int = 20, side: int = 48, world: int = 0) -> Copy:
    """Write the embedded world to `root` in every format.

    Args:
        root: a new or empty folder.
        images: training images; validation and test have a quarter of that.
        side: pixels along an image.
        world: seed of the world.

    Raises:
        ValueError: the folder holds something, fewer than 8 images, or a side below 32.
    """
    root = Path(root)
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise ValueError(f"{root} is not an empty folder; give a new one, so that nothing of yours is overwritten")
    if images < 8 or side < 32:
        raise ValueError(f"a copy takes at least 8 images of 32 pixels, got {images} of {side}")
    target = Target(root, World(world), side)
    sizes = {"train": images, "val": images // 4, "test": images // 4}
    target.text("README.txt", ABOUT)
    target.text("bert-base-uncased/vocab.txt", "".join(f"{word}\n" for word in vocabulary()))
    _captions(target, sizes)
    _questions(target, sizes)
    scenes = classes.labelled(target, {split: max(n, 6) for split, n in sizes.items()})  # each class in each split
    for part in (classes.folders, classes.coop, classes.aircraft, classes.listed, classes.cifar):
        part(target, scenes)
    classes.texts(target, images)
    return Copy(root, target.told)


def _captions(target: Target, sizes: dict[str, int]) -> None:
    scenes = captions.numbered(target, sizes)
    for part in (captions.released, captions.karpathy, captions.coco):
        part(target, scenes)
    captions.nocaps(target, sizes["test"])
    captions.conceptual(target, sizes["train"])
    captions.parquet(target, sizes["val"])


def _questions(target: Target, sizes: dict[str, int]) -> None:
    questions.vqa(target, sizes)
    questions.gqa(target, sizes["test"])
    questions.genome_questions(target, sizes["train"])
    questions.nlvr2(target, sizes)
    regions.regions(target, sizes["train"], sizes["train"])
