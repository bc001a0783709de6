"""Warnings about a model that are said once, however often it is asked about."""

from __future__ import annotations

import logging
from weakref import WeakKeyDictionary

from torch import nn

_said: WeakKeyDictionary[nn.Module, set[str]] = WeakKeyDictionary()


def warn_once(log: logging.Logger, model: nn.Module, message: str) -> None:
    """Logs a warning about a model, unless the same one has been logged about it."""
    said = _said.setdefault(model, set())
    if message not in said:
        said.add(message)
        log.warning("%s", message)
