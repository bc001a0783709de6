"""Show what of a transformers model would be pruned.

    vlp-bench model show FOLDER
    vlp-bench model show hf:owner/name modality=vision leave=[*.layers.0.*]

Modality, blocks and weights of the layers that `vlp-bench prune` would prune, and what stays dense with the reason,
read from the module tree, without the weights. modality=, prune_heads=, also=, leave= are those of `vlp-bench prune`.
"""

import sys

from vlp_bench.runs.own_model.request import selection_of
from vlp_bench.runs.terminal.console import console, print_help
from vlp_bench.runs.terminal.errors import one_line, wants_traceback


def main() -> None:
    """Perform the command line."""
    words = [word for word in sys.argv[1:] if not word.startswith("debug=")]
    if not words or {"-h", "--help"} & set(words):
        print_help(__doc__)
        return
    with one_line(words, traceback=wants_traceback(sys.argv[1:])):
        selection = selection_of(words)
        from vlp_bench.runs.own_model.prune import show

        show(selection, console)


if __name__ == "__main__":
    main()
