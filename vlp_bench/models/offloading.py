"""Models that are larger than a device's memory: the weights of a block are on it while the block runs.

A block is an entry of an outermost `nn.ModuleList`. What lies outside all blocks (embeddings, norms, heads) stays on
the device. Meanwhile a weight that isn't there is one NaN in the weight's shape: whoever reads it by mistake is found
out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from safetensors import safe_open
from torch import Tensor, nn

from vlp_bench.models.checkpoints.hub import misshapen, weight_files

_known: WeakKeyDictionary[nn.Module, Offloaded] = WeakKeyDictionary()


class StoredWeights(Mapping[str, Tensor]):
    """The tensors of the .safetensors files that a folder's model is read from, each read when it is asked for.

    Attributes:
        files: by the name that a tensor has in its file.
        shapes, types: by the same; a type is called as the file calls it, "F32".
    """

    def __init__(self, folder: Path) -> None:
        self.files: dict[str, Path] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.types: dict[str, str] = {}
        for path in weight_files(folder):
            with safe_open(path, "pt") as file:
                slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
                self.files |= dict.fromkeys(slices, path)
                self.shapes |= {name: tuple(own.get_shape()) for name, own in slices.items()}
                self.types |= {name: own.get_dtype() for name, own in slices.items()}

    def __getitem__(self, name: str) -> Tensor:
        with safe_open(self.files[name], "pt") as file:
            return file.get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.files)

    def __len__(self) -> int:
        return len(self.files)


class Offloaded:
    """Takes a model's weights away but for those outside its blocks, and brings a block's back while it runs.

    Args:
        model: its parameters may be on the meta device; those of the blocks lose their values.
        stored: where they are read from, by name, which may lack or have one prefix (`model.`).
        device: where blocks run.
        dtype: of the weights; None: as stored.

    Attributes:
        most_bytes: that weights of blocks have taken on the device at one time.
        unread: names of stored tensors that are no parameter or buffer of the model.

    Raises:
        ValueError: the model has no blocks, or a weight is missing or of another shape.
    """

    def __init__(
        self, model: nn.Module, stored: Mapping[str, Tensor], device: torch.device, dtype: torch.dtype | None = None
    ) -> None:
        self.stored, self.device, self.dtype = stored, device, dtype
        self.blocks = outermost_blocks(model)
        if not self.blocks:
            raise ValueError(
                f"{type(model).__name__} has no blocks in a ModuleList: it can't be offloaded; load it whole"
            )
        _replace_meta(model)
        self.names, self.unread = _stored_names(model, stored)
        owner = {id(p): block for block in self.blocks for p in block.parameters()}
        shared = [
            n for n, p in model.named_parameters() if sum(p is q for b in self.blocks for q in b.parameters()) > 1
        ]
        if shared:
            raise ValueError(f"{shared[0]} is shared by several blocks: such a model can't be offloaded; load it whole")
        self._parameters: dict[nn.Module, dict[str, nn.Parameter]] = {block: {} for block in self.blocks}
        self._block_of: dict[str, nn.Module] = {}
        self._users = dict.fromkeys(self.blocks, 0)
        self._checked: set[nn.Module] = set()
        self.bytes = self.most_bytes = 0
        for name, parameter in model.named_parameters():
            block = owner.get(id(parameter))
            if block is None:
                parameter.data = self.value(name)
            else:
                self._parameters[block][name] = parameter
                self._block_of[name] = block
                parameter.data = self._absent(parameter)
        for block in self.blocks:
            block.forward = self._watched(block)
        for name, buffer in model.named_buffers():
            buffer.data = (stored[self.names[name]] if name in self.names else buffer).to(device)
        _known[model] = self

    def value(self, name: str) -> Tensor:
        """A parameter's stored values, on the device."""
        return self.stored[self.names[name]].to(self.device, self.dtype)

    def leaves(self, name: str) -> bool:
        """Whether a parameter is in a block."""
        return name in self._block_of

    @contextmanager
    def present(self, names: Iterable[str]) -> Iterator[None]:
        """While the blocks of these parameters have their values; what was written to them is gone afterwards."""
        with ExitStack() as undo:
            for block in dict.fromkeys(self._block_of[name] for name in names if name in self._block_of):
                undo.enter_context(self._here(block))
            yield

    @contextmanager
    def _here(self, block: nn.Module) -> Iterator[None]:
        if not self._users[block]:
            self._load(block)
        self._users[block] += 1
        try:
            yield
        finally:
            self._users[block] -= 1
            if not self._users[block]:
                self._free(block)

    def _load(self, block: nn.Module) -> None:
        for name, parameter in self._parameters[block].items():
            parameter.data = self.value(name)
            self.bytes += parameter.numel() * parameter.element_size()
        self.most_bytes = max(self.most_bytes, self.bytes)
        if block not in self._checked:
            self._check(block)
            self._checked.add(block)

    def _check(self, block: nn.Module) -> None:
        own = self._parameters[block]
        if own and not torch.stack([p.detach().sum().double() for p in own.values()]).isfinite().all():
            wrong = next((name for name, p in own.items() if not p.detach().isfinite().all()), None)
            if wrong is not None:
                raise ValueError(f"the weights of {wrong!r} hold NaN or infinity: the model can't be pruned")

    def _free(self, block: nn.Module) -> None:
        for parameter in self._parameters[block].values():
            self.bytes -= parameter.numel() * parameter.element_size()
            parameter.data = self._absent(parameter)

    def _absent(self, parameter: nn.Parameter) -> Tensor:
        return torch.full((), torch.nan, dtype=self.dtype or parameter.dtype, device=self.device).expand(
            parameter.shape
        )

    def _watched(self, block: nn.Module) -> Any:
        forward = block.forward

        def runs(*args: Any, **kwargs: Any) -> Any:
            with self._here(block):
                return forward(*args, **kwargs)

        runs.offloaded = True  # pyright: ignore[reportFunctionMemberAccess]
        return runs


def offloaded(model: nn.Module) -> Offloaded | None:
    """How a model is offloaded; None: it isn't."""
    return _known.get(model)


@contextmanager
def present(model: nn.Module, names: Iterable[str]) -> Iterator[None]:
    """While parameters have their values; those of a model that isn't offloaded always have."""
    own = offloaded(model)
    with ExitStack() as undo:
        if own is not None:
            undo.enter_context(own.present(names))
        yield


def runs_as_written(module: nn.Module) -> bool:
    """Whether nobody has put another forward in the place of a module's own, but for one that brings its weights."""
    forward = module.__dict__.get("forward")
    return forward is None or getattr(forward, "offloaded", False)


def outermost_blocks(model: nn.Module) -> list[nn.Module]:
    """The entries of every `nn.ModuleList` that lies in no other's entry."""
    found: dict[nn.Module, None] = {}
    inside: set[nn.Module] = set()
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and module not in inside:
            found |= dict.fromkeys(module)
            inside |= {inner for entry in module for inner in entry.modules()}
    return list(found)


@contextmanager
def parameters_on_meta() -> Iterator[None]:
    """Modules built inside have their parameters on the meta device, and their buffers where they say."""
    register = nn.Module.register_parameter

    def on_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None and not parameter.is_meta:
            parameter = nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad)
        register(module, name, parameter)

    nn.Module.register_parameter = on_meta  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        nn.Module.register_parameter = register


def _replace_meta(model: nn.Module) -> None:
    """Parameters that take values: one on the meta device never does."""
    made: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and parameter.is_meta:
                empty = torch.empty((), dtype=parameter.dtype).expand(parameter.shape)
                new = nn.Parameter(empty, requires_grad=parameter.requires_grad)
                module._parameters[name] = made.setdefault(id(parameter), new)


def _stored_names(model: nn.Module, stored: Mapping[str, Tensor]) -> tuple[dict[str, str], list[str]]:
    """By parameter (and stored buffer) the name under which it is stored; and the stored names that are nothing's."""
    aliases: dict[int, list[str]] = {}
    tensors = dict(model.named_parameters(remove_duplicate=False))
    for name, parameter in tensors.items():
        aliases.setdefault(id(parameter), []).append(name)
    prefixes = ("", *sorted({f"{name.split('.')[0]}." for name in stored}))
    called = {name: _called(name, prefixes, stored) for name, _ in model.named_buffers()}
    called |= {name: _called(name, prefixes, stored) for name in tensors}
    found = {name: name for name, _ in model.named_buffers() if name in stored}
    for name, parameter in model.named_parameters():
        own = next((called[alias] for alias in aliases[id(parameter)] if called[alias]), None)
        if own is None:
            raise ValueError(f"{name!r} is not among the {len(stored)} stored weights: load the model whole")
        if (shape := _shape(stored, own)) != parameter.shape:
            raise ValueError(f"the stored weights are another model's: {misshapen(own, shape, parameter.shape)}")
        found[name] = own
    return found, sorted(stored.keys() - set(called.values()))


def _called(name: str, prefixes: Iterable[str], stored: Mapping[str, Tensor]) -> str | None:
    """What a tensor is called in the files; None where it is in none."""
    return next((way for way in _ways(name, prefixes) if way in stored), None)


def _shape(stored: Mapping[str, Tensor], name: str) -> tuple[int, ...]:
    return stored.shapes[name] if isinstance(stored, StoredWeights) else tuple(stored[name].shape)


def _ways(name: str, prefixes: Iterable[str]) -> list[str]:
    """What a parameter may be called in a file: as it is, with a prefix, without its own."""
    return [*(f"{prefix}{name}" for prefix in prefixes), name.partition(".")[2]]
