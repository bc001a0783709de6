"""A device that isn't the processor, without a card: tensors that say they lie on it and are computed beside it.

torch lets a backend be written in Python. Of this one every tensor wraps one on the processor. What a GPU refuses is
refused here (an operation on tensors of two devices, `.numpy()`), and what makes a program wait for a GPU is counted:
a number read, a copy to the processor, entries picked by a mask. Nothing here says how long anything takes.

A backend stays with its process, so tests run what needs it in one of its own.
"""

from __future__ import annotations

import sys
from collections import Counter
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import backend_registration
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

NAME = "pretend"
DEVICE = f"{NAME}:0"
POSSIBLE = hasattr(backend_registration, "_setup_privateuseone_for_python_backend")
waits: Counter[str] = Counter()
"""Line of the package -> how often it made the program wait."""
aten = torch.ops.aten
READ = {aten._local_scalar_dense.default, aten.equal.default, aten.is_nonzero.default, aten.nonzero.default,
        aten.masked_select.default, aten._unique2.default}  # fmt: skip
PICK = {aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default}
CROSS = {aten._to_copy.default, aten.copy_.default}


def wait() -> None:
    """Counts one for the innermost line of the package."""
    frame: FrameType | None = sys._getframe()
    while frame is not None and "/vlp_bench/" not in frame.f_code.co_filename:
        frame = frame.f_back
    file = "elsewhere" if frame is None else frame.f_code.co_filename.rpartition("/vlp_bench/")[2]
    waits[f"{file}:{0 if frame is None else frame.f_lineno}"] += 1


class OnDevice(Tensor):
    """A tensor of this device; `inner` holds its numbers."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> OnDevice:
        own = torch.Tensor._make_wrapper_subclass(  # pyright: ignore[reportAttributeAccessIssue]
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            device=torch.device(DEVICE),
        )  # fmt: skip
        own.inner = inner
        return own

    def __repr__(self, **_: Any) -> str:
        return f"OnDevice({self.inner})"

    def tolist(self) -> Any:
        wait()
        return self.inner.tolist()

    def new_tensor(self, data: Any, **other: Any) -> Tensor:
        return OnDevice(self.inner.new_tensor(data, **other))

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        _refuse_two_devices(func, args, kwargs)
        if func is aten.copy_.default and not isinstance(args[0], OnDevice):
            wait()
            return args[0].copy_(args[1].inner)
        home = func is aten._to_copy.default and kwargs.get("device", torch.device(DEVICE)).type == "cpu"
        if home or func in READ or (func in PICK and any(_is_mask(index) for index in args[1])):
            wait()
        if kwargs.get("device") is not None:
            kwargs["device"] = torch.device("cpu")
        found = func(*tree_map(_inner, args), **tree_map(_inner, kwargs))
        return found if home else return_and_correct_aliasing(func, args, kwargs, tree_map(_wrapped, found))


def _refuse_two_devices(func: Any, args: Any, kwargs: Any) -> None:
    """As a GPU does: single numbers may lie on the processor, and indices."""
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor) and leaf.dim() > 0]
    strangers = [own for own in tensors if not isinstance(own, OnDevice)]
    if func in PICK and isinstance(args[0], OnDevice):
        indices = {id(index) for index in args[1]}
        strangers = [own for own in strangers if id(own) not in indices]
    if strangers and func not in CROSS:
        raise RuntimeError(f"{func} is asked about tensors of two devices")


def _is_mask(index: Any) -> bool:
    return isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8)


def _inner(value: Any) -> Any:
    return value.inner if isinstance(value, OnDevice) else value


def _wrapped(value: Any) -> Any:
    return OnDevice(value) if isinstance(value, Tensor) and not isinstance(value, OnDevice) else value


class _Backend:
    """What torch asks of one."""

    def is_available(self) -> bool:
        return True

    def is_initialized(self) -> bool:
        return True

    def device_count(self) -> int:
        return 1

    def current_device(self) -> int:
        return 0

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        """Random numbers are drawn on the processor."""

    manual_seed = manual_seed_all

    def get_rng_state(self, *_: Any) -> Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: Tensor, *_: Any) -> None:
        torch.set_rng_state(state)

    def synchronize(self, *_: Any) -> None:
        """Nothing is ever left to do."""


def install() -> torch.library.Library:
    """Makes the device known to this process, for as long as the answer lives."""
    backend_registration._setup_privateuseone_for_python_backend(NAME, _Backend())  # pyright: ignore[reportAttributeAccessIssue]

    def made(func: Any, *args: Any, **kwargs: Any) -> Any:
        """What makes tensors of nothing."""
        return tree_map(_wrapped, func(*args, **{**kwargs, "device": torch.device("cpu"), "pin_memory": False}))

    library = torch.library.Library("_", "IMPL")
    library.fallback(made, "PrivateUse1")
    torch.tensor, torch.full = _moved_after(torch.tensor), _moved_after(torch.full)
    return library


def _moved_after(make: Any) -> Any:
    """torch's own can't make a tensor of such a device."""

    def made(*args: Any, device: Any = None, **other: Any) -> Tensor:
        found = make(*args, **other)
        return found if device is None else found.to(device)

    return made


def moved(model: nn.Module) -> nn.Module:
    """The model with its parameters and buffers on the device, shared ones once."""
    seen: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                new = nn.Parameter(OnDevice(parameter.detach()), requires_grad=parameter.requires_grad)
                module._parameters[name] = seen.setdefault(id(parameter), new)
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else OnDevice(buffer)
    return model
