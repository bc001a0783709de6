"""What pruning asks of a model: six questions, and answers a plain classifier can live with."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch.nn.functional as F
from torch import Tensor, nn

from vlp_bench.batch import Batch, Place

log = logging.getLogger(__name__)
IGNORED = -100  # torch's default for a label that doesn't count


@runtime_checkable
class Adapter(Protocol):
    """The six questions. Subclass `PlainAdapter` to answer only some of them."""

    def prunable(self, model: nn.Module) -> list[str]:
        """Names of the parameters that may be pruned, any alias of a shared one."""
        ...

    def place(self, name: str) -> Place:
        """Modality and block of the parameter `name`."""
        ...

    def encode(self, model: nn.Module, batch: Any) -> None:
        """One plain forward pass, for activations."""
        ...

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """The scalar pre-training loss, for gradients."""
        ...

    def token_mask(self, batch: Any, name: str, tokens: int) -> Tensor | None:
        """(rows, tokens) bool: what counts at the input of the layer that reads `name`; None: everything."""
        ...

    def rows(self, batch: Any) -> int:
        """Images in the batch."""
        ...


class PlainAdapter:
    """Answers for a model of one modality: every linear weight may go, every token counts.

    A batch is what the model is called with: a mapping of keyword arguments, a tensor, or a tuple or list of tensors
    whose first is the input and whose last is the label.
    """

    def prunable(self, model: nn.Module) -> list[str]:
        """Every linear weight: `nn.Linear`, the projections of `nn.MultiheadAttention`, transformers' `Conv1D`.

        What stays dense is named in a warning: a weight shared with an embedding, and a matrix that something else
        reads (position tables, recurrent layers). Raises ValueError for weights of three dimensions (experts), whose
        layout can't be known.
        """
        embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
        linear = {id(weight) for module in model.modules() for weight in linear_weights(module)}
        for name in stacked_weights(model):
            raise ValueError(
                f"{name!r} is a stack of matrices (experts?), which can't be pruned as one layer; "
                "pass an adapter whose prunable() leaves it out"
            )
        for name, parameter in model.named_parameters():
            if id(parameter) in linear & embeddings:
                log.warning("%s is also an embedding and stays dense", name)
        if unknown := unknown_matrices(model, linear | embeddings):
            log.warning(
                "%d matrices that no linear layer reads stay dense: %s (an adapter's prunable() may name them)",
                len(unknown),
                ", ".join(unknown),
            )
        return [name for name, parameter in model.named_parameters() if id(parameter) in linear - embeddings]

    def place(self, name: str) -> Place:
        """Modality `all`; the block is the name up to its first number, or without its last part."""
        parts = name.split(".")
        number = next((i for i, part in enumerate(parts) if part.isdigit()), None)
        return Place("all", ".".join(parts[:-1] if number is None else parts[: number + 1]) or name)

    def encode(self, model: nn.Module, batch: Any) -> None:
        """Calls the model on the batch."""
        call(model, batch)

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """The `loss` the model returns, else the cross entropy between its output and the last item of the batch.

        Raises ValueError where there is neither, or for a label that is none of the output's classes.
        """
        output = call(model, batch)
        loss = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
        if loss is not None:
            return loss
        if isinstance(output, Tensor) and isinstance(batch, tuple | list) and len(batch) > 1:
            return F.cross_entropy(output, checked_labels(batch[-1], output.shape[min(1, output.ndim - 1)]))
        raise ValueError(
            f"no loss for a batch of type {type(batch).__name__}: a model that returns `.loss`, "
            "a batch (input, label), or an adapter with loss(model, batch) is needed"
        )

    def token_mask(self, batch: Any, name: str, tokens: int) -> Tensor | None:
        """Dense counts."""
        return None

    def rows(self, batch: Any) -> int:
        """The length of the first tensor."""
        if isinstance(batch, Batch):
            return len(batch.images)
        items = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, tuple | list) else [batch]
        rows = next((len(item) for item in items if isinstance(item, Tensor)), None)
        if rows is None:
            raise ValueError(f"a calibration batch of type {type(batch).__name__} holds no tensor")
        return rows


def modality_mask(adapter: Adapter, batch: Any, name: str, tokens: int) -> Tensor | None:
    """(rows, tokens) bool, the image's tokens at the input of the layer that reads `name`; None: one modality.

    The seventh question, with the arguments of `token_mask`, which an adapter need not answer: only models whose layers
    read images and words in one sequence have an answer.
    """
    ask = getattr(adapter, "modality_mask", None)
    return None if ask is None else ask(batch, name, tokens)


def checked_labels(labels: Tensor, classes: int) -> Tensor:
    """Labels as `cross_entropy` takes them: integers become int64, floats (a distribution) stay.

    Raises ValueError for integers outside 0..classes - 1, but for -100, which stands for none: on a GPU one such label
    would be the end of the process.
    """
    if labels.is_floating_point():
        return labels
    wrong = labels[(labels != IGNORED) & ((labels < 0) | (labels >= classes))]
    if wrong.numel():
        raise ValueError(
            f"a label is {int(wrong[0])}, but the model gives {classes} classes: labels go from 0 to {classes - 1} "
            f"({IGNORED} counts as none)"
        )
    return labels.long()


def call(model: nn.Module, batch: Any) -> Any:
    """The model's output for a batch of one of the forms `PlainAdapter` knows."""
    if batch is None or (isinstance(batch, tuple | list) and not batch):
        raise ValueError(f"a calibration batch is {batch!r}: the model has nothing to look at")
    if isinstance(batch, Mapping):
        return model(**batch)
    return model(batch[0] if isinstance(batch, tuple | list) else batch)


def adapter_for(model: nn.Module, adapter: Adapter | None = None) -> Adapter:
    """The adapter that was passed, else the model's own, else a `PlainAdapter`."""
    chosen = adapter or getattr(model, "adapter", None) or PlainAdapter()
    if not isinstance(chosen, Adapter):
        wanted = "prunable, place, encode, loss, token_mask, rows"
        raise ValueError(f"{type(chosen).__name__} is no adapter: it must answer {wanted}")
    return chosen


def is_conv1d(module: nn.Module) -> bool:
    """Whether it is transformers' `Conv1D`: a linear layer that stores its weight as (d_in, d_out)."""
    utilities = sys.modules.get("transformers.pytorch_utils")
    return utilities is not None and isinstance(module, utilities.Conv1D)


def linear_weights(module: nn.Module) -> list[nn.Parameter]:
    """The weights with which the module itself maps vectors linearly."""
    if isinstance(module, nn.MultiheadAttention):
        packed = [module.in_proj_weight, module.q_proj_weight, module.k_proj_weight, module.v_proj_weight]
        return [weight for weight in packed if weight is not None]
    linear: Any = module if isinstance(module, nn.Linear) or is_conv1d(module) else None
    # a parametrized weight is computed anew by every access, and is no parameter
    return [] if linear is None or not isinstance(linear.weight, nn.Parameter) else [linear.weight]


def linear_parameters(model: nn.Module) -> list[str]:
    """Names of the weights of all linear layers."""
    linear = {id(weight) for module in model.modules() for weight in linear_weights(module)}
    return [name for name, parameter in model.named_parameters() if id(parameter) in linear]


def stacked_weights(model: nn.Module) -> list[str]:
    """Names of parameters that look like a stack of matrices: three true dimensions, and no convolution's."""
    convolution = nn.modules.conv._ConvNd
    return [
        f"{path}.{name}".lstrip(".")
        for path, module in model.named_modules()
        if not isinstance(module, convolution)
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.ndim == 3 and min(parameter.shape) > 1
    ]


def unknown_matrices(model: nn.Module, known: set[int]) -> list[str]:
    """Names of the parameters with two true dimensions that are none of the known ones, and no convolution's."""
    convolution = nn.modules.conv._ConvNd
    return [
        f"{path}.{name}".lstrip(".")
        for path, module in model.named_modules()
        if not isinstance(module, convolution | nn.Embedding)
        for name, parameter in module.named_parameters(recurse=False)
        if sum(size > 1 for size in parameter.shape) == 2 and id(parameter) not in known
    ]
