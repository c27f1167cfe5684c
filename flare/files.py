"""The one writer and the one reader of files: written whole or not at all, read only if plain and not too large.

Also whether a process holds a folder.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedRandom, BufferedReader
from pathlib import Path
from typing import Any

# In a run's folder until it is finished: what it goes on from.
CHECKPOINT = "checkpoint.pt"
# A record, a study, a manifest; a table or the rounds of a run, in bytes. What is larger is not ours.
SMALL, LARGE = 4 << 20, 1 << 30
# What some file systems say if they are asked to put a folder's names on the disk, or may not be asked.
_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF, errno.EACCES, errno.EPERM)


@contextmanager
def replacing(path: Path) -> Iterator[BufferedRandom]:
    """An open file under a temporary name beside `path`; it becomes `path`, on the disk, if the block succeeds.

    The name is unique, so that two processes can write the same file at once: the last one wins, whole. Permissions are
    those that the umask leaves, as of any new file; they are never changed, which not every file system can.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name[:200]}.{uuid.uuid4().hex[:12]}")
    handle = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with os.fdopen(handle, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # else a machine that loses power may keep the name and not what it is of
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all."""
    with replacing(path) as file:
        file.write(content)


def sync_folder(folder: Path) -> None:
    """Put the names in the folder on the disk, after a rename; nothing if its file system cannot be asked to."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise


def opened(path: Path, limit: int = LARGE) -> BufferedReader:
    """The open file, at its start; OSError, with the path, if it is no plain file or of more than `limit` bytes.

    A pipe, a device or a socket, which might be waited for without end, is refused at once.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(handle)
        if stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "not a plain file", str(path))
        if found.st_size > limit:
            raise OSError(errno.EFBIG, f"{found.st_size} bytes are too many; at most {limit}", str(path))
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def read_bytes(path: Path, limit: int = SMALL) -> bytes:
    """The content of a plain file of at most `limit` bytes; OSError, with the path, if it is something else."""
    with opened(path, limit) as file:
        # Python takes as much memory as is asked for before it reads.
        size = os.fstat(file.fileno()).st_size
        content = file.read(size + 1)
        if len(content) > size:  # it grew, or lies in /proc, where files have no size
            content += file.read(limit + 1 - len(content))
    if len(content) > limit:
        raise OSError(errno.EFBIG, f"more than {limit} bytes", str(path))
    return content


def read_json(path: Path, limit: int = SMALL) -> Any:
    """The value in a JSON file; ValueError if it is none, has a key twice or a number that is none (NaN, Infinity)."""
    return parse_json(read_bytes(path, limit))


def parse_json(content: bytes) -> Any:
    """The value of a JSON text, as `read_json`."""
    try:
        return json.loads(content.decode("utf-8"), object_pairs_hook=_once, parse_constant=_refused)
    except RecursionError:
        raise ValueError("not JSON: nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from None


def to_json(content: Any) -> bytes:
    """The content of a JSON file."""
    return (json.dumps(content, indent=2) + "\n").encode()


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) < len(pairs):
        raise ValueError("a key is there twice")
    return out


def _refused(constant: str) -> Any:
    raise ValueError(f"{constant} is no number")


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
