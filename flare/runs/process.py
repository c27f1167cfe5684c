"""What a process that carries out runs does before the first of them."""

from __future__ import annotations

import contextlib
import gc
import importlib
import sys


def load_libraries(mirrored: bool) -> None:
    """Import what takes seconds, in the way that takes the fewest; a short run takes little longer than this.

    mirrored: W&B, too, before torch: its pydantic models each look through all modules that there are, then few.
    """
    if "torch" in sys.modules:
        return
    collecting = gc.isenabled()
    gc.disable()
    try:
        if mirrored:
            with contextlib.suppress(Exception):
                importlib.import_module("wandb")
        importlib.import_module("flare.engine.api")
        gc.freeze()  # what was imported is no garbage, now or later
    finally:
        if collecting:
            gc.enable()
