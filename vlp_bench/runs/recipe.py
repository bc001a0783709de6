"""How long and in what portions a model is fine-tuned; which loggers and trainer do it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.environments import LightningEnvironment  # pyright: ignore[reportPrivateImportUsage]

from vlp_bench.construct import locate, maker
from vlp_bench.runs import tracking
from vlp_bench.runs.checkpointing import WholeFiles
from vlp_bench.runs.device import trainer_settings
from vlp_bench.runs.process_plan import Plan
from vlp_bench.runs.terminal.console import stderr
from vlp_bench.tasks.optimisation import accumulation
from vlp_bench.tasks.whole_steps import WholeSteps


@dataclass(frozen=True)
class Recipe:
    """The part of a paper's recipe that the trainer performs.

    Args:
        epochs: passes over the training set; 0 tests the pruned model as it is.
        target_batch: examples one optimiser step sees, over all devices and accumulated batches.
        clip: largest norm of the gradient; None does not clip.

    Raises:
        ValueError: a value is out of its range.
    """

    epochs: int
    target_batch: int
    clip: float | None = None

    def __post_init__(self) -> None:
        if self.epochs < 0:
            raise ValueError(f"recipe.epochs must be at least 0, got {self.epochs}")
        if self.target_batch < 1:
            raise ValueError(f"recipe.target_batch must be at least 1, got {self.target_batch}")
        if self.clip is not None and self.clip <= 0:
            raise ValueError(f"recipe.clip must be above 0, or null for none, got {self.clip}")

    def trainer_arguments(self, batch_size: int, devices: int = 1, nodes: int = 1) -> dict[str, Any]:
        """What this recipe asks of a Trainer whose devices see `batch_size` examples at a time."""
        batches = accumulation(self.target_batch, batch_size, devices, nodes)
        whole = [WholeSteps(self.target_batch, batch_size * devices * nodes)] if batches > 1 else []
        arguments = {"max_epochs": self.epochs, "accumulate_grad_batches": batches, "gradient_clip_val": self.clip}
        return arguments | {"callbacks": whole}


def make_trainer(
    config: Mapping[str, Any],
    recipe: Recipe,
    folder: Path,
    callbacks: Sequence[Callback],
    *,
    plan: Plan,
    batch_size: int,
    bar: bool,
) -> Trainer:
    """The Trainer of conf/trainer with the recipe, the callbacks and the loggers of conf/logger."""
    arguments = recipe.trainer_arguments(batch_size, plan.devices, plan.nodes)
    return maker(trainer_settings(config) | plan.trainer_arguments(), "trainer", config["allow"])(
        **arguments | {"callbacks": [*callbacks, *arguments["callbacks"]]},
        plugins=[WholeFiles(), LightningEnvironment()],  # its own SLURM plugin would requeue as well as SLURM does
        logger=make_loggers(config["logger"], folder, config),
        default_root_dir=str(folder),
        enable_progress_bar=bar,
    )


def make_loggers(settings: Mapping[str, Any], folder: Path, config: Mapping[str, Any]) -> list[Logger]:
    """CSV always, others where they work: a broken or absent Weights & Biases never stops a run."""
    loggers = []
    for name, arguments in settings.items():
        try:
            kind: Any = locate(arguments["_target_"], config["allow"], f"logger.{name}")
            told = tracking.labels(folder, config) if issubclass(kind, tracking.CarefulWandb) else {}
            logger = maker(arguments, f"logger.{name}", config["allow"])(save_dir=str(folder), **told)
            logger.log_hyperparams(dict(config))
            loggers.append(logger)
        except Exception as error:
            if name == "csv":
                raise
            stderr.print(f"[yellow]logger={name} does not work and is left out:[/] {error}")
    return loggers
