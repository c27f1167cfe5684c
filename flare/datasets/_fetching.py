"""What fetching needs: files that are whole or absent, and commands that end."""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedRandom
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[BufferedRandom]:
    """An open file under a temporary name beside `path`; it becomes `path` if the block succeeds.

    The name is unique, so that two processes can write the same file at once: the last one wins, whole.
    """
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with open(partial, "x+b") as out:
            yield out
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def keep(path: Path, folder: Path) -> None:
    """Put a copy of a downloaded file into `folder`, so that it need not be downloaded again."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(path, "rb") as source, replacing(folder / path.name) as out:
        shutil.copyfileobj(source, out)


def run(command: list[str], folder: Path, limit: float = 300.0) -> None:
    """Run a command in `folder`; DataError in one line where it fails or takes more than `limit` seconds."""
    from flare.datasets import DataError  # here, because flare.datasets itself uses `replacing`

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
        errors = [line for line in lines if line.startswith(("E:", "ERROR:"))]
        raise DataError(f"{' '.join(command)}: {(errors or lines)[-1]}") from None
