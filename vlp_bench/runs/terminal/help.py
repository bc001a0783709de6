"""What `vlp-bench run --help` says; made from the files of conf/, so it is never out of date."""

from vlp_bench.runs.terminal.conf import blurb, choices
from vlp_bench.runs.terminal.console import columns, console

EXPERIMENT = "no experiment given: write +exp=NAME, where NAME is one of"

_HEAD = """\
vlp_bench: prune a pre-trained vision-language model once, fine-tune the sparse model on a task, see what it cost.

usage: vlp-bench run +exp=EXPERIMENT [pruner=PRUNER] [sparsity=S] [seed=N] [benchmark=NAME] [key=value ...]

A run loads the model, prunes it (0 <= sparsity < 1 of the weights), fine-tunes what is left, tests once and stores
one row per number. Its folder follows from what was asked: the same command again shows the stored result, or goes on
where it was interrupted.
"""

_TAIL = """\
examples:
  vlp-bench run +exp=xvlm_itr pruner=multiflow sparsity=0.9         the demo: minutes on two cores, no download
  vlp-bench run +exp=xvlm_itr pruner=dense sparsity=0               what it is compared with
  vlp-bench run +exp=xvlm_itr pruner=omp recipe.epochs=1            any value of the configuration can be changed
  vlp-bench run -m +exp=xvlm_itr pruner=omp,lamp seed=0,1,2         all combinations, each in a fresh process
  vlp-bench compare +exp=xvlm_itr                                   six pruners, three sparsities, three seeds
  vlp-bench run +exp=xvlm_itr benchmark=paper paths.data=DIR paths.weights=DIR
  vlp-bench run +exp=ecoflap_llama model=DIR calibration=FILE data.root=DIR out=DIR   a folder

common values:
  sparsity=0.9        share of the prunable weights that is removed, 0 <= sparsity < 1
  seed=0              owner of every random choice
  rehearse=true       few steps of everything, in seconds; the numbers mean nothing
  force=true          compute again although the result is stored (--force is the same)
  paths.out=outputs   where runs, masks and results go
  trainer=cpu|gpu     where to run; default: a GPU where there is one
  logger=wandb        Weights & Biases as well as CSV (offline unless logger.wandb.offline=false)
  debug=true          errors with their traceback

  --cfg job           print the whole configuration of a run and stop
  --hydra-help        more of what the command line can do
"""


_SHOWN = {"exp": "+exp", "pruner": "pruner", "benchmark": "benchmark"}


def help_text() -> str:
    """The whole help: usage, what can be chosen, examples."""
    sections = [_HEAD]
    sections += [_section(f"{group.replace('exp', 'experiment')}s ({word}=)", group) for group, word in _SHOWN.items()]
    return "\n".join([*sections, _TAIL])


def _section(title: str, group: str) -> str:
    lines = columns([(choice, blurb(group, choice)) for choice in choices(group)], console.width)
    return "\n".join([f"{title}:", *lines, ""])


def no_experiment() -> str:
    """The line for a command without an experiment."""
    return f"{EXPERIMENT} {', '.join(choices('exp'))} (vlp-bench run --help tells more)"
