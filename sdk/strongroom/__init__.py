"""Seal models, push them, and buy predictions."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from strongroom.client import ApiError, Client, Prediction
    from strongroom.errors import InputError, InterfaceError, StrongroomError
    from strongroom.interface import Interface

__all__ = [
    "ApiError",
    "Client",
    "InputError",
    "Interface",
    "InterfaceError",
    "Prediction",
    "StrongroomError",
]

# Servers and sandboxes import the sealing format from this package; they must not load
# an HTTP client with it. So each name is imported when it is first used.
_MODULES = {
    "ApiError": "strongroom.client",
    "Client": "strongroom.client",
    "InputError": "strongroom.errors",
    "Interface": "strongroom.interface",
    "InterfaceError": "strongroom.errors",
    "Prediction": "strongroom.client",
    "StrongroomError": "strongroom.errors",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
