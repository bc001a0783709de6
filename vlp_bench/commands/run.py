"""Prune once, fine-tune, test, store the numbers; -m for a sweep.

The whole of what can be said is in `vlp_bench.runs.terminal.help`, which reads it from conf/.
"""

import sys

from vlp_bench.commands import prune
from vlp_bench.runs.own_model.evaluation_request import is_preset


def main() -> None:
    """Read the command line and run it. Nothing heavy is imported before the arguments are known to be good."""
    arguments = sys.argv[1:]
    if {"-h", "--help"} & set(arguments):
        from vlp_bench.runs.terminal.console import print_help
        from vlp_bench.runs.terminal.help import help_text

        print_help(help_text())
    elif is_preset(arguments):  # the model is a folder of transformers: pruned, written and measured, not fine-tuned
        prune.main("run")
    else:
        from vlp_bench.runs.launch import launch

        launch(arguments)


if __name__ == "__main__":
    main()
