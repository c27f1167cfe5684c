"""Data sets: one file each, found by listing this folder; prepared once, verified on every load.

A data set's module has
- `KIND`: "images", inputs (channels, height, width); "table", inputs of any other measured numbers; or "text", inputs
  that are places of characters in a vocabulary and targets that are the characters after them,
- `CLASSES`: the number of classes; of a text, of different characters,
- `SHAPE`: of one input,
- `SCALE`: inputs are divided by it when they are used; 1.0 for text, which stays whole numbers, and for floats,
- `fetch(folder) -> (train, test)`: two of `Split`; `folder` is the data set's own, below the data folder,
and, if they apply,
- `DTYPE = "float32"`: how images or a table are stored, if not as uint8,
- `NATURAL = True`: its samples have clients of their own,
- `VOCABULARY`: the characters of a text, in order, so that what a model writes can be shown.
Packages and names that start with an underscore are not data sets.

`fetch` writes data/{name}/train.npz, test.npz and, last, manifest.json: the source used, and each file's sha256 and
shapes.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import pkgutil
import zipfile
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from flare.errors import DataError, choose
from flare.files import opened, read_json, replacing

__all__ = ["KINDS", "SPLITS", "DataError", "Split", "fetch", "kind", "load", "module", "names", "read_manifest"]

KINDS = ("images", "text", "table")
SPLITS = ("train", "test")
# A prepared part of more bytes is none: 64 GB.
_LARGEST = 1 << 36


@dataclass(frozen=True, eq=False)
class Split:
    """One part of a data set, as stored.

    inputs: uint8, or float32 if that is the data set's DTYPE, (N, *SHAPE). targets: int64, (N,) or, for text,
    (N, length), each in 0..CLASSES-1. clients: int64, (N,), the natural client of each sample, or None. source: where
    the samples are from, one line.
    """

    inputs: np.ndarray
    targets: np.ndarray
    clients: np.ndarray | None = None
    source: str = ""

    def __len__(self) -> int:
        return len(self.inputs)

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays by name, without those that are None."""
        named = {"inputs": self.inputs, "targets": self.targets, "clients": self.clients}
        return {name: array for name, array in named.items() if array is not None}


def names() -> list[str]:
    """Names of all data sets, sorted."""
    files = [module.name for module in pkgutil.iter_modules(__path__) if not module.ispkg]
    return sorted(name for name in files if not name.startswith("_"))


def module(name: str) -> ModuleType:
    """The module of a data set: its KIND, CLASSES, SHAPE, SCALE and fetch. ConfigError for an unknown name."""
    return importlib.import_module(f"{__name__}.{choose('dataset', name, names())}")


def kind(source: ModuleType) -> str:
    """What the inputs of a data set's module are: one of KINDS. DataError if it names another."""
    if source.KIND not in KINDS:
        raise DataError(f"{source.__name__}: KIND is {source.KIND!r}, expected one of {', '.join(KINDS)}")
    return str(source.KIND)


def fetch(name: str, data: Path) -> dict[str, Any]:
    """Prepare data/{name}; returns the manifest. Quick, and no change, where it is prepared and verified.

    Safe to run twice at once: files appear whole under their names, with the same bytes whoever is last, and
    the manifest after the files it vouches for. Raises DataError where no source serves, ConfigError for an
    unknown name.
    """
    source = module(name)
    folder = Path(data) / name
    try:
        for split in SPLITS:
            _open_verified(name, Path(data), split).close()
        return read_manifest(name, Path(data))
    except DataError:
        pass  # not prepared, or not whole: prepare it
    folder.mkdir(parents=True, exist_ok=True)
    parts = dict(zip(SPLITS, source.fetch(folder), strict=True))
    manifest: dict[str, Any] = {"dataset": name, "source": parts["train"].source, "files": {}}
    for split, part in parts.items():
        _check(part, f"{name}, {split}", source)
    for split, part in parts.items():
        file = f"{split}.npz"
        with replacing(folder / file) as out:
            np.savez(out, **part.arrays())
            out.seek(0)
            checksum = hashlib.file_digest(out, "sha256").hexdigest()
        shapes = {key: list(array.shape) for key, array in part.arrays().items()}
        manifest["files"][file] = {"sha256": checksum, "shapes": shapes}
    with replacing(folder / "manifest.json") as out:
        out.write((json.dumps(manifest, indent=2) + "\n").encode())
    return manifest


def load(name: str, data: Path, split: str) -> Split:
    """Read one prepared part, "train" or "test", and no other file but the manifest; never unpickles.

    Raises DataError where it is not prepared or its sha256 is not the manifest's.
    """
    if split not in SPLITS:
        raise DataError(f"split: {split!r} is no part of a data set; allowed: {', '.join(SPLITS)}")
    module(name)
    with _open_verified(name, Path(data), split) as file:
        try:
            _check_archive(file)
            with np.load(file, allow_pickle=False) as arrays:
                found = {key: arrays[key] for key in arrays.files}
                part = Split(source=str(read_manifest(name, Path(data))["source"]), **found)
        except Exception as error:  # whatever numpy makes of a file that is not its own
            said = " ".join(str(error).split())[:200]
            raise DataError(f"{Path(data) / name / split}.npz: not a data file of this version ({said})") from error
    _check(part, f"{Path(data) / name / split}.npz", module(name))
    return part


def read_manifest(name: str, data: Path) -> dict[str, Any]:
    """What vouches for a prepared data set; DataError where there is none."""
    path = data / name / "manifest.json"
    try:
        manifest: dict[str, Any] = read_json(path)
    except FileNotFoundError:
        raise DataError(f"{path}: missing; {_remedy(name, data)}") from None
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; {_remedy(name, data)}") from None
    except ValueError:
        raise DataError(f"{path}: not JSON; {_remedy(name, data)}") from None
    if not isinstance(manifest, dict):
        raise DataError(f"{path}: not a manifest; {_remedy(name, data)}")
    return manifest


def _open_verified(name: str, data: Path, split: str) -> BufferedReader:
    """The open file, at its start, once its content is what the manifest says."""
    path = data / name / f"{split}.npz"
    manifest = read_manifest(name, data)
    try:
        expected = manifest["files"][path.name]["sha256"]
    except (KeyError, TypeError):
        raise DataError(f"{path}: not in {path.parent / 'manifest.json'}; {_remedy(name, data)}") from None
    try:
        file = opened(path, _LARGEST)
    except FileNotFoundError:
        raise DataError(f"{path}: missing; {_remedy(name, data)}") from None
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; {_remedy(name, data)}") from None
    found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        file.close()
        raise DataError(f"{path}: sha256 is {found}, expected {expected}; {_remedy(name, data)}")
    file.seek(0)
    return file


def _check_archive(file: BufferedReader) -> None:
    """Raise ValueError for an archive that unpacks to more than it is: ours are not compressed."""
    with zipfile.ZipFile(file) as archive:
        if sum(member.file_size for member in archive.infolist()) > os.fstat(file.fileno()).st_size:
            raise ValueError("more is packed in it than it has bytes")
    file.seek(0)


def _remedy(name: str, data: Path) -> str:
    return f"run: python -m flare fetch --dataset {name} --data {data}"


def _dtype(source: ModuleType) -> str:
    """How the inputs are stored; DataError if that does not fit their kind or scale."""
    dtype, allowed = getattr(source, "DTYPE", "uint8"), ("uint8",) if kind(source) == "text" else ("uint8", "float32")
    if dtype not in allowed:
        raise DataError(f"{source.__name__}: DTYPE is {dtype!r}, expected {' or '.join(allowed)}")
    if dtype == "float32" and source.SCALE != 1:
        raise DataError(f"{source.__name__}: SCALE is {source.SCALE}, expected 1.0, as floats are used as they are")
    return str(dtype)


def _check(part: Split, what: str, source: ModuleType) -> None:
    """Hold a module to its word before anything is written."""
    inputs, targets, clients = part.inputs, part.targets, part.clients
    dtype = _dtype(source)
    if inputs.dtype != dtype or inputs.shape[1:] != source.SHAPE or not len(inputs):
        raise DataError(f"{what}: inputs are {inputs.dtype} {inputs.shape}, expected {dtype} (N, *{source.SHAPE})")
    if dtype == "float32" and not np.isfinite(inputs).all():
        raise DataError(f"{what}: inputs are not all finite")
    if targets.dtype != np.int64 or len(targets) != len(inputs):
        raise DataError(f"{what}: targets are {targets.dtype} {targets.shape}, expected int64, {len(inputs)} rows")
    if targets.min() < 0 or targets.max() >= source.CLASSES:
        span = f"{targets.min()}..{targets.max()}"
        raise DataError(f"{what}: targets are in {span}, expected 0..{source.CLASSES - 1}")
    if clients is not None and (clients.dtype != np.int64 or clients.shape != (len(inputs),)):
        raise DataError(f"{what}: clients are {clients.dtype} {clients.shape}, expected int64 ({len(inputs)},)")
