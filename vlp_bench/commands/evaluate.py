"""Evaluate transformers models as they are, dense or pruned.

    vlp-bench evaluate model=FOLDER task=retrieval data.root=FOLDER data.format=karpathy
    vlp-bench evaluate model=FOLDER,PRUNED task=perplexity data.root=FOLDER data.format=wikitext

Nothing is trained. Each number is a row of the results, which `vlp-bench report` shows; several models stand side by
side, with the change against the dense one, and a model that has been measured on the same is not measured again.

    model         folders with config.json and .safetensors, or hf:owner/name; several with commas between
    task          retrieval, vqa, captioning, perplexity, multiple_choice or classification
    data.root     the folder of the data, data.format what they are in (docs/evaluate.md lists the formats of each task)
    data.KEY      test (the file, where its name does not tell), images, split (test), names, limit (N records)
    task.KEY      prompt, batch_size, shots, window, ... (docs/keys.md)
    +exp=NAME     task and data of a row of ECoFLaP's tables
    out           where the rows go (outputs)
    device, dtype  cpu or cuda (cpu); float32, bfloat16, float16 (as stored)
    force         true: measure again
"""

import sys

from vlp_bench.runs.own_model.evaluation_request import check_given, evaluation_of
from vlp_bench.runs.terminal.console import console, print_help
from vlp_bench.runs.terminal.key_value import with_words


def main() -> None:
    """Perform the command line."""
    with_words(_evaluate if sys.argv[1:] else lambda _: print_help(__doc__), __doc__)


def _evaluate(words: list[str]) -> None:
    check_given("evaluate", words)
    evaluation = evaluation_of(words)
    from vlp_bench.runs.own_model.evaluate import evaluate

    evaluate(evaluation, console)


if __name__ == "__main__":
    main()
