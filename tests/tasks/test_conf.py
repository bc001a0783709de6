"""Every yaml of conf/task builds its task, from values that are numbers."""

from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

from tests.models.tiny import blip, dino
from tests.tasks.conftest import tiny_model
from vlp_bench.metrics import captions
from vlp_bench.tasks.finetuning import FineTuning

FILES = sorted((Path(__file__).parents[2] / "conf/task").glob("[!_]*.yaml"))
BLIP = ("retrieval", "captioning", "vqa")


def fitting(name: str) -> nn.Module:
    """A tiny model of the kind that the task of a yaml takes."""
    if name.startswith("classification"):
        return dino.model()
    return blip.model() if name.startswith("blip") else tiny_model()


def composed(task: str, *words: str) -> Any:
    """conf/task/<task>.yaml; `blip/<task>` with what the papers change for BLIP."""
    family, _, name = task.rpartition("/")
    chosen = [f"+task={name}", *([f"+task/{family}={name}"] if family else []), *words]
    with initialize_config_dir(str(FILES[0].parents[1]), version_base="1.3"):
        return compose("config", chosen)


@pytest.mark.parametrize("name", [*(file.stem for file in FILES), *(f"blip/{task}_paper" for task in BLIP)])
def test_the_task_is_built_from_its_yaml(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for needed in ("java", "package"):  # the papers' caption metrics are refused early where they cannot run
        monkeypatch.setattr(captions, needed, lambda: FILES[0])
    arguments = OmegaConf.to_container(composed(name, "seed=3"), resolve=True)["task"]
    task = instantiate(arguments, _convert_="all", _partial_=True)(model=fitting(name), image_size=None)
    assert isinstance(task, FineTuning)
    assert task.seed == 3


@pytest.mark.parametrize(
    "name, epochs, batch",
    [
        ("retrieval_paper", 10, 128),
        ("blip/retrieval_paper", 6, 128),
        ("captioning_paper", 5, 256),
        ("blip/captioning_paper", 5, 256),
        ("vqa_paper", 10, 256),
        ("classification_paper", 10, 128),
        ("pairs_paper", 15, 256),
        ("zero_shot", 0, 64),
    ],
)
def test_a_task_brings_its_recipe(name: str, epochs: int, batch: int) -> None:
    recipe = composed(name).recipe
    assert (recipe.epochs, recipe.target_batch, recipe.clip) == (epochs, batch, None)


def test_the_published_recipe() -> None:
    paper = composed("retrieval_paper").task
    assert (paper.lr, list(paper.betas), paper.weight_decay) == (3e-5, [0.9, 0.98], 0.01)
    assert (paper.schedule, paper.warmup, paper.k_test, paper.image_size) == ("linear", 0.1, 256, 384)


@pytest.mark.parametrize(
    "name, lr, betas, decay, schedule, warmup",
    [
        ("vqa_paper", 5e-5, [0.9, 0.98], 0.01, "linear", 0.1),
        ("captioning_paper", 1e-5, [0.9, 0.98], 0.01, "linear", 0.1),
        ("blip/retrieval_paper", 1e-5, [0.9, 0.999], 0.05, "cosine", 0.0),
        ("blip/captioning_paper", 1e-5, [0.9, 0.999], 0.05, "cosine", 0.0),
        ("blip/vqa_paper", 2e-5, [0.9, 0.999], 0.05, "cosine", 0.0),
    ],
)
def test_the_other_published_recipes(
    name: str, lr: float, betas: list[float], decay: float, schedule: str, warmup: float
) -> None:
    """MULTIFLOW, supplement, Table 11."""
    task = composed(name).task
    assert (task.lr, list(task.betas), task.weight_decay) == (lr, betas, decay)
    assert (task.schedule, task.warmup, task.image_size) == (schedule, warmup, 384)
