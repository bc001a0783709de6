"""`python -m vlp_bench`: the whole sentence. Prune once, fine-tune, test, store."""

import sys


def main() -> None:
    """Read the command line and run it. Nothing heavy is imported before the arguments are known to be good."""
    arguments = sys.argv[1:]
    if {"-h", "--help"} & set(arguments):
        from vlp_bench.runs.console import console
        from vlp_bench.runs.help import help_text

        console.print(help_text(), markup=False, soft_wrap=True)
        return
    from vlp_bench.runs.launch import launch

    launch(arguments)


if __name__ == "__main__":
    main()
