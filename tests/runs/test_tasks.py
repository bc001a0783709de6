"""Every experiment on captions and questions runs from a command line to its rows; one mask serves them all."""

import pytest
import torch

from vlp_bench.results.store import Store
from vlp_bench.runs.specification import specification_of

SMALL = (
    "trainer=cpu", "pruner=omp", "sparsity=0.5", "recipe.epochs=1", "recipe.target_batch=4", "data.batch_size=4",
    "data.source.train=8", "data.source.val=4", "data.source.test=4", "data.source.general=8",
    "data.source.regions=8", "data.calibration.num_batches=1", "data.calibration.batch_size=8",
)  # fmt: skip


@pytest.fixture(scope="session")
def blip_weights(tmp_path_factory):
    from vlp_bench.data.shapes.phrases import vocabulary
    from vlp_bench.models.blip.model import BLIP
    from vlp_bench.models.blip.towers import BLIPConfig
    from vlp_bench.models.checkpoints.read_write import save_model

    known = len(vocabulary())
    config = BLIPConfig(
        image_size=48, patch_size=8, vision_width=16, vision_layers=1, vision_heads=2, text_width=16, text_layers=2,
        text_heads=2, embed_dim=8, max_positions=48, vocab_size=known + 2, dec_id=known, enc_id=known + 1,
        queue_size=16,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return save_model(tmp_path_factory.mktemp("weights") / "blip.safetensors", BLIP(config))


@pytest.fixture
def rows(tmp_path, tiny_weights, blip_weights):
    """Runs an experiment and returns its numbers by (split, metric)."""
    from tests.runs.test_run import performed

    def ran(exp, *words):
        weights = blip_weights if exp.startswith("blip") else tiny_weights
        given = ["benchmark=mini", f"model.weights={weights}", f"paths.out={tmp_path}/out"]
        found = specification_of([f"+exp={exp}", *given, *SMALL, *words])
        seen = performed(found)
        stored = Store(found.out / "runs").last(found.run)
        return seen, {(row.split, row.metric): row.value for row in stored}, stored

    return ran


@pytest.mark.parametrize(
    ("exp", "metric"),
    [
        ("xvlm_vqa", "accuracy"),
        ("blip_vqa", "accuracy"),
        ("xvlm_ic", "truth"),
        ("blip_ic", "truth"),
        ("xvlm_ic_pretrain", "truth"),
        ("blip_itr", "r_mean"),
        ("blip_nlvr2", "accuracy"),
    ],
)
def test_an_experiment_runs_to_its_rows(rows, exp, metric):
    seen, numbers, stored = rows(exp)
    assert {("val", metric), ("test", metric), ("mask", "sparsity")} <= numbers.keys()
    assert abs(numbers["mask", "sparsity"] - 0.5) < 1e-3
    assert metric in seen
    assert all(row.exp == exp for row in stored)
    if exp.endswith("ic"):
        notes = stored[0].provenance["notes"]
        assert any("not computed" in note for note in notes.values())
        assert "not computed" in seen


def test_one_mask_serves_every_task_of_a_model(rows, tmp_path):
    hashes = {exp: rows(exp, "recipe.epochs=0")[2][0].provenance["mask"] for exp in ("xvlm_vqa", "xvlm_ic")}
    assert len(set(hashes.values())) == 1
    assert len(list((tmp_path / "out/masks").iterdir())) == 1
