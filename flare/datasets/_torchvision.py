"""Downloads through torchvision's own data set classes, which know the addresses and verify md5 sums."""

from __future__ import annotations

import contextlib
import importlib
import io
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flare.datasets import DataError

# Seconds for the first answer of a server, as a machine without network must not wait long, and for a later
# silence.
ANSWER, SILENCE = 5.0, 20.0


def named(name: str) -> Any:
    """torchvision's data set class of that name."""
    return getattr(importlib.import_module("torchvision.datasets"), name)


def download(name: str, root: Path) -> Any:
    """torchvision's class `name` for the training part, with all files of both parts downloaded below `root`.

    Files that are there and have the right md5 are not downloaded again. Raises DataError in one line.
    """
    cls = named(name)
    with _quiet():
        try:
            return cls(root, train=True, download=True)
        except (OSError, RuntimeError, EOFError) as error:
            raise DataError(_one_line(error)) from error


def require_answer(name: str) -> None:
    """Raise DataError unless a server of torchvision's class `name` answers within some seconds.

    The question is asked in a thread of its own, as a look-up of an address knows no time-out.
    """
    cls = named(name)
    addresses = list(getattr(cls, "mirrors", None) or [cls.url])
    problems: dict[str, str] = {}

    def ask(address: str) -> None:
        try:
            request = urllib.request.Request(address, method="HEAD")
            urllib.request.urlopen(request, timeout=ANSWER).close()
            problems[address] = ""
        except urllib.error.HTTPError:
            problems[address] = ""  # refused that question, so it is there
        except (OSError, ValueError) as error:
            problems[address] = _one_line(error)

    threads = [threading.Thread(target=ask, args=(address,), daemon=True) for address in addresses]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(ANSWER)
    answers = [problems.get(address, f"no answer within {ANSWER:g} s") for address in addresses]
    if all(answers):
        raise DataError("; ".join(f"{a}: {p}" for a, p in zip(addresses, answers, strict=True)))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars, and no endless wait for a silent server."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SILENCE)
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        socket.setdefaulttimeout(before)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
