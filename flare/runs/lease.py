"""Kernel file locks, which end with their process however it ends: places on GPUs, and whether a sweep still runs.

Snakemake tells a job how many GPUs it has, not which (snakemake#281): here every job takes a place on one of the GPUs
that CUDA_VISIBLE_DEVICES leaves it, and waits where all are taken.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from flare.errors import ConfigError

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
            print(f"{device}: every place is taken ({len(wanted)} GPUs, {jobs} jobs each); waiting", flush=True)
            told = True
        waiting()
        time.sleep(0.1)


def clear_stale(folder: Path) -> None:
    """Delete Snakemake's locks in its folder .snakemake where no sweep that could have made them is running any more.

    Snakemake's own are plain files: after a kill it refuses to start until somebody says --unlock. Every sweep also
    holds a shared kernel lock until it ends; who gets that lock alone is alone.
    """
    folder.mkdir(exist_ok=True)
    handle = os.open(folder / "flare.lock", os.O_RDWR | os.O_CREAT, 0o644)
    _open.append(handle)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for stale in (folder / "locks").glob("*.lock"):
            stale.unlink(missing_ok=True)
    except OSError:  # another one is running, or there are no such locks here: Snakemake decides
        pass
    with contextlib.suppress(OSError):
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)


def _take(path: Path) -> int | None:
    """The file, locked for this process alone; None where another has it."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle


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
