"""What the two pre-training commands share: where a run stands, its trainer, its looks, and what it leaves behind."""

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import LambdaCallback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader, Dataset

from vlp_bench.data.shapes.curriculum import Remaining
from vlp_bench.lifetime import begin_loader
from vlp_bench.models.checkpoints.families import Model
from vlp_bench.models.checkpoints.read_write import save_model, weights_hash
from vlp_bench.runs.device import training_precision
from vlp_bench.runs.provenance import commit, hardware, versions


class PretrainingRun:
    """One run in the folder `args.out`, from its first step or the last saved one; seeds and threads are set here.

    Args:
        args: the command line: out, steps, seed, threads, accelerator, precision and probe_every.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        torch.set_num_threads(args.threads)
        seed_everything(args.seed, verbose=False)
        self.precision: Any = training_precision({"trainer": vars(args)})
        self.args, self.began, self.last = args, time.time(), args.out / "last.ckpt"
        found = self.last.is_file()
        self.done = int(torch.load(self.last, weights_only=True, map_location="cpu")["global_step"]) if found else 0

    def train(
        self,
        module: LightningModule,
        batches: Dataset[Any],
        look: Callable[[], Mapping[str, float]],
        workers: int = 0,
    ) -> None:
        """Train on the batches that are left; every `probe_every` steps what `look` finds goes to the curves.

        Raises:
            Diverged: a loss is no longer a number.
        """
        left, ahead = Remaining(self.done, self.args.steps), 4 if workers else None
        loader = DataLoader(
            batches, batch_size=None, sampler=left, num_workers=workers, prefetch_factor=ahead,
            worker_init_fn=begin_loader,
        )  # fmt: skip
        checkpoint = self.last if self.done else None
        self.trainer(look).fit(module, loader, ckpt_path=checkpoint, weights_only=True)

    def trainer(self, look: Callable[[], Mapping[str, float]]) -> Trainer:
        """Saves its state every 250 steps, clips at 1 and writes the curves."""
        args = self.args
        last = ModelCheckpoint(args.out, filename="last", every_n_train_steps=250, enable_version_counter=False)

        def probe(trainer: Trainer, module: LightningModule, *_: object) -> None:
            if trainer.global_step % args.probe_every or trainer.logger is None:
                return
            module.eval()
            found = look()
            module.train()
            trainer.logger.log_metrics(dict(found), step=trainer.global_step)
            trainer.logger.save()

        return Trainer(
            max_steps=args.steps,
            accelerator=args.accelerator,
            devices=1,
            precision=self.precision,
            gradient_clip_val=1.0,
            logger=CSVLogger(args.out, name="curves", version=f"from_{self.done}"),
            log_every_n_steps=25,
            callbacks=[last, LambdaCallback(on_train_batch_end=probe)],
            enable_model_summary=False,
            enable_progress_bar=sys.stderr.isatty(),
        )

    def save(self, name: str, model: Model, about: Mapping[str, str] | None = None) -> None:
        """The weights in `name`, as float16, and in pretraining.json what made them."""
        revision, dirty = commit()
        arguments = {key: str(value) for key, value in vars(self.args).items()}
        run = {"arguments": arguments, "commit": revision, "uncommitted_changes": dirty, **(about or {})}
        file = save_model(self.args.out / name, model, run, dtype=torch.float16)
        took = {"first_step": self.done, "seconds": round(time.time() - self.began)}
        where = {"versions": versions(), "hardware": hardware(), "precision": self.precision}
        text = json.dumps(run | took | where | {"weights": weights_hash(file)}, indent=1) + "\n"
        (self.args.out / "pretraining.json").write_text(text, encoding="utf-8")
