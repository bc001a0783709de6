"""Train the embedded world's small XVLM or BLIP.

From nothing, or on from a checkpoint.

    vlp-bench pretrain [--model blip] [--out DIR] [--steps N] [--init FILE] [--accelerator gpu] ...

Writes xvlm_shapes.safetensors (blip_shapes.safetensors) and, beside it, its curves (curves/) and what was run
(pretraining.json). A run that is killed goes on from its last saved step, with the batches and negatives it would have
seen.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from vlp_bench.runs.schema import Precision
from vlp_bench.runs.terminal.errors import one_line
from vlp_bench.runs.terminal.numbers import positive, whole

if TYPE_CHECKING:
    from vlp_bench.data.shapes.curriculum import Curriculum
    from vlp_bench.models.blip.model import BLIP
    from vlp_bench.models.xvlm.model import XVLM
    from vlp_bench.models.xvlm.towers import XVLMConfig

MODELS = ("xvlm", "blip")
QUEUE = 512
"""Momentum features the small BLIP compares with: enough for its batches, few enough not to hold true captions."""


def parser() -> argparse.ArgumentParser:
    """The command line; nothing heavy is imported to answer --help."""
    form = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser("vlp-bench pretrain", description=__doc__, formatter_class=form)
    p.add_argument("--model", default="xvlm", choices=MODELS)
    p.add_argument("--out", type=Path, help="directory of the run (default: outputs/pretrain/MODEL_shapes)")
    p.add_argument(
        "--init", type=Path, help="go on from this checkpoint, without the first lessons; a BLIP can start from an XVLM"
    )
    p.add_argument("--steps", type=whole(1), default=5500)
    p.add_argument("--batch-size", type=whole(1), default=64, help="captions a step")
    p.add_argument("--lr", type=positive, default=1e-3)
    p.add_argument("--warmup-steps", type=whole(0), default=150)
    p.add_argument("--seed", type=whole(0), default=0, help="of weights, data and negatives")
    p.add_argument("--width", type=whole(1), default=128)
    p.add_argument("--vision-layers", type=whole(1), default=4)
    p.add_argument("--text-layers", type=whole(1), default=2)
    p.add_argument("--fusion-layers", type=whole(1), default=3)
    p.add_argument("--precision", default="auto", choices=get_args(Precision), help="auto: bf16-mixed where it is fast")
    p.add_argument("--threads", type=whole(1), default=1, help="one thread and bf16 do as many steps as two in fp32")
    p.add_argument("--workers", type=whole(0), default=1, help="processes that draw scenes ahead")
    p.add_argument("--accelerator", default="cpu", help="cpu, gpu, auto")
    p.add_argument("--probe-every", type=whole(1), default=300, help="steps between two looks at what it has learnt")
    return p


def main(argv: list[str] | None = None) -> None:
    """Build or resume, train, save."""
    arguments = sys.argv[1:] if argv is None else argv
    args = parser().parse_args(arguments)
    args.out = args.out or Path(f"outputs/pretrain/{args.model}_shapes")
    with one_line(arguments):
        pretrain(args)


def pretrain(args: argparse.Namespace) -> None:
    """Perform the command line.

    Raises:
        Diverged: a loss is no longer a number.
        ValueError: an argument is out of its range.
    """
    from vlp_bench.commands.gate import accuracies
    from vlp_bench.data.shapes.probes import cases
    from vlp_bench.data.shapes.world import World
    from vlp_bench.runs.pretraining import PretrainingRun
    from vlp_bench.tasks.pretraining import Pretraining

    run = PretrainingRun(args)
    recipe = {"steps": args.steps, "lr": args.lr, "warmup_steps": args.warmup_steps, "seed": args.seed}
    course = _course(args)
    module = Pretraining(_model(args).train(), words_only=course.words_only, **recipe)
    hidden = cases(World(args.seed).told_apart("itr_val", 300), 200)

    def look() -> dict[str, float]:
        """Masked-word accuracy by attribute, and its control."""
        found = accuracies(module.model, hidden)
        return {f"words/{a}": own for a, (own, _) in found.items()} | {f"control/{a}": c for a, (_, c) in found.items()}

    run.train(module, course, look, args.workers)
    run.save(f"{args.model}_shapes.safetensors", module.model)


def _course(args: argparse.Namespace) -> "Curriculum":
    from vlp_bench.data.shapes.curriculum import CAPTIONS, CONTINUED, Curriculum

    changes: dict[str, Any] = CAPTIONS if args.model == "blip" else CONTINUED if args.init else {}
    return Curriculum(args.steps, args.batch_size, args.seed, **changes)


def _model(args: argparse.Namespace) -> "XVLM | BLIP":
    """The model as training finds it: of --init if given, else of the sizes asked for, untrained."""
    from vlp_bench.models.blip.model import BLIP
    from vlp_bench.models.checkpoints.read_write import load_model
    from vlp_bench.models.xvlm.model import XVLM

    given = load_model(args.init, attention="eager") if args.init else None
    if args.model == "blip" and isinstance(given, BLIP):
        return given
    if given is not None and not isinstance(given, XVLM):
        wanted = "an XVLM or a BLIP" if args.model == "blip" else "an XVLM"
        raise ValueError(
            f"--init {args.init} holds a {type(given).__name__}; --model {args.model} starts from {wanted}"
        )
    if args.model == "blip":
        return _blip(args, given)
    return given or XVLM(_config(args), attention="eager")


def _blip(args: argparse.Namespace, source: "XVLM | None") -> "BLIP":
    """A new BLIP of the XVLM's sizes, filled from `source` if there is one."""
    from vlp_bench.data.shapes.phrases import vocabulary
    from vlp_bench.models.blip.grow import SPECIAL, blip_from_xvlm
    from vlp_bench.models.blip.model import BLIP
    from vlp_bench.models.blip.towers import BLIPConfig

    sizes = vars(source.config if source else _config(args))
    own = {name: value for name, value in sizes.items() if name in BLIPConfig.__dataclass_fields__}
    words = len(vocabulary())
    own |= {"vocab_size": words + SPECIAL, "dec_id": words, "enc_id": words + 1, "queue_size": QUEUE}
    model = BLIP(BLIPConfig(**own), attention="eager")
    return blip_from_xvlm(model, source, vocabulary()["[CLS]"]) if source else model


def _config(args: argparse.Namespace) -> "XVLMConfig":
    from vlp_bench.data.shapes.curriculum import PATCH
    from vlp_bench.data.shapes.drawing import SIDE
    from vlp_bench.data.shapes.phrases import vocabulary
    from vlp_bench.models.xvlm.towers import XVLMConfig

    return XVLMConfig(
        image_size=SIDE,
        patch_size=PATCH,
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


if __name__ == "__main__":
    main()
