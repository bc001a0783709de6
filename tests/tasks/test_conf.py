"""Every yaml of conf/task builds its task, from values that are numbers."""

from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from tests.tasks.conftest import tiny_model
from vlp_bench.tasks.retrieval import Retrieval

FILES = sorted((Path(__file__).parents[2] / "conf/task").glob("*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_task_is_built_from_its_yaml(file: Path) -> None:
    root = OmegaConf.create({"seed": 3, "task": OmegaConf.load(file)})
    arguments = OmegaConf.to_container(root, resolve=True)["task"]
    task = instantiate(arguments, _convert_="all", _partial_=True)(model=tiny_model(), image_size=None)
    assert isinstance(task, Retrieval)
    assert task.seed == 3


def test_the_published_recipe() -> None:
    paper = OmegaConf.load(FILES[0].with_name("retrieval_paper.yaml"))
    assert (paper.lr, list(paper.betas), paper.weight_decay) == (3e-5, [0.9, 0.98], 0.01)
    assert (paper.schedule, paper.warmup, paper.k_test, paper.image_size) == ("linear", 0.1, 256, 384)
