"""What `pruner/GROUP=NAME` may name beside the files of conf/pruner: every score, schedule, sweep, choice of
tokens and fit of values.

Their signatures are their configuration. They are read from the source text, as Hydra asks at every start, when nothing
heavy may be imported.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from vlp_bench.construct import conf_folder

HOME = "vlp_bench.pruning"
PACKAGE = Path(__file__).resolve().parents[1]
FIRST = {
    "scores": ("layer", "calibration"),
    "schedule": ("sparsity",),
    "sweep": ("solve", "calibration", "budgets"),
    "tokens": ("calibration",),
    "values": ("calibration", "masks"),
}
SHARED = {"compat": "${{{up}compat}}", "steps": "${{{up}steps}}", "seed": "${{oc.select:{up}seed,0}}"}
GROUPS = ("allocate", "solve", "schedule", "sweep", "tokens", "values")


def folder() -> Path:
    """conf/pruner, beside the package in a checkout, inside it when installed."""
    return conf_folder() / "pruner"


def names(group: str = "") -> list[str]:
    """What can be asked for by name in conf/pruner, or in one of its groups."""
    files = [path.stem for path in (folder() / group).glob("*.yaml")]
    return sorted([*files, *(generated(group) if group else ())])


def generated(group: str) -> dict[str, dict[str, Any]]:
    """The choices of a group that have no file: name -> node.

    A score is one of "allocate" (one threshold for the model) and of "solve" (the largest of each layer).
    """
    filed = {path.stem for path in (folder() / group).glob("*.yaml")}
    if group not in ("allocate", "solve"):
        return {name: node for name, node in _functions(group, up="..").items() if name not in filed}
    scores = {name: node for name, node in _functions("scores", up="...").items() if name not in filed}
    if group == "solve":
        part = {"_target_": f"{HOME}.solvers.keep_top.KeepTop", "within": "layer"}
    else:
        part = {"_target_": f"{HOME}.allocation.global_threshold.GlobalThreshold", "group_by": "model"}
    return {name: {**part, "score": score, "compat": "${..compat}"} for name, score in scores.items()}


def register() -> None:
    """Tells Hydra and OmegaConf what the files of conf/pruner alone don't."""
    from hydra.core.config_store import ConfigStore

    register_resolver()
    for group in GROUPS:
        for name, node in generated(group).items():
            ConfigStore.instance().store(name=name, node=node, group=f"pruner/{group}", provider="vlp_bench")


def register_resolver() -> None:
    """Tells OmegaConf alone, which is all that a pruner's file needs."""
    from omegaconf import OmegaConf

    OmegaConf.register_new_resolver("by_compat", _by_compat, replace=True)


def declared(target: str) -> list[str] | None:
    """The options of a constructor or a part's function, by name; None for what isn't ours, or takes any.

    A function's other arguments are what its kind is called with.
    """
    module, _, name = target.rpartition(".")
    node = _definitions(module).get(name) if module.startswith("vlp_bench.") else None
    if isinstance(node, ast.FunctionDef):
        return None if node.args.kwarg else list(_settings(node.args))
    if node is None or any(ast.unparse(base) not in _definitions(module) for base in node.bases):
        return None
    inherited = [declared(f"{module}.{ast.unparse(base)}") or [] for base in node.bases]
    return [*(n for names in inherited for n in names), *(f.target.id for f in node.body if _is_field(f))]  # pyright: ignore


def _is_field(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)


def _functions(module: str, up: str) -> dict[str, dict[str, Any]]:
    """Node -> of every public function of a file that begins with the arguments of its kind and needs no others."""
    nodes = {}
    for name, function in _definitions(f"{HOME}.{module}").items():
        if not isinstance(function, ast.FunctionDef) or name.startswith("_"):
            continue
        options = _settings(function.args)
        first = tuple(argument.arg for argument in function.args.args if argument.arg not in options)
        known = all(default is not None or option in SHARED for option, default in options.items())
        if first == FIRST[module] and known:
            nodes[name] = {"_target_": f"{HOME}.{module}.{name}", "_partial_": True, **_options(options, up)}
    return nodes


def _settings(arguments: ast.arguments) -> dict[str, ast.expr | None]:
    """Option -> default, None where there is none: what has a default or can be given by name alone."""
    usual = arguments.args[len(arguments.args) - len(arguments.defaults) :]
    defaults = [*arguments.defaults, *arguments.kw_defaults]
    return dict(zip((a.arg for a in (*usual, *arguments.kwonlyargs)), defaults, strict=True))


def _options(options: Mapping[str, ast.expr | None], up: str) -> dict[str, Any]:
    """Values of a node: what pruners share comes from `up` the tree, the rest is the default."""
    return {
        name: SHARED[name].format(up=up) if name in SHARED else ast.literal_eval(default)  # pyright: ignore
        for name, default in options.items()
    }


@cache
def _definitions(module: str) -> dict[str, ast.FunctionDef | ast.ClassDef]:
    """The functions and classes of one of our files by name."""
    file = PACKAGE.joinpath(*module.split(".")[1:]).with_suffix(".py")
    if not file.is_file():
        return {}
    body = ast.parse(file.read_text(encoding="utf-8")).body
    return {node.name: node for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)}


def _by_compat(compat: str, corrected: Any, official: Any) -> Any:
    """`${by_compat:${..compat},A,B}`: A in corrected mode, B in official mode."""
    return official if compat == "official" else corrected
