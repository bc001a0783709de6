"""`rehearse=true`: every step of a run in a few batches, to see that it goes through; its numbers mean nothing."""

from omegaconf import DictConfig, OmegaConf

from vlp_bench.results.row import REHEARSAL

FOLDER = "rehearsal"  # below paths.out: nothing of it is ever read as a result
MOST = {
    "recipe.epochs": 1,
    "recipe.target_batch": 16,
    "data.batch_size": 16,
    "data.calibration.batch_size": 8,
    "data.calibration.num_batches": 2,
    "pruner.num_batches": 2,
    "pruner.steps": 3,
    **{f"data.source.{split}": 32 for split in ("val", "test", "general", "regions", "calibration")},
    "data.source.train": 96,
}
"""Key -> its largest value; a key that a run lacks, or whose value is no number, stays as it is."""
BATCHES = 2  # of training data that lie in files, whose number is not a key


def rehearse(config: DictConfig) -> None:
    """Cut a composed configuration down, and send what it writes to a folder of its own."""
    for key, most in MOST.items():
        value = OmegaConf.select(config, key)
        if isinstance(value, int) and value > most:
            OmegaConf.update(config, key, most)
    if OmegaConf.select(config, "pruner.batches_per_step") is not None:
        OmegaConf.update(config, "pruner.batches_per_step", None)  # every step sees the few batches there are
    if not isinstance(OmegaConf.select(config, "data.source.train"), int):
        OmegaConf.update(config, "trainer.limit_train_batches", BATCHES, force_add=True)
    for key in ("benchmark.says", "data.says"):
        if (says := OmegaConf.select(config, key)) is not None:
            OmegaConf.update(config, key, f"{REHEARSAL}. On {says}")
    OmegaConf.update(config, "paths.out", f"{config.paths.out}/{FOLDER}")
