"""Prune a transformers model of your own.

    vlp-bench prune model=FOLDER pruner=wanda sparsity=0.5 calibration=PATH out=FOLDER
    vlp-bench prune model=hf:owner/name pruner=omp sparsity=0.5,0.63 out=FOLDER

It shows what would be pruned and what stays dense, asks, and writes a folder that from_pretrained reads, with the mask
and a card; a folder below it for each of several sparsities.

    model         a folder with config.json and .safetensors, or hf:owner/name
    pruner        one of `vlp-bench list pruners` (wanda); pruner.KEY=VALUE sets one of its options
    sparsity      share of the prunable weights that is removed, or several: 0.5,0.63 (0.5)
    calibration   images with captions (a folder), texts (.jsonl, .txt) or chats (.jsonl); for pruners that need data
    out           the folder to write; force=true replaces one that is there
    yes           true: do not ask; needed where there is no terminal
    modality      vision, text or fusion: prune its layers only
    prune_heads   true: output embeddings and classifiers too
    also, leave   patterns of names that are pruned, or stay dense: leave=[*.layers.0.*,visual_projection]
    num_samples, batch_size, max_length, seed   of the calibration data (128, 8, what the model allows up to 512, 0)
    device, dtype  cpu or cuda (cpu); float32, bfloat16, float16 (as stored)
"""

import sys

from vlp_bench.runs.own_model.request import request_of
from vlp_bench.runs.terminal.console import console, print_help
from vlp_bench.runs.terminal.errors import one_line, wants_traceback


def main() -> None:
    """Perform the command line."""
    words = [word for word in sys.argv[1:] if not word.startswith("debug=")]
    if not words or {"-h", "--help"} & set(words):
        print_help(__doc__)
        return
    with one_line(words, traceback=wants_traceback(sys.argv[1:])):
        request, options = request_of(words)
        from vlp_bench.runs.own_model.prune import prune

        prune(request, options, console)


if __name__ == "__main__":
    main()
