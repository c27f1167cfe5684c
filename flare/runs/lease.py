"""Kernel file locks, which end with their process however it ends: places on GPUs, and whether a sweep still runs.

Snakemake tells a job how many GPUs it has, not which (snakemake#281): here every job takes a place on one of the GPUs
that CUDA_VISIBLE_DEVICES leaves it, and waits where all are taken.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from flare.errors import ConfigError
from flare.runs.process import say

# What a file system without locks says.
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL)
# Seconds after which somebody who looks whether he is alone, which takes none, hangs.
PATIENCE = 60.0

_open: list[int] = []  # locks that this process keeps until it ends


@contextlib.contextmanager
def gpu(
    device: str,
    jobs: int = 1,
    *,
    waiting: Callable[[], None] = lambda: None,
    found: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Iterator[str]:
    """A place on a GPU for as long as it is entered; yields the device, as "cuda:1".

    device: "cuda" for any GPU, "cuda:N" for that one; anything else is left as it is. jobs: places on each GPU, the
    same in all sweeps of this user on this machine. waiting: called again and again while there is no place; what it
    raises ends that. found: GPUs as {lasting name: device} instead of those that torch sees. folder: of the lock files.
    """
    if found is None:
        found = _visible() if device.startswith("cuda") else {}
    wanted = {name: place for name, place in found.items() if device in ("cuda", place)}
    if not wanted:
        yield device
        return
    folder = folder or _own_folder()
    told = False
    while True:
        # The first place of every GPU before the second of any: jobs spread out.
        for number in range(jobs):
            for name, place in wanted.items():
                lock = _take(folder / f"{name}.{number}")
                if lock is not None:
                    try:
                        yield place
                    finally:
                        os.close(lock)
                    return
        if not told:
            say(f"{device}: every place is taken ({len(wanted)} GPUs, {jobs} jobs each); waiting")
            told = True
        waiting()
        time.sleep(0.1)


def clear_stale(folder: Path, *, asking: bool = False) -> None:
    """Delete Snakemake's locks in its folder .snakemake where no sweep that could have made them is running any more.

    Snakemake's own are plain files: after a kill it refuses to start until somebody says --unlock. Every sweep also
    holds a shared kernel lock until it ends; who gets that lock alone is alone. It is had when this returns: the moment
    in which another start looks whether it is alone is waited for. asking: a dry run, which writes and holds nothing.
    ConfigError, one line, if Snakemake could not write there.
    """
    if asking:
        where = folder if folder.exists() else folder.absolute().parent
        if not os.access(where, os.W_OK | os.X_OK):
            raise ConfigError(_no_place(folder, "cannot be written"))
        return
    try:
        folder.mkdir(exist_ok=True)
        handle = os.open(folder / "flare.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise ConfigError(_no_place(folder, str(error.strerror))) from None
    _open.append(handle)
    if not _lock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB):
        _wait(handle, folder)
        return
    # Alone. Between the two locks another may be alone, too, and find nothing: Snakemake makes its own after this.
    for stale in (folder / "locks").glob("*.lock"):
        with contextlib.suppress(OSError):
            stale.unlink(missing_ok=True)
    _wait(handle, folder)


def _no_place(folder: Path, why: str) -> str:
    return (
        f"{folder}: {why}; Snakemake keeps its notes there, so start it in a folder that can be written (--directory)"
    )


def _wait(handle: int, folder: Path) -> None:
    """Wait for the shared lock: who has it alone gives it back in a moment."""
    end = time.monotonic() + PATIENCE
    while not _lock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB):
        if time.monotonic() > end:
            raise ConfigError(
                f"{folder / 'flare.lock'}: held by a process that does not go on; end it, and start again"
            )
        time.sleep(0.01)


def _lock(handle: int, how: int) -> bool:
    """Lock it; False if another process has it. True, too, on a file system without locks: there Snakemake decides."""
    try:
        fcntl.flock(handle, how)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return not how & fcntl.LOCK_EX  # nobody is known to be alone
    return True


def _take(path: Path) -> int | None:
    """The file, locked for this process alone; None where another has it.

    The file of that name, not one that somebody who tidies up deleted meanwhile: others would lock the new one.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(handle), os.stat(path)):
            return handle
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(handle)
        raise
    os.close(handle)
    return None


def _visible() -> dict[str, str]:
    """The GPUs that torch sees: their UUIDs, which every process of the machine gives them, and devices.

    CUDA itself reads CUDA_VISIBLE_DEVICES, numbers, GPU-... and MIG-... alike, and numbers from 0 what that leaves. Of
    the parts of a GPU (MIG) it shows a process the first, under the UUID of the whole: there the variable's counts.
    """
    import torch

    if not torch.cuda.is_available():
        return {}
    part = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip()
    if part.startswith("MIG-") and torch.cuda.device_count() == 1:
        return {part.replace("/", "-"): "cuda:0"}
    return {
        str(torch.cuda.get_device_properties(number).uuid): f"cuda:{number}"
        for number in range(torch.cuda.device_count())
    }


def _own_folder() -> Path:
    folder = Path(f"/tmp/flare-gpus-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise ConfigError(f"{folder}: belongs to somebody else; the locks of the GPUs would be there")
    return folder
