"""Every yaml of conf/model is a call that its target accepts."""

import inspect
from pathlib import Path

import pytest
from hydra.utils import get_method, instantiate
from omegaconf import OmegaConf

from vlp_bench.models.xvlm.model import XVLMConfig

FOLDER = Path(__file__).parents[2] / "conf" / "model"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda p: p.stem)
def test_keys_are_arguments_of_the_target(path):
    content = OmegaConf.create({"model": OmegaConf.load(path), "paths": {"weights": "weights"}}).model
    arguments = {name: value for name, value in content.items() if name != "_target_"}
    inspect.signature(get_method(content["_target_"])).bind(**arguments)


def test_the_paper_s_configuration_is_the_default_one():
    assert instantiate(OmegaConf.load(FOLDER / "xvlm_paper.yaml").config) == XVLMConfig()
