"""`python -m vlp_bench.commands.pretrain`: train the embedded world's small XVLM from nothing.

Writes the checkpoint (safetensors, fp32 or fp16), and beside it the curves, the configuration and where it came from. A run
that is killed goes on from its last saved step and ends with the same weights.
"""

import argparse
import json
import time
from pathlib import Path


def parser() -> argparse.ArgumentParser:
    """The command line; nothing heavy is imported to answer --help."""
    p = argparse.ArgumentParser(prog="python -m vlp_bench.commands.pretrain", description=__doc__)
    p.add_argument("--out", type=Path, default=Path("outputs/pretrain/xvlm_shapes"), help="directory of the run")
    p.add_argument("--steps", type=int, default=5500)
    p.add_argument("--batch-size", type=int, default=64, help="captions a step")
    p.add_argument("--lr", type=float, default=1e-3)
    p.add_argument("--warmup-steps", type=int, default=150)
    p.add_argument("--seed", type=int, default=0, help="of weights, data and negatives")
    p.add_argument("--width", type=int, default=128)
    p.add_argument("--vision-layers", type=int, default=4)
    p.add_argument("--text-layers", type=int, default=2)
    p.add_argument("--fusion-layers", type=int, default=3)
    p.add_argument("--precision", default="bf16-mixed", choices=("32-true", "bf16-mixed", "16-mixed"))
    p.add_argument("--threads", type=int, default=1, help="one thread and bf16 do as many steps as two in fp32")
    p.add_argument("--workers", type=int, default=1, help="processes that draw scenes ahead")
    p.add_argument("--accelerator", default="cpu", help="cpu, gpu, auto")
    p.add_argument("--probe-every", type=int, default=300, help="steps between two looks at what it has learnt")
    return p


def main(argv: list[str] | None = None) -> None:
    """Build or resume, train, save."""
    args = parser().parse_args(argv)
    import lightning.pytorch as pl
    import torch
    from lightning.pytorch.callbacks import ModelCheckpoint
    from lightning.pytorch.loggers import CSVLogger
    from torch.utils.data import DataLoader, Subset

    from vlp_bench.data.curriculum import Curriculum
    from vlp_bench.models.checkpoints import save_model
    from vlp_bench.models.xvlm import XVLM
    from vlp_bench.tasks.pretraining import Pretraining

    torch.set_num_threads(args.threads)
    pl.seed_everything(args.seed, verbose=False)
    started = time.time()
    module = Pretraining(
        XVLM(_config(args), attention="eager"),
        steps=args.steps,
        lr=args.lr,
        warmup_steps=args.warmup_steps,
        seed=args.seed,
    )
    batches = Curriculum(args.steps, args.batch_size, args.seed)
    last = args.out / "last.ckpt"
    done = int(torch.load(last, weights_only=True, map_location="cpu")["global_step"]) if last.is_file() else 0
    loader = DataLoader(
        Subset(batches, range(done, args.steps)),
        batch_size=None,
        num_workers=args.workers,
        prefetch_factor=4 if args.workers else None,
    )
    trainer = pl.Trainer(
        max_steps=args.steps,
        accelerator=args.accelerator,
        devices=1,
        precision=args.precision,
        gradient_clip_val=1.0,
        logger=CSVLogger(args.out.parent, name=args.out.name, version=""),
        log_every_n_steps=25,
        callbacks=[
            ModelCheckpoint(args.out, filename="last", every_n_train_steps=250, enable_version_counter=False),
            _probe(args),
        ],
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(module, loader, ckpt_path=last if done else None, weights_only=True)
    record = {"arguments": {k: str(v) for k, v in vars(args).items()}, "seconds_this_process": round(time.time() - started)}
    save_model(args.out / "xvlm_shapes.safetensors", module.model, record)
    (args.out / "pretraining.json").write_text(json.dumps(record, indent=1) + "\n")


def _config(args: argparse.Namespace):  # noqa: ANN202
    from vlp_bench.data.phrases import vocabulary
    from vlp_bench.models.towers import XVLMConfig

    return XVLMConfig(
        image_size=48,
        patch_size=8,
        vision_width=args.width,
        vision_layers=args.vision_layers,
        vision_heads=4,
        local_attn_depth=2,
        text_width=args.width,
        text_layers=args.text_layers + args.fusion_layers,
        fusion_layers=args.fusion_layers,
        text_heads=4,
        vocab_size=len(vocabulary()),
        embed_dim=64,
        stem="conv",
        dropout=0.0,
        max_positions=48,
        itm_uniform=1.0,
    )


def _probe(args: argparse.Namespace):  # noqa: ANN202
    from lightning.pytorch.callbacks import Callback

    from vlp_bench.commands.gate import accuracies
    from vlp_bench.data.probes import cases
    from vlp_bench.data.shapes import World

    told = World(args.seed).told_apart("itr_val", 300)

    class Probe(Callback):
        """Masked-word accuracy by attribute, every so many steps."""

        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:  # noqa: ANN001
            if trainer.global_step % args.probe_every:
                return
            module.eval()
            found = accuracies(module.model, cases(told, 200))
            module.train()
            flat = {f"words/{a}": v[0] for a, v in found.items()} | {f"control/{a}": v[1] for a, v in found.items()}
            trainer.logger.log_metrics(flat, step=trainer.global_step)
            trainer.logger.save()

    return Probe()


if __name__ == "__main__":
    main()
