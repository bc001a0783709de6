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
    modality      vision, text, fusion or audio: prune its layers only
    prune_heads   true: output embeddings and classifiers too
    also, leave   patterns of names that are pruned, or stay dense: leave=[*.layers.0.*,visual_projection]
    num_samples, batch_size, max_length, seed   of the calibration data (128, 8, what the model allows up to 512, 0)
    allow         functions of a package of your own that pruner.KEY names: allow=[my_package.my_score]
    device, dtype  cpu or cuda (cpu); float32, bfloat16, float16 (as stored)
    offload       true: one block's weights on the device at a time, for wanda, sparsegpt, ecoflap
    plan          true: only say what it would take, from config.json; tflops=NUMBER, as measured, gives seconds
    pruning_precision   of passes over calibration data: fp32, tf32, bf16 (auto: fp32, or what a GPU is known to do)
    evaluate      a task of `vlp-bench evaluate`, with its task.KEY and data.KEY: what is measured before and after;
                  results=FOLDER is where the rows go (outputs)
    +exp=NAME     a row of ECoFLaP's tables: pruner, sparsity, calibration and task as published
"""

import sys
from functools import partial

from vlp_bench.runs.own_model.evaluation_request import check_given, is_preset, split
from vlp_bench.runs.own_model.request import request_of
from vlp_bench.runs.terminal.console import console, print_help
from vlp_bench.runs.terminal.key_value import with_words


def main(verb: str = "prune") -> None:
    """Perform the command line; `verb`: what was typed."""
    with_words(
        partial(_prune, verb) if sys.argv[1:] else lambda _: print_help(__doc__),
        __doc__,
        stopped="no folder is half written; the same command begins anew",
    )


def _prune(verb: str, words: list[str]) -> None:
    if is_preset(words):
        check_given(verb, words)
    pruning, evaluation = split(words)
    request, options = request_of(pruning)
    if evaluation is None or request.plan:
        from vlp_bench.runs.own_model.prune import prune

        prune(request, options, console)
    else:
        from vlp_bench.runs.own_model.evaluate import prune_and_evaluate

        prune_and_evaluate(request, options, evaluation, console)


if __name__ == "__main__":
    main()
