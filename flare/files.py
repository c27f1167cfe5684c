"""Files that are there whole or not at all, and folders that a process holds."""

from __future__ import annotations

import fcntl
import os
import tempfile
from pathlib import Path

# In a run's folder until it is finished: what it goes on from.
CHECKPOINT = "checkpoint.pt"


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all: a temporary name in its folder, then a rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # else a machine that loses power may keep the name and not what it is of
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def is_locked(folder: Path) -> bool:
    """Whether a process holds the run's folder, and so is carrying the run out (`flare.runs.checkpoint.Checkpoint`)."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        return False
    finally:
        os.close(handle)
    return False
