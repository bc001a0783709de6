"""`vlp-bench VERB ...`: one program with a verb for each file of commands/; without a verb it is a run."""

import sys
from collections.abc import Sequence
from importlib import import_module

from vlp_bench import __version__
from vlp_bench.runs.terminal.conf import PACKAGE, closest
from vlp_bench.runs.terminal.console import columns, console, print_help, stderr
from vlp_bench.runs.terminal.errors import MISTAKE

FILES = {"sync": "wandb_sync"}  # verbs that are not called as their file
FIRST = ("run", "compare", "experiment", "report", "status")  # what most people type; the others follow by name

USAGE = """\
vlp-bench prunes a vision-language model once, fine-tunes what is left on a task, and says what it cost.

usage: vlp-bench VERB [words]     (vlp-bench VERB --help says which; without a VERB it is a run)
       python -m vlp_bench VERB   the same
"""
EXAMPLES = """\
first steps:
  vlp-bench run +exp=xvlm_itr pruner=multiflow sparsity=0.75
  vlp-bench compare +exp=xvlm_itr rehearse=true
  vlp-bench list pruners

  -h, --help   this text            --version   the version of vlp_bench
"""


def main() -> None:
    """Perform a verb. Nothing heavy is imported before the words are known to be good."""
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help"):
        print_help(help_text())
    elif words[0] == "--version":
        console.print(f"vlp_bench {__version__}")
    elif not is_verb(words[0]):
        perform("run", words)
    elif words[0] in verbs():
        perform(words[0], words[1:])
    else:
        hint = closest(words[0], list(verbs()))
        stderr.print(f"[red]error:[/] {words[0]}: there is no such verb{hint} (vlp-bench --help lists them)")
        sys.exit(MISTAKE)


def is_verb(word: str) -> bool:
    """Whether a first word is meant as a verb: not an option, not key=value."""
    return "=" not in word and not word.startswith(("-", "+", "~"))


def verbs() -> dict[str, str]:
    """Verb -> its line of help, the first of its file; read without importing anything."""
    files = {file.stem: file for file in (PACKAGE / "commands").glob("[!_]*.py")}
    names = {FILES.get(verb, verb): verb for verb in (*FIRST, *FILES)}
    order = [*FIRST, *sorted(files.keys() - set(FIRST))]
    return {names.get(stem, stem.replace("_", "-")): _first_line(files[stem].read_text("utf-8")) for stem in order}


def _first_line(text: str) -> str:
    return text.removeprefix('"""').partition("\n")[0].rstrip('"')


def help_text() -> str:
    """What `vlp-bench --help` says."""
    return "\n".join([USAGE, "verbs:", *columns(verbs().items(), console.width), "", EXAMPLES])


def perform(verb: str, words: Sequence[str]) -> None:
    """Do what `python -m vlp_bench.commands.VERB WORDS` does."""
    stem = FILES.get(verb, verb.replace("-", "_"))
    sys.argv = [f"vlp-bench {verb}", *words]
    import_module(f"vlp_bench.commands.{stem}").main()


if __name__ == "__main__":
    main()
