"""FLARE Sweeps: reproducible, paper-scale experiment sweeps for sparse federated learning."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from flare.engine.api import simulate

__all__ = ["__version__", "simulate"]


def __getattr__(name: str) -> Any:
    # torch takes seconds to import, and checking a configuration does not need it.
    if name == "simulate":
        from flare.engine.api import simulate

        return simulate
    raise AttributeError(f"module 'flare' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
