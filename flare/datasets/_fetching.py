"""What fetching needs: archives of a known checksum, commands that end."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from flare.errors import DataError
from flare.files import replacing

log = logging.getLogger(__name__)


def keep(path: Path, folder: Path) -> Path:
    """Put a copy of a downloaded file into `folder`, so that it is there the next time; returns its path."""
    with open(path, "rb") as source, replacing(folder / path.name) as out:
        shutil.copyfileobj(source, out)
    return folder / path.name


def no_source(name: str, tried: Iterable[str], files: str, folder: Path, instead: str = "") -> DataError:
    """The error for a data set that no source has: what was tried and why each failed, what to do, what else serves."""
    remedy = f"what to do: put {files} into {folder / 'raw'} and fetch again{instead and f'; or {instead}'}"
    return DataError("\n  ".join([f"{name}: no source has it", *tried, remedy]))


def archive(
    folder: Path, file: str, algorithm: str, checksum: str, source: str, download: Callable[[Path], None]
) -> tuple[Path, str]:
    """The path of `file`, of that checksum, and the source it came from.

    Looked for in folder/raw, folder and the data folder; else `download`, whose title is `source`, is to put
    it into the empty folder that it is given, and it is kept in folder/raw. A bad file is noted in the log
    and passed over. Raises DataError where the file cannot be had.
    """

    def problem(path: Path) -> str:
        with open(path, "rb") as opened:
            found = hashlib.file_digest(opened, algorithm).hexdigest()
        return "" if found == checksum else f"{path}: {algorithm} is {found}, expected {checksum}"

    places = (folder / "raw", folder, folder.parent)
    tried = []
    for path in (place / file for place in places):
        if path.is_file():
            bad = problem(path)
            if not bad:
                return path, "the data folder"
            log.warning("%s: the data folder is skipped: %s", folder.name, bad)
            tried.append(f"the data folder: {bad}")
    tried = tried or [f"the data folder: no {file} in {', '.join(map(str, places))}"]
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as scratch:
        try:
            download(Path(scratch))
            bad = problem(Path(scratch) / file)
            if bad:
                raise DataError(bad)
        except DataError as error:
            raise no_source(folder.name, [*tried, f"{source}: {error}"], file, folder) from None
        return keep(Path(scratch) / file, folder / "raw"), source


def run(command: list[str], folder: Path, limit: float = 300.0) -> None:
    """Run a command in `folder`; DataError in one line where it fails or takes more than `limit` seconds."""
    try:
        subprocess.run(
            command,
            cwd=folder,
            timeout=limit,
            check=True,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**os.environ, "LC_ALL": "C"},
        )
    except OSError as error:
        raise DataError(f"{command[0]}: {error}") from None
    except subprocess.TimeoutExpired:
        raise DataError(f"{' '.join(command)}: not done within {limit:g} s") from None
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines() or [f"exit status {error.returncode}"]
        errors = [line for line in lines if line.startswith(("E:", "ERROR:", "npm error", "npm ERR!"))]
        raise DataError(f"{' '.join(command)}: {(errors or lines)[-1]}") from None
