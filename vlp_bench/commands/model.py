"""Show what of a transformers model would be pruned.

    vlp-bench model show FOLDER
    vlp-bench model show hf:owner/name modality=vision leave=[*.layers.0.*]

Modality, blocks and weights of the layers that `vlp-bench prune` would prune, and what stays dense with the reason,
read from the module tree, without the weights. modality=, prune_heads=, also=, leave= are those of `vlp-bench prune`.
"""

import sys

from vlp_bench.runs.own_model.request import selection_of
from vlp_bench.runs.terminal.console import console, print_help
from vlp_bench.runs.terminal.key_value import with_words


def main() -> None:
    """Perform the command line."""
    with_words(_show if sys.argv[1:] else lambda _: print_help(__doc__), __doc__)


def _show(words: list[str]) -> None:
    selection = selection_of(words)
    from vlp_bench.runs.own_model.prune import show

    show(selection, console)


if __name__ == "__main__":
    main()
