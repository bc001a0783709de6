"""Train the small ViT that +exp=dino_cls prunes.

It learns which attributes appear in a scene of the embedded world.

    vlp-bench pretrain-dino [--out DIR] [--steps N] [--accelerator gpu] ...

It has DINO's architecture, but is trained with labels, not by self-distillation. Writes dino_shapes.safetensors and,
beside it, its curves (curves/) and what was run (pretraining.json). A killed run goes on from its last saved step.
"""

import argparse
import sys
from pathlib import Path
from typing import get_args

from vlp_bench.runs.schema import Precision
from vlp_bench.runs.terminal.errors import one_line
from vlp_bench.runs.terminal.numbers import positive, whole

NAME = "dino_shapes.safetensors"


def parser() -> argparse.ArgumentParser:
    """The command line; nothing heavy is imported to answer --help."""
    form = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser("vlp-bench pretrain-dino", description=__doc__, formatter_class=form)
    p.add_argument("--out", type=Path, default=Path("outputs/pretrain/dino_shapes"), help="directory of the run")
    p.add_argument("--steps", type=whole(1), default=2500)
    p.add_argument("--batch-size", type=whole(1), default=64, help="scenes a step")
    p.add_argument("--lr", type=positive, default=1e-3)
    p.add_argument("--warmup-steps", type=whole(0), default=50)
    p.add_argument("--seed", type=whole(0), default=0, help="of weights and data")
    p.add_argument("--width", type=whole(1), default=128)
    p.add_argument("--layers", type=whole(1), default=4)
    p.add_argument("--precision", default="auto", choices=get_args(Precision), help="auto: bf16-mixed where it is fast")
    p.add_argument("--threads", type=whole(1), default=1)
    p.add_argument("--accelerator", default="cpu", help="cpu, gpu, auto")
    p.add_argument("--probe-every", type=whole(1), default=250, help="steps between two looks at what it has learnt")
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
    from vlp_bench.data.datasets.labelled import CLASSES
    from vlp_bench.data.shapes.attributes import LABELS, PARTS, AttributeBatches
    from vlp_bench.data.shapes.curriculum import PATCH
    from vlp_bench.data.shapes.drawing import SIDE
    from vlp_bench.models.dino import DINO, DINOConfig
    from vlp_bench.runs.pretraining import PretrainingRun
    from vlp_bench.tasks.attributes import AttributePretraining, attribute_recall

    run = PretrainingRun(args)
    sizes = {"vision_width": args.width, "vision_layers": args.layers, "vision_heads": 4, "classes": LABELS}
    model = DINO(DINOConfig(image_size=SIDE, patch_size=PATCH, stem="conv", **sizes), attention="eager")
    module = AttributePretraining(model, steps=args.steps, lr=args.lr, warmup_steps=args.warmup_steps)
    held_out = AttributeBatches(4, 64, "itr_val", args.seed)
    scenes = [held_out[i] for i in range(len(held_out))]

    def look() -> dict[str, float]:
        """Balanced accuracy by kind of attribute on validation scenes."""
        shown = [(images.to(module.device), labels) for images, labels in scenes]
        return {f"told/{kind}": value for kind, value in attribute_recall(model, shown, PARTS).items()}

    run.train(module, AttributeBatches(args.steps, args.batch_size, seed=args.seed), look)
    model.new_classifier(len(CLASSES))  # that of attributes gives way to a new one
    run.save(NAME, model, {"trained_on": "which attributes appear in a scene (supervised; not self-distilled)"})


if __name__ == "__main__":
    main()
