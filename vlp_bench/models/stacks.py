"""Stacks of matrices: experts of a mixture that one parameter of three dimensions holds, each a matrix of its own.

`experts.gate_up_proj` of shape (E, a, b) has the slices `experts.gate_up_proj[0]` to `[E - 1]`; a slice's name and its
view of the memory are all that the rest of pruning sees.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

TRANSPOSED = "is_transposed"  # what transformers' experts say of themselves
UNMARKED = {  # experts of transformers that don't
    "InklingSharedExperts": False,
    "JetMoeParallelExperts": False,
    "Llama4TextExperts": True,
    "LongcatFlashExperts": False,
    "Step3p7Experts": False,
}
EVERY_TOKEN = {"Llama4TextExperts"}  # get all tokens once for each expert, zeros where they are not sent there
SORTED = {"JetMoeParallelExperts"}  # get tokens in the experts' order, not in their own


@dataclass(frozen=True, eq=False)
class Stack:
    """One parameter of experts. `transposed`: each slice is stored as (d_in, d_out)."""

    name: str
    parameter: nn.Parameter
    transposed: bool

    def slices(self) -> dict[str, Tensor]:
        """A view of each matrix by its name; writing to one writes to the parameter."""
        return {slice_name(self.name, i): part for i, part in enumerate(self.parameter.detach().unbind())}


def slice_name(stack: str, index: int) -> str:
    """The name of one matrix of a stack."""
    return f"{stack}[{index}]"


def stack_of(name: str) -> tuple[str, int] | None:
    """The stack's name and the number in it, of a slice's name; None for any other."""
    found = re.fullmatch(r"(.+)\[(\d+)\]", name)
    return (found[1], int(found[2])) if found else None


def transposed_experts(module: nn.Module) -> bool | None:
    """Whether a module of experts stores its matrices as (d_in, d_out); None: it is no module of experts."""
    said = getattr(module, TRANSPOSED, None)
    return said if isinstance(said, bool) else UNMARKED.get(type(module).__name__)


def stacks_in(model: nn.Module, *, aliases: bool = False) -> Iterator[Stack]:
    """The stacks of a model; a shared one once, unless all its names are asked for."""
    for path, module in model.named_modules(remove_duplicate=not aliases):
        transposed = transposed_experts(module)
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=not aliases):
            if transposed is not None and parameter.ndim == 3 and parameter.is_floating_point():
                yield Stack(f"{path}.{name}".lstrip("."), parameter, transposed)


def with_slices(tensors: Mapping[str, Tensor], wanted: Collection[str]) -> dict[str, Tensor]:
    """The tensors, and views of their matrices for the wanted names that are slices of one of them."""
    found = dict(tensors)
    for name in wanted:
        place = stack_of(name)
        if name not in found and place is not None and place[0] in found and place[1] < len(found[place[0]]):
            found[name] = found[place[0]][place[1]]
    return found


def parameters_of(names: Iterable[str]) -> list[str]:
    """The parameters that hold what is named: of slices their stacks, each once."""
    return list(dict.fromkeys((stack_of(name) or (name, 0))[0] for name in names))
