"""Every yaml of conf/task builds its task, from values that are numbers."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

from tests.models.tiny import blip, dino
from tests.tasks.conftest import tiny_model
from vlp_bench.metrics import captions
from vlp_bench.tasks.finetuning import FineTuning

FILES = sorted((Path(__file__).parents[2] / "conf/task").glob("*.yaml"))


def fitting(name: str) -> nn.Module:
    """A tiny model of the kind that the task of a yaml takes."""
    if name.startswith("classification"):
        return dino.model()
    return blip.model() if "_blip" in name else tiny_model()


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_task_is_built_from_its_yaml(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("java", "package"):  # the papers' caption metrics are refused early where they cannot run
        monkeypatch.setattr(captions, name, lambda: file)
    with initialize_config_dir(str(file.parents[1]), version_base="1.3"):
        config = compose("config", [f"+task={file.stem}", "seed=3"])
    arguments = OmegaConf.to_container(config, resolve=True)["task"]
    task = instantiate(arguments, _convert_="all", _partial_=True)(model=fitting(file.stem), image_size=None)
    assert isinstance(task, FineTuning)
    assert task.seed == 3


def test_the_published_recipe() -> None:
    paper = OmegaConf.load(FILES[0].with_name("retrieval_paper.yaml"))
    assert (paper.lr, list(paper.betas), paper.weight_decay) == (3e-5, [0.9, 0.98], 0.01)
    assert (paper.schedule, paper.warmup, paper.k_test, paper.image_size) == ("linear", 0.1, 256, 384)


@pytest.mark.parametrize(
    "name, lr, betas, decay, schedule, warmup",
    [
        ("vqa_paper", 5e-5, [0.9, 0.98], 0.01, "linear", 0.1),
        ("captioning_paper", 1e-5, [0.9, 0.98], 0.01, "linear", 0.1),
        ("retrieval_blip_paper", 1e-5, [0.9, 0.999], 0.05, "cosine", 0.0),
        ("captioning_blip_paper", 1e-5, [0.9, 0.999], 0.05, "cosine", 0.0),
        ("vqa_blip_paper", 2e-5, [0.9, 0.999], 0.05, "cosine", 0.0),
    ],
)
def test_the_other_published_recipes(
    name: str, lr: float, betas: list[float], decay: float, schedule: str, warmup: float
) -> None:
    """MULTIFLOW, supplement, Table 11."""
    with initialize_config_dir(str(FILES[0].parents[1]), version_base="1.3"):
        task = compose("config", [f"+task={name}"]).task
    assert (task.lr, list(task.betas), task.weight_decay) == (lr, betas, decay)
    assert (task.schedule, task.warmup, task.image_size) == (schedule, warmup, 384)
