"""Data sets through torchvision's classes, which know the addresses, verify md5 sums and read the formats."""

from __future__ import annotations

import contextlib
import importlib
import io
import socket
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from flare.datasets import Split
from flare.datasets._fetching import archive
from flare.errors import DataError

# Seconds for the first answer of a server, as a machine without network must not wait long, and for later silence.
ANSWER, SILENCE = 5.0, 20.0


def named(name: str) -> Any:
    """torchvision's data set class of that name."""
    return getattr(importlib.import_module("torchvision.datasets"), name)


def idx_files(name: str, scratch: Path) -> Path:
    """Download the four files of torchvision's class `name`; returns the folder below `scratch` with them."""
    cls = named(name)
    _require_answer(cls.mirrors)
    with _one_line_errors():
        try:
            cls(scratch, download=True)
        except RuntimeError as error:  # names the file, and not what it should be
            expected = "".join(f"; expected md5 {md5}" for file, md5 in cls.resources if file in str(error))
            raise DataError(_one_line(error) + expected) from error
    return scratch / name / "raw"


def cifar(name: str, folder: Path) -> tuple[Split, Split]:
    """Train and test of torchvision's CIFAR10 or CIFAR100; inputs uint8 (N, 3, 32, 32), targets int64 (N,)."""
    cls = named(name)

    def download(scratch: Path) -> None:
        _require_answer([cls.url])
        with _one_line_errors():
            utils = importlib.import_module("torchvision.datasets.utils")
            utils.download_url(cls.url, scratch, filename=cls.filename)  # `archive` verifies it, and says both sums

    path, source = archive(folder, cls.filename, "md5", cls.tgz_md5, "torchvision's download", download)
    # torchvision unpacks an archive that lies where it would download it to.
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as scratch, _one_line_errors():
        (Path(scratch) / cls.filename).symlink_to(path.resolve())
        train, test = (cls(scratch, train=part, download=True) for part in (True, False))
    return _split(train, source), _split(test, source)


def _split(part: Any, source: str) -> Split:
    images = np.ascontiguousarray(part.data.transpose(0, 3, 1, 2))  # colours last to colours first
    return Split(images, np.array(part.targets, np.int64), source=source)


def _require_answer(addresses: list[str]) -> None:
    """Raise DataError unless one of the servers answers within some seconds.

    Asked in a thread of its own, as the look-up of a name knows no time-out.
    """
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
def _one_line_errors() -> Iterator[None]:
    """torchvision without progress bars or endless waits for a server; its errors as DataError, in one line."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SILENCE)
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            yield
    except (OSError, RuntimeError, EOFError) as error:
        raise DataError(_one_line(error)) from error
    finally:
        socket.setdefaulttimeout(before)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
