"""What a process that carries out runs does before the first of them, and what it says to nobody."""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import sys

from flare.errors import hide


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


def say(line: str, *, error: bool = False) -> None:
    """Print the line at once, without passwords. If nobody is left to read it, a closed terminal or pipe, or it does
    not fit on the disk, the run goes on without saying anything more."""
    stream = sys.stderr if error else sys.stdout
    try:
        print(hide(line), file=stream, flush=True)
    except (OSError, ValueError):
        silence(error=error)


def silence(*, error: bool = False) -> None:
    """Let standard output, or standard error, lead nowhere: else Python fails once more, at its end, to write what is
    left of a line."""
    stream = sys.stderr if error else sys.stdout
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def open_streams() -> None:
    """Open nowhere for standard input, output and error as far as they are closed: else the next files that are opened,
    the results, take their places, and what is said goes into them."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    for name, number in (("stdin", 0), ("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            mode = "r" if number == 0 else "w"
            stream = open(number, mode, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)
