"""A generated set of 2,000 images in the official formats goes through `benchmark=paper`, for every task.

The papers' data settings, transforms and tasks, and full-size models with random weights. What is cut are the numbers
of batches, the validation and test files (eight records each) and what a batch holds. BLIP-2 at its full size takes
16 GB; its tasks run with a tiny one in tests/commands/test_blip2_tasks.py.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from vlp_bench.data.minicopy.writing import write

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]
IMAGES = int(os.environ.get("VLP_BENCH_COPY_IMAGES", "2000"))
KEPT = 8
"""Records of a validation or test file, each of which a full-size model looks at."""
EVALUATED = (
    "finetune/itr/coco_val.json", "finetune/itr/coco_test.json", "finetune/ic/coco_karpathy_val.json",
    "finetune/ic/coco_karpathy_test.json", "finetune/vqa/vqa_val.json", "finetune/vqa/vqa_test.json",
    "nlvr2/nlvr_dev.json", "nlvr2/nlvr_test.json",
)  # fmt: skip


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if "VLP_BENCH_COPY" in os.environ:  # written by a run before
        return Path(os.environ["VLP_BENCH_COPY"])
    root = write(tmp_path_factory.mktemp("copy") / "data", images=IMAGES, side=64).root
    for name in EVALUATED:
        file = root / name
        file.write_text(json.dumps(json.loads(file.read_text())[:KEPT]))
    file = root / "karpathy/dataset_coco.json"
    content = json.loads(file.read_text())
    split = {name: [i for i in content["images"] if i["split"] == name] for name in ("train", "restval", "val", "test")}
    kept = [*split["train"], *split["restval"], *split["val"][:KEPT], *split["test"][:KEPT]]
    file.write_text(json.dumps(content | {"images": kept}))
    return root


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Family -> a file (a folder in the hub's layout) of its full-size model with random weights."""
    from vlp_bench.models.checkpoints.read_write import save_model

    root = tmp_path_factory.mktemp("weights")

    def made(family: str) -> Path:
        file = root / (family if family == "clip" else f"{family}.safetensors")
        if not file.exists():
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                if family == "clip":
                    _clip(file)
                else:
                    save_model(file, _model(family))
        return file

    return made


def _model(family: str):
    from vlp_bench.models.blip.model import BLIP
    from vlp_bench.models.blip.towers import BLIPConfig
    from vlp_bench.models.dino import DINO, DINOConfig
    from vlp_bench.models.xvlm.model import XVLM
    from vlp_bench.models.xvlm.towers import XVLMConfig

    if family == "dino":
        return DINO(DINOConfig())
    return XVLM(XVLMConfig()) if family == "xvlm" else BLIP(BLIPConfig())


def _clip(folder: Path) -> None:
    """ViT-B/16, and a tokenizer that knows bytes alone."""
    from transformers import CLIPModel, CLIPTokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    from vlp_bench.models.clip import CLIPSizes

    CLIPModel(CLIPSizes().config("sdpa")).save_pretrained(folder)
    letters = list(bytes_to_unicode().values())
    known = [*letters, *(f"{letter}</w>" for letter in letters)]
    table = {token: i for i, token in enumerate(known)} | {"<|startoftext|>": 49406, "<|endoftext|>": 49407}
    CLIPTokenizer(vocab=table, merges=[]).save_pretrained(folder)


SMALL = (
    "trainer=cpu", "+trainer.limit_train_batches=3", "recipe.target_batch=2", "data.batch_size=2",
    "data.eval_batch_size=4", "data.num_workers=0", "data.calibration.batch_size=2", "data.calibration.num_batches=2",
    "sparsity=0.5",
)  # fmt: skip


def performed(exp: str, copy: Path, weights: Path, out: Path, *words: str) -> dict[str, float]:
    """The test's numbers of an experiment."""
    from vlp_bench.results.store import Store
    from vlp_bench.results.tables import test_values
    from vlp_bench.runs.run import run
    from vlp_bench.runs.specification import specification_of

    epochs = () if exp.startswith("clip_") else ("recipe.epochs=1",)
    given = [
        f"+exp={exp}", "benchmark=paper", f"model.weights={weights}", f"paths.data={copy}", f"paths.out={out}",
        f"paths.vocab={copy}/bert-base-uncased/vocab.txt", *SMALL, *epochs, *words,
    ]  # fmt: skip
    specification = specification_of(given)
    run(specification)
    return test_values(Store(specification.out / "runs").query(run=specification.run))


def karpathy(copy: Path) -> list[str]:
    """The same images by Karpathy's file, shards and Visual Genome's own files."""
    file = copy / "karpathy/dataset_coco.json"
    return [
        *(f"data.source.{split}={file}" for split in ("train", "val", "test")), "data.source.format=karpathy",
        f"data.source.general={copy}/img2dataset/webdataset", "data.source.general_format=webdataset",
        f"data.source.regions={copy}/visual_genome/region_descriptions.json",
        "data.source.regions_format=visual_genome",
        f"data.source.regions_images={copy}/images/vg",
    ]  # fmt: skip


def official(copy: Path) -> list[str]:
    """VQAv2's own files; what is tested are validation questions, the first of them, which have answers."""
    for kind, name in (("questions", "OpenEnded_mscoco"), ("annotations", "mscoco")):
        content = json.loads((copy / f"vqa/v2_{name}_val2014_{kind}.json").read_text())
        cut = copy / f"vqa/cut_{name}_val2014_{kind}.json"
        cut.write_text(json.dumps(content | {kind: content[kind][:KEPT]}))
    train, val = (
        copy / f"vqa/{n}_OpenEnded_mscoco_{s}2014_questions.json" for n, s in (("v2", "train"), ("cut", "val"))
    )
    return [
        f"data.source.train=[{train}]", f"data.source.val={val}", f"data.source.test={val}",
        "data.source.format=vqav2", "data.source.answer_list=null",
    ]  # fmt: skip


def test_every_image_is_sound(copy: Path) -> None:
    from vlp_bench.commands.data import _of_experiment, examine

    lists = copy / "finetune/vqa"
    apart = f"data.source.train=[{lists}/vqa_train.json,{lists}/vg_qa.json]"  # the papers train on validation too
    for exp, *words in (["xvlm_itr"], ["xvlm_ic"], ["xvlm_vqa", apart], ["blip_nlvr2"]):
        given = [
            f"+exp={exp}",
            "benchmark=paper",
            f"paths.data={copy}",
            f"paths.vocab={copy}/bert-base-uncased/vocab.txt",
        ]
        assert examine(_of_experiment([*given, *words]), most=None), exp
    assert len(list((copy / "images/coco/train2014").iterdir())) >= IMAGES


@pytest.mark.parametrize("exp", ["xvlm_itr", "blip_itr"])
def test_retrieval(exp: str, copy: Path, weights: Callable[[str], Path], tmp_path: Path) -> None:
    for words in ([], karpathy(copy)) if exp == "xvlm_itr" else ([],):
        values = performed(exp, copy, weights(exp[:4]), tmp_path / "out", *words)
        assert 0 <= values["txt_r1"] <= values["txt_r10"] <= 100
        assert values["img_r10"] == 100  # of eight images


@pytest.mark.parametrize("exp", ["xvlm_ic", "blip_ic", "xvlm_ic_pretrain"])
def test_captioning(exp: str, copy: Path, weights: Callable[[str], Path], tmp_path: Path) -> None:
    values = performed(exp, copy, weights(exp[:4]), tmp_path / "out")
    assert {"bleu4", "meteor", "rouge_l", "cider"} <= values.keys()


@pytest.mark.parametrize("exp", ["xvlm_vqa", "blip_vqa"])
def test_questions(exp: str, copy: Path, weights: Callable[[str], Path], tmp_path: Path) -> None:
    values = performed(exp, copy, weights(exp[:4]), tmp_path / "out")
    assert "accuracy" not in values  # test questions are without answers
    told = json.loads(next((tmp_path / "out/runs").glob("*/answers.json")).read_text())
    assert len(told) == KEPT
    if exp == "xvlm_vqa":
        values = performed(exp, copy, weights("xvlm"), tmp_path / "out", *official(copy))
        assert 0 <= values["accuracy"] <= 100
        assert {"type/number", "type/other"} & values.keys()


def test_pairs(copy: Path, weights: Callable[[str], Path], tmp_path: Path) -> None:
    assert 0 <= performed("blip_nlvr2", copy, weights("blip"), tmp_path / "out")["accuracy"] <= 100


def test_classes(copy: Path, weights: Callable[[str], Path], tmp_path: Path) -> None:
    words = ["task.classes=6", "+trainer.limit_val_batches=2", "+trainer.limit_test_batches=2"]  # the world's shapes
    for exp in ("dino_cls", "dino_flowers102"):
        values = performed(exp, copy, weights("dino"), tmp_path / "out", *words)
        assert 0 <= values["accuracy"] <= 100


def test_sentences_about_classes(copy: Path, weights: Callable[[str], Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    values = performed("clip_coop", copy, weights("clip"), out, "dataset=oxford_pets", "+trainer.limit_test_batches=2")
    assert 0 <= values["accuracy"] <= 100
