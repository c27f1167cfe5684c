"""The idx file format of MNIST, and the search for a data set of four such files, one source after the other.

Format: Y. LeCun, C. Cortes, C. Burges, "The MNIST database of handwritten digits": the bytes 0, 0, 8 (for
unsigned bytes) and the number of dimensions; the dimensions as big-endian 32-bit integers; the values.
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import logging
import math
import tempfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np

from flare.datasets import Split
from flare.datasets._fetching import keep, no_source
from flare.errors import DataError
from flare.files import opened, read_bytes

log = logging.getLogger(__name__)

# No file of these data sets, unpacked, has more bytes.
_LARGEST = 100_000_000

FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}

# What the source is called, and how it is asked: given an empty folder for what it downloads, it returns the
# folders to look in, or raises DataError with the reason.
Source = tuple[str, Callable[[Path], Iterable[Path]]]


def parse(content: bytes, name: str) -> np.ndarray:
    """The uint8 array in the bytes of an idx file; raises DataError where magic, counts or length differ."""
    dimensions = int(name[name.index("-idx") + 4])
    header = 4 + 4 * dimensions
    if content[:4] != bytes((0, 0, 8, dimensions)) or len(content) < header:
        expected = f"000008{dimensions:02x}"
        raise DataError(f"{name}: starts with {content[:4].hex()}, expected {expected} and {dimensions} dimensions")
    shape = tuple(int(n) for n in np.frombuffer(content, ">u4", dimensions, offset=4))
    if len(content) - header != math.prod(shape):
        raise DataError(f"{name}: has {len(content) - header} values, expected {math.prod(shape)} for shape {shape}")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _content(path: Path) -> bytes:
    """The bytes of a file, or those in a gzip archive: so many, however many more it says that there are."""
    if path.suffix != ".gz":
        return read_bytes(path, _LARGEST)
    with opened(path, _LARGEST) as packed, gzip.open(packed) as file:
        content = file.read(_LARGEST + 1)
    if len(content) > _LARGEST:
        raise OSError(errno.EFBIG, f"more than {_LARGEST} bytes are packed in it", str(path))
    return content


def unpacked(place: Path, name: str, sha256: str) -> bytes:
    """The content of place/name.gz, or else of place/name, if it has the expected sha256 (once unpacked).

    Who compressed it does not matter: Debian's archives differ from the original ones, what is in them does
    not.
    """
    problems = []
    for path in (place / f"{name}.gz", place / name):
        if not path.is_file():
            continue
        try:
            content = _content(path)
        except (OSError, EOFError, zlib.error) as error:
            problems.append(f"{path}: not a whole gzip file ({error}), expected content of sha256 {sha256}")
            continue
        found = hashlib.sha256(content).hexdigest()
        if found == sha256:
            return content
        problems.append(f"{path}: content has sha256 {found}, expected {sha256}")
    raise DataError("; ".join(problems) or f"{place / name}.gz: missing")


def fetch(
    name: str, folder: Path, pins: Mapping[str, str], sources: Iterable[Source], instead: str = ""
) -> tuple[Split, Split]:
    """Train and test, inputs (N, 1, rows, columns), from the first source whose files have the pinned sha256.

    A bad file is noted in the log and the next source asked. Downloaded files are kept in folder/raw. Where
    no source serves, DataError says what was tried, why each failed, what to do, and what to take instead.
    """
    tried = []
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as scratch:
        for title, find in sources:
            try:
                places = list(find(Path(scratch)))
            except DataError as error:
                tried.append(f"{title}: {error}")
                continue
            held = [
                place
                for place in places
                if any((place / f"{file}{end}").is_file() for file in pins for end in ("", ".gz"))
            ]
            if not held:
                tried.append(f"{title}: no {FILES['train'][0]}.gz in {', '.join(map(str, places))}")
            for place in held:
                try:
                    contents = {file: unpacked(place, file, sha256) for file, sha256 in pins.items()}
                except DataError as error:
                    log.warning("%s: %s is skipped: %s", name, title, error)
                    tried.append(f"{title}: {error}")
                    continue
                if place.is_relative_to(scratch):
                    for file in pins:
                        packed = place / f"{file}.gz"
                        keep(packed if packed.is_file() else place / file, folder / "raw")
                return _split(contents, "train", title), _split(contents, "test", title)
    raise no_source(name, tried, f"the four files ({FILES['train'][0]}.gz and so on)", folder, instead)


def _split(contents: Mapping[str, bytes], split: str, source: str) -> Split:
    images, labels = (parse(contents[file], file) for file in FILES[split])
    return Split(images[:, None], labels.astype(np.int64), source=source)
