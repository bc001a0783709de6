"""A run small enough for a test: a model of 30,000 weights, a world of a few dozen scenes."""

import pytest
import torch

from vlp_bench.runs.specification import Specification


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory):
    from vlp_bench.data.shapes.phrases import vocabulary
    from vlp_bench.models.checkpoints.read_write import save_model
    from vlp_bench.models.xvlm.model import XVLM
    from vlp_bench.models.xvlm.towers import XVLMConfig

    config = XVLMConfig(
        image_size=48, patch_size=8, vision_width=16, vision_layers=1, vision_heads=2, local_attn_depth=1,
        text_width=16, text_layers=2, fusion_layers=1, text_heads=2, vocab_size=len(vocabulary()), embed_dim=8,
        stem="conv", max_positions=48,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return save_model(tmp_path_factory.mktemp("weights") / "tiny.safetensors", XVLM(config))


@pytest.fixture
def tiny(tiny_weights, tmp_path):
    """The words of a command line that runs in two seconds."""
    return [
        "+exp=xvlm_itr", "benchmark=mini", f"model.weights={tiny_weights}", f"paths.out={tmp_path}/out", "trainer=cpu",
        "recipe.epochs=2", "recipe.target_batch=8", "data.batch_size=8", "data.source.train=24", "data.source.val=12",
        "data.source.test=12", "data.source.general=16", "data.source.regions=16", "data.calibration.num_batches=2",
        "data.calibration.batch_size=8", "task.k_test=4",
    ]  # fmt: skip


@pytest.fixture
def specified(tiny):
    """Words to add -> the specification `python -m vlp_bench` would perform."""
    from vlp_bench.runs.specification import specification_of

    def specification(*words: str) -> Specification:
        return specification_of([*tiny, *words])

    return specification
