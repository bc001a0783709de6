"""Warnings about a model that are said once, however often it is asked about."""

from __future__ import annotations

import logging
from weakref import WeakKeyDictionary

from torch import nn

_said: WeakKeyDictionary[nn.Module, set[str]] = WeakKeyDictionary()


def warn_once(log: logging.Logger, model: nn.Module, message: str, key: str = "") -> None:
    """Logs a warning about a model, unless the same one, or one of the same key, has been logged about it."""
    said = _said.setdefault(model, set())
    if (key or message) not in said:
        said.add(key or message)
        log.warning("%s", message)
