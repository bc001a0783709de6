"""What pruning asks of a model: six questions, and answers a plain classifier can live with."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from vlp_bench.batch import Batch, Place
from vlp_bench.models.key_value_cache import no_cache
from vlp_bench.models.linear_layers import linear_weights
from vlp_bench.models.stacks import stack_of, stacks_in, transposed_experts
from vlp_bench.pruning.said_once import warn_once
from vlp_bench.spelling import count_of

log = logging.getLogger(__name__)
IGNORED = -100  # torch's default for a label that doesn't count
PRUNE_WORDS = "an adapter with output_embeddings = True prunes it"


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
    """Answers for a model of one modality: every linear weight may go, every token counts that isn't padding.

    A batch is what the model is called with: a mapping of keyword arguments, a tensor, or a tuple or list of tensors
    whose first is the input and whose last is the label.

    Attributes:
        experts: whether the matrices of experts that are stacked in one parameter are pruned.
        output_embeddings: whether the head of a language model is pruned, which scores the words of its vocabulary.
    """

    experts: bool = True
    output_embeddings: bool = False

    def prunable(self, model: nn.Module) -> list[str]:
        """Every linear weight: `nn.Linear`, the projections of `nn.MultiheadAttention`, transformers' `Conv1D`, and
        every matrix of transformers' stacked experts, as `experts.up_proj[3]`.

        What stays dense is named in a warning: a weight shared with an embedding, transformers' output embeddings (the
        head of a language model), a matrix or a stack of matrices that something else reads (position tables, recurrent
        layers, `nn.Bilinear`).
        """
        linear, tables = linear_parameters(model), weights_of(model, embeddings(model))
        words = set() if self.output_embeddings else weights_of(model, output_embeddings(model)) - tables
        for name in linear:
            if name in tables:
                warn_once(log, model, f"{name} is also an embedding and stays dense")
            elif name in words:
                warn_once(log, model, f"{name} scores the words and stays dense ({PRUNE_WORDS})")
        if unread := unread_weights(model):
            named = f"{', '.join(unread)} (an adapter's prunable() may name matrices)"
            stay = f"stay{'s' * (len(unread) == 1)} dense"
            warn_once(log, model, f"{count_of(len(unread), 'weight')} that no linear layer reads {stay}: {named}")
        wanted = [name for name in linear if name not in tables | words]
        return [name for name in wanted if self.experts or stack_of(name) is None]

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

        The latter is at least in float32, as the models of transformers have it.

        Raises ValueError where there is neither, or for a label that is none of the output's classes.
        """
        output = call(model, batch)
        loss = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
        if loss is not None:
            return loss
        if isinstance(output, Tensor) and isinstance(batch, tuple | list) and len(batch) > 1:
            labels = checked_labels(batch[-1], output.shape[min(1, output.ndim - 1)])
            return F.cross_entropy(output.to(torch.promote_types(output.dtype, torch.float32)), labels)
        raise ValueError(
            f"no loss for a batch of type {type(batch).__name__}: a model that returns `.loss`, "
            "a batch (input, label), or an adapter with loss(model, batch) is needed"
        )

    def token_mask(self, batch: Any, name: str, tokens: int) -> Tensor | None:
        """No word of its own: what counts is what `padding.padding_mask` reads off the batch.

        That is the `attention_mask` of a mapping, for layers whose input has its shape, where nothing but the words
        makes tokens. Where that is in doubt everything counts, and a warning says so.
        """
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


def guesses_padding(adapter: Adapter) -> bool:
    """Whether nobody says which tokens count: the adapter has no `token_mask` of its own."""
    answers: Any = adapter
    while hasattr(answers, "answers"):
        answers = answers.answers
    return getattr(type(answers), "token_mask", None) is PlainAdapter.token_mask


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
        return model(**(no_cache(model) | dict(batch)))
    return model(batch[0] if isinstance(batch, tuple | list) else batch, **no_cache(model))


def adapter_for(model: nn.Module, adapter: Adapter | None = None) -> Adapter:
    """The adapter that was passed, else the model's own, else a `PlainAdapter`."""
    chosen = adapter or getattr(model, "adapter", None) or PlainAdapter()
    if isinstance(chosen, type):
        raise ValueError(f"adapter={chosen.__name__} is a class: call it, as in adapter={chosen.__name__}(...)")
    if not isinstance(chosen, Adapter):
        wanted = "prunable, place, encode, loss, token_mask, rows"
        raise ValueError(f"{type(chosen).__name__} is no adapter: it must answer {wanted}")
    return chosen


def linear_parameters(model: nn.Module) -> list[str]:
    """Names of the weights of all linear layers, and of every matrix of stacked experts."""
    linear = {id(weight) for module in model.modules() for weight in linear_weights(module)}
    slices = {id(stack.parameter): list(stack.slices()) for stack in stacks_in(model)}
    named = [(name, id(parameter)) for name, parameter in model.named_parameters()]
    return [own for name, key in named for own in slices.get(key, [name] if key in linear else [])]


def embeddings(model: nn.Module) -> list[nn.Module]:
    """The tables of embeddings."""
    return [module for module in model.modules() if isinstance(module, nn.Embedding)]


def output_embeddings(model: nn.Module) -> list[nn.Module]:
    """What transformers call so: the linear layers that score the words of a vocabulary."""
    found = []
    for module in model.modules():
        asked: Any = getattr(module, "get_output_embeddings", None)
        with suppress(NotImplementedError, AttributeError):  # how some of transformers' models say that they have none
            found.append(asked and asked())
    return [module for module in found if isinstance(module, nn.Module)]


def weights_of(model: nn.Module, modules: Iterable[nn.Module]) -> set[str]:
    """Names of the weights of some of a model's modules."""
    own = {id(getattr(module, "weight", None)) for module in modules}
    return {name for name, parameter in model.named_parameters() if id(parameter) in own}


def unread_weights(model: nn.Module) -> list[str]:
    """Names of what looks like a matrix or a stack of them and is no linear layer's, embedding's or convolution's.

    That is two dimensions, or three, beside those of size 1.
    """
    linear = {id(weight) for module in model.modules() for weight in linear_weights(module)}
    known = linear | {id(module.weight) for module in embeddings(model)}
    return [
        f"{path}.{name}".lstrip(".")
        for path, module in model.named_modules()
        if not isinstance(module, nn.modules.conv._ConvNd) and transposed_experts(module) is None
        for name, parameter in module.named_parameters(recurse=False)
        if not isinstance(parameter, UninitializedParameter)
        and sum(size > 1 for size in parameter.shape) in (2, 3)
        and id(parameter) not in known
    ]
