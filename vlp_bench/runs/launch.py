"""From a command line to a run: Hydra composes, the specification checks, the run begins."""

import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from vlp_bench.runs.terminal.conf import conf_folder
from vlp_bench.runs.terminal.errors import UserError, one_line, wants_traceback

VERSION_BASE = "1.3"
SWEEP = ("-m", "--multirun")
RAW = ("HYDRA_FULL_ERROR", "OC_CAUSE")  # their switches for exceptions as they are


def launch(arguments: Sequence[str]) -> None:
    """Compose the configuration from the command line and perform it; every user error is one line."""
    import hydra

    from vlp_bench.runs.specification import register

    register()
    arguments = sys.argv[1:] = _in_hydras_words(arguments)
    traceback = wants_traceback(arguments)
    with one_line(arguments, traceback=traceback), _raw_errors():
        _check_hydras_own(arguments)
        job = _job(arguments, traceback)
        hydra.main(version_base=VERSION_BASE, config_path=str(conf_folder()), config_name="config")(job)()


def _check_hydras_own(arguments: Sequence[str]) -> None:
    """Raise UserError for a word that has Hydra itself construct something before a configuration is checked."""
    for word in arguments:
        if re.match(r"[+~]*hydra\b.*_target_", word):
            raise UserError(f"{word}: what Hydra constructs cannot be set; choose a launcher with hydra/launcher=NAME")


def _in_hydras_words(arguments: Sequence[str]) -> list[str]:
    """The command line with our own switches, --force and --emit-sbatch, as Hydra spells them, and -m in front.

    Of words on both sides of a switch Hydra reads those before it alone.
    """
    words = ["force=true" if word == "--force" else word for word in arguments]
    rest = [word for word in words if word not in ("--emit-sbatch", *SWEEP)]
    if "--emit-sbatch" in words:
        return ["-m", *rest, "hydra/launcher=sbatch"]
    return ["-m", *rest] if len(rest) < len(words) else words


def _job(arguments: Sequence[str], traceback: bool) -> Callable[[Any], None]:
    def job(config: Any) -> None:
        from hydra.core.hydra_config import HydraConfig

        from vlp_bench.runs.specification import specify

        # Hydra announces errors that pass through it with a line of its own; these end here
        with one_line(arguments, traceback=traceback):
            specification = specify(config, HydraConfig.get())
            from vlp_bench.runs.process_group import perform
            from vlp_bench.runs.trial_construction import construct_all

            construct_all(specification)
            perform(specification, arguments)

    return job


@contextmanager
def _raw_errors() -> Iterator[None]:
    """Let the errors of Hydra and OmegaConf through as exceptions with their causes, for `one_line` to explain."""
    before = {name: os.environ.get(name) for name in RAW}
    os.environ.update(dict.fromkeys(RAW, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
