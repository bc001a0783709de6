"""Weights & Biases beside the CSV files: one run per seed, grouped by what is run, with masks and results as artifacts.

Nothing that goes wrong in it stops a run: the files in the run's folder are the source of truth.
"""

import json
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger

from vlp_bench.runs.specification import benchmark_of, digest
from vlp_bench.runs.terminal.console import stderr

APART = ("seed", "paths", "force", "debug", "logger")  # what runs of one group may differ in


def labels(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """Name, group and job type of a run: runs that differ in the seed alone share a group."""
    job = "finetune" if config["recipe"]["epochs"] else "evaluate"
    words = [config["experiment"], benchmark_of(config), config["pruner"].get("name", "pruner")]
    group = "-".join([*map(str, words), f"{config['sparsity']:g}", digest(_without(config))])
    return {"name": folder.name, "group": group, "job_type": job}


def _without(config: Any) -> Any:
    """The configuration without the keys of `APART`, at any depth."""
    if isinstance(config, Mapping):
        return {key: _without(value) for key, value in config.items() if key not in APART}
    return [_without(value) for value in config] if isinstance(config, list) else config


def _careful(method: Callable[..., Any]) -> Callable[..., Any]:
    """The method, until something goes wrong for the first time; then nothing, after one line about it."""

    @wraps(method)
    def tried(self: "CarefulWandb", *args: Any, **kwargs: Any) -> Any:
        if self.broken:
            return None
        try:
            return method(self, *args, **kwargs)
        except Exception as error:
            self.broken = True
            stderr.print(f"[yellow]logger=wandb stopped working and is left out from here on:[/] {error}")
            return None

    return tried


class CarefulWandb(WandbLogger):
    """Lightning's W&B logger, which any trouble turns off. Offline unless told otherwise."""

    broken = False

    log_metrics = _careful(WandbLogger.log_metrics)
    log_hyperparams = _careful(WandbLogger.log_hyperparams)
    after_save_checkpoint = _careful(WandbLogger.after_save_checkpoint)
    save = _careful(WandbLogger.save)
    finalize = _careful(WandbLogger.finalize)

    @property
    def experiment(self) -> Any:
        """W&B's run; None once something went wrong. Lightning asks for it before anything is logged."""
        return self._run()

    @_careful
    def _run(self) -> Any:
        self._wandb_init.pop("anonymous", None)  # Lightning's None, of which W&B warns in every run
        return WandbLogger.experiment.fget(self)  # pyright: ignore[reportOptionalCall]

    @_careful
    def keep(self, kind: str, file: Path) -> None:
        """Store a file as an artifact of this run; a mask that other runs use as well is the same artifact."""
        import wandb

        artifact = wandb.Artifact(f"{kind}-{file.stem}"[:120], type=kind)
        artifact.add_file(str(file))
        self.experiment.log_artifact(artifact)

    def finish(self) -> None:
        """Close the run, so that the next one of this process does not continue it; also one that broke."""
        self.broken = False
        self._finish()

    @_careful
    def _finish(self) -> None:
        if self._experiment is not None:
            self._experiment.finish()


class KeepArtifacts(Callback):
    """Hands the mask and the test metrics to the loggers that keep files."""

    def __init__(self, mask: Path) -> None:
        self.mask = mask

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, CarefulWandb) and trainer.is_global_zero:
                metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
                results = Path(str(logger.save_dir)) / f"results-{Path(str(logger.save_dir)).name}.json"
                results.write_text(json.dumps(metrics, indent=1, sort_keys=True), encoding="utf-8")
                logger.keep("results", results)
                if self.mask.is_file():
                    logger.keep("mask", self.mask)
