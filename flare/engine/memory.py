"""What glibc does with freed memory, which decides nothing but how long a step takes. Elsewhere this does nothing."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any

# mallopt's parameters (malloc.h), and what a run wants of them.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -2, -3, -4
_KEPT = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: 2**31 - 1, _M_TOP_PAD: 64 << 20}
# Where glibc's own thresholds end up in a program that frees large arrays; once told, it adapts them no more.
_USUAL = {_M_MMAP_MAX: 65536, _M_MMAP_THRESHOLD: 32 << 20, _M_TRIM_THRESHOLD: 64 << 20, _M_TOP_PAD: 128 << 10}
# If the user says how memory is to be managed, that holds.
_VARIABLES = ("MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES")

_lock = threading.Lock()
_inside = 0


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Have glibc keep what is freed: activations are large, and returning them every step costs up to a third of it.

    For as long as any block of it is entered; what is free is returned when the last one ends.
    """
    global _inside
    with _lock:
        _inside += 1
        if _inside == 1:
            _tell(_KEPT)
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                _tell(_USUAL)
                trim()


def trim() -> None:
    """Have glibc return free memory, which is else kept in pieces too small for what comes."""
    function = _function("malloc_trim")
    if function:
        function(0)


def _tell(values: dict[int, int]) -> None:
    mallopt = _function("mallopt")
    if mallopt and not any(name in os.environ for name in _VARIABLES):
        for parameter, value in values.items():
            mallopt(parameter, value)


def _function(name: str) -> Any:
    return getattr(ctypes.CDLL(None), name, None) if sys.platform.startswith("linux") else None
