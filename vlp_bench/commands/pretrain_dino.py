"""Train the embedded world's small ViT, which `+exp=dino_cls` prunes, on which attributes appear in a scene.

    python -m vlp_bench.commands.pretrain_dino [--out DIR] [--steps N] [--accelerator gpu] ...

It has DINO's architecture, but is trained with labels, not by self-distillation. Writes dino_shapes.safetensors and,
beside it, its curves (curves/) and what was run (pretraining.json). A killed run goes on from its last saved step.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from vlp_bench.commands.errors import one_line

if TYPE_CHECKING:
    from lightning.pytorch import Callback, Trainer

    from vlp_bench.tasks.attributes import AttributePretraining

NAME = "dino_shapes.safetensors"


def parser() -> argparse.ArgumentParser:
    """The command line; nothing heavy is imported to answer --help."""
    form = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser("python -m vlp_bench.commands.pretrain_dino", description=__doc__, formatter_class=form)
    p.add_argument("--out", type=Path, default=Path("outputs/pretrain/dino_shapes"), help="directory of the run")
    p.add_argument("--steps", type=int, default=2500)
    p.add_argument("--batch-size", type=int, default=64, help="scenes a step")
    p.add_argument("--lr", type=float, default=1e-3)
    p.add_argument("--warmup-steps", type=int, default=50)
    p.add_argument("--seed", type=int, default=0, help="of weights and data")
    p.add_argument("--width", type=int, default=128)
    p.add_argument("--layers", type=int, default=4)
    p.add_argument("--precision", default="bf16-mixed", choices=("32-true", "bf16-mixed", "16-mixed"))
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--accelerator", default="cpu", help="cpu, gpu, auto")
    p.add_argument("--probe-every", type=int, default=250, help="steps between two looks at what it has learnt")
    return p


def main(argv: list[str] | None = None) -> None:
    """Build or resume, train, save."""
    arguments = sys.argv[1:] if argv is None else argv
    args = parser().parse_args(arguments)
    with one_line(arguments):
        pretrain(args)


def pretrain(args: argparse.Namespace) -> None:
    """Perform the command line.

    Raises:
        Diverged: the loss is no longer a number.
        ValueError: an argument is out of its range.
    """
    import torch
    from lightning.pytorch import seed_everything
    from torch.utils.data import DataLoader

    from vlp_bench.data.attributes import LABELS, AttributeBatches
    from vlp_bench.data.curriculum import PATCH, Remaining
    from vlp_bench.data.drawing import SIDE
    from vlp_bench.models.dino import DINO, DINOConfig
    from vlp_bench.tasks.attributes import AttributePretraining

    torch.set_num_threads(args.threads)
    seed_everything(args.seed, verbose=False)
    began, last = time.time(), args.out / "last.ckpt"
    done = int(torch.load(last, weights_only=True, map_location="cpu")["global_step"]) if last.is_file() else 0
    sizes = {"vision_width": args.width, "vision_layers": args.layers, "vision_heads": 4, "classes": LABELS}
    model = DINO(DINOConfig(image_size=SIDE, patch_size=PATCH, stem="conv", **sizes), attention="eager")
    module = AttributePretraining(model, steps=args.steps, lr=args.lr, warmup_steps=args.warmup_steps)
    scenes = AttributeBatches(args.steps, args.batch_size, seed=args.seed)
    batches = DataLoader(scenes, batch_size=None, sampler=Remaining(done, args.steps))
    _trainer(args, done).fit(module, batches, ckpt_path=last if done else None, weights_only=True)
    _save(args, module, {"first_step": done, "seconds": round(time.time() - began)})


def _trainer(args: argparse.Namespace, done: int) -> "Trainer":
    from lightning.pytorch import Trainer
    from lightning.pytorch.callbacks import ModelCheckpoint
    from lightning.pytorch.loggers import CSVLogger

    last = ModelCheckpoint(args.out, filename="last", every_n_train_steps=250, enable_version_counter=False)
    return Trainer(
        max_steps=args.steps,
        accelerator=args.accelerator,
        devices=1,
        precision=args.precision,
        gradient_clip_val=1.0,
        logger=CSVLogger(args.out, name="curves", version=f"from_{done}"),
        log_every_n_steps=25,
        callbacks=[last, _probe(args)],
        enable_model_summary=False,
        enable_progress_bar=sys.stderr.isatty(),
    )


def _probe(args: argparse.Namespace) -> "Callback":
    """Balanced accuracy by kind of attribute on validation scenes, every so many steps."""
    from lightning.pytorch.callbacks import LambdaCallback

    from vlp_bench.data.attributes import PARTS, AttributeBatches
    from vlp_bench.tasks.attributes import attribute_recall

    held_out = AttributeBatches(4, 64, "itr_val", args.seed)
    scenes = [held_out[i] for i in range(len(held_out))]

    def look(trainer: "Trainer", module: "AttributePretraining", *_: object) -> None:
        if trainer.global_step % args.probe_every or trainer.logger is None:
            return
        module.eval()
        found = attribute_recall(module.model, [(x.to(module.device), y) for x, y in scenes], PARTS)
        module.train()
        trainer.logger.log_metrics({f"told/{kind}": value for kind, value in found.items()}, step=trainer.global_step)
        trainer.logger.save()

    return LambdaCallback(on_train_batch_end=look)


def _save(args: argparse.Namespace, module: "AttributePretraining", timing: dict[str, int]) -> None:
    """The weights, as float16, and what made them. The classifier of attributes gives way to a new one."""
    import torch

    from vlp_bench.commands.provenance import commit, hardware, versions
    from vlp_bench.data.labelled import CLASSES
    from vlp_bench.models.checkpoints import save_model, weights_hash

    revision, dirty = commit()
    run = {"arguments": {k: str(v) for k, v in vars(args).items()}, "commit": revision, "uncommitted_changes": dirty}
    run["trained_on"] = "which attributes appear in a scene (supervised; not self-distilled)"
    module.model.new_classifier(len(CLASSES))
    file = save_model(args.out / NAME, module.model, run, dtype=torch.float16)
    where = {"versions": versions(), "hardware": hardware(), "weights": weights_hash(file)}
    (args.out / "pretraining.json").write_text(json.dumps(run | timing | where, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
