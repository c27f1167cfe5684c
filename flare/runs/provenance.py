"""What a result was made from, held against what is planned: the one place that says whether a run is finished.

Every run.json says in its block `made_from` what the run was made from: SHA-256 of its settings (tuned values
included), of the code that decides its bits, of the data and of its rounds.csv; the device's kind, torch's threads and
the machine. File times, paths and what Snakemake remembers say nothing: `Planned.problem` compares contents. A record
without the block is of unknown origin, and is not believed.

What the configuration and the checkout say decides: settings, code, data, device, threads. What the machine is
(processor, card, versions) does not make a run anew: a table refuses mixed versions and tells mixed machines.

Imports neither torch nor pandas: it is asked whenever Snakemake starts.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flare import datasets
from flare.config.run import Run
from flare.errors import ConfigError, DataError
from flare.runs.identity import data_digest, digest_of
from flare.runs.reading import broken_record, look
from flare.runs.record import whole_digest

# What of a run is set aside, and taken back.
FILES = ("rounds.csv", "run.json", "sample.txt")
ABSENT = "not finished"
_WORDS = {"settings": "settings", "code": "code", "data": "data", "device": "device", "threads": "number of threads"}


@dataclass(frozen=True)
class Planned:
    """What a run is to be made from. What is None is not compared: the data if the set is not here, and all except the
    settings if the run was restored from a record."""

    settings: str
    code: str | None
    data: str | None
    device: str | None
    threads: int | None

    def problem(self, folder: Path) -> str:
        """Why what lies in the folder is not the planned run's result: "" if it is, ABSENT if there is none."""
        if not any((folder / name).exists() for name in FILES[:2]):
            return ABSENT
        try:
            record, rounds = look(folder)
        except DataError as error:
            return f"not a whole record ({error})"
        if broken := broken_record(record, rounds):
            return broken
        made = record["made_from"]
        other = [_WORDS[name] for name, value in self._decides() if made.get(name) != value]
        return f"made with other {', '.join(other)}" if other else ""

    def _decides(self) -> Iterator[tuple[str, Any]]:
        for name in ("settings", "code", "data", "device", "threads"):
            value = getattr(self, name)
            # What has no value is not known. On a GPU the processor's threads compute nothing.
            if value is not None and not (name == "threads" and self.device != "cpu"):
                yield name, value


def planned(run: Run, data: Path | None, device: str | None = "cpu", threads: int = 1) -> Planned:
    """What the run is to be made from, by this checkout's code; if device is None, its settings alone."""
    settings = whole_digest(dataclasses.asdict(run))
    if device is None:
        return Planned(settings, None, None, None, None)
    found = None if data is None else dataset_digest(run.dataset, data)
    return Planned(settings, digest_of(run), found, device.partition(":")[0], threads)


def set_aside(folder: Path) -> Path | None:
    """Move a run's files into a folder `old-...` beside them, named after their content; None if there are none.

    A run that is planned again finds them there, should they agree with it after all (`take_back`).
    """
    there = [name for name in FILES if (folder / name).is_file()]
    if not there:
        return None
    digest = hashlib.sha256()
    for name in there:
        digest.update(hashlib.sha256((folder / name).read_bytes()).digest())
    place = folder / f"old-{digest.hexdigest()[:12]}"
    place.mkdir(exist_ok=True)
    # run.json, which says that the others are whole, goes first and comes back last.
    for name in sorted(there, key=lambda name: name != "run.json"):
        os.replace(folder / name, place / name)
    return place


def take_back(folder: Path, wanted: Planned) -> dict[str, Any] | None:
    """The record of a run that was set aside and is what is planned, after its files were moved back; else None."""
    for place in sorted(folder.glob("old-*")):
        if wanted.problem(place) == "":
            record, _ = look(place)
            for name in sorted(FILES, key=lambda name: name == "run.json"):
                if (place / name).is_file():
                    os.replace(place / name, folder / name)
            if not any(place.iterdir()):
                place.rmdir()
            return record
    return None


def check_code(run: Run, expected: str | None) -> None:
    """Raise ConfigError if the code here is not that with which the run was planned."""
    if expected and digest_of(run) != expected:
        raise ConfigError(
            f"{run.folder}: the code was changed since this run was planned (--code {expected[:12]}..., here"
            f" {digest_of(run)[:12]}...); start the sweep again"
        )


def dataset_digest(name: str, folder: Path) -> str | None:
    """The digest of a prepared data set; None where there is none."""
    try:
        file = (folder / name / "manifest.json").stat()
    except OSError:
        return None
    return _digest(name, folder, file.st_mtime_ns, file.st_size, file.st_ino)


@functools.lru_cache(maxsize=64)
def _digest(name: str, folder: Path, *_: int) -> str | None:
    try:
        return data_digest(datasets.read_manifest(name, folder))
    except (DataError, KeyError, TypeError):
        return None
