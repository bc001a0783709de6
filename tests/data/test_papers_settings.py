"""A generated set in COCO's, CC3M's and Visual Genome's formats goes through `benchmark=paper`, with a small model."""

import os
from pathlib import Path

import pytest
import torch

from vlp_bench.data.minicopy import write

IMAGES = int(os.environ.get("VLP_BENCH_COPY_IMAGES", "200"))  # 2000 for the whole test
SIDE = 64


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from vlp_bench.data.phrases import vocabulary
    from vlp_bench.models.checkpoints import save_model
    from vlp_bench.models.towers import XVLMConfig
    from vlp_bench.models.xvlm import XVLM

    config = XVLMConfig(
        image_size=48, patch_size=8, vision_width=16, vision_layers=1, vision_heads=2, local_attn_depth=1,
        text_width=16, text_layers=2, fusion_layers=1, text_heads=2, vocab_size=len(vocabulary()), embed_dim=8,
        stem="conv", max_positions=48,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return save_model(tmp_path_factory.mktemp("weights") / "tiny.safetensors", XVLM(config))


def words(copy: Path, weights: Path, out: Path) -> list[str]:
    """The paper's data, transforms, recipe and evaluation, on fewer and smaller images and a tiny model."""
    return [
        "+exp=xvlm_itr", "benchmark=paper", "model=xvlm_mini", f"model.weights={weights}", f"paths.data={copy}",
        f"paths.vocab={copy}/bert-base-uncased/vocab.txt", f"paths.out={out}", "trainer=cpu", "recipe.epochs=1",
        "recipe.target_batch=32", f"data.train_transform.size={SIDE}", f"data.eval_transform.size={SIDE}",
        f"task.image_size={SIDE}", "task.k_test=16", "data.calibration.transform.size=48",
        "data.calibration.region_transform.size=48", "data.calibration.side=6", "data.calibration.num_batches=4",
        "data.calibration.batch_size=16", "data.num_workers=0", "sparsity=0.5",
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_retrieval_at_the_papers_settings(tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hydra import compose, initialize_config_dir

    from vlp_bench.commands.conf import conf_folder
    from vlp_bench.commands.data import _of_experiment, examine
    from vlp_bench.commands.run import run
    from vlp_bench.commands.specification import register, specify
    from vlp_bench.results.store import Store
    from vlp_bench.results.tables import test_values

    copy = write(tmp_path / "copy", images=IMAGES, side=SIDE).root
    given = words(copy, weights, tmp_path / "out")
    assert examine(_of_experiment(given), most=None)
    register()
    for changes in ([], _karpathy(copy)):
        with initialize_config_dir(str(conf_folder()), version_base="1.3"):
            config = compose("config", [*given, *changes], return_hydra_config=True)
        specification = specify(config, config.hydra)
        run(specification)
        values = test_values(Store(specification.out / "runs").query(run=specification.run))
        assert 0 <= values["txt_r1"] <= values["txt_r10"] <= 100
        assert values["txt_r10"] > 0
    assert len(list((tmp_path / "out/runs").iterdir())) == 2


def _karpathy(copy: Path) -> list[str]:
    """The same images by Karpathy's file, shards and Visual Genome's own files."""
    file = copy / "karpathy/dataset_coco.json"
    return [
        *(f"data.source.{split}={file}" for split in ("train", "val", "test")), "data.source.format=karpathy",
        f"data.source.general={copy}/img2dataset/webdataset", "data.source.general_format=webdataset",
        f"data.source.regions={copy}/visual_genome/region_descriptions.json",
        "data.source.regions_format=visual_genome",
        f"data.source.regions_images={copy}/images/vg",
    ]  # fmt: skip
