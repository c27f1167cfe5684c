"""Places on pretend GPUs: never two holders of one, none lost to a crash; Snakemake's locks after a kill."""

from __future__ import annotations

import collections
import contextlib
import fcntl
import multiprocessing
import os
import random
import signal
import time
import types
from pathlib import Path

import pytest

from flare.errors import ConfigError
from flare.runs import lease

GPUS = {"GPU-a": "cuda:0", "GPU-b": "cuda:1"}
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["flare.runs.lease", "pytest"])


def job(folder: Path, jobs: int, seconds: float, crash: bool) -> None:
    """Hold a place for a while, noting begin and end in one log; each line is written at once."""
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
    log = os.open(folder / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    with lease.gpu("cuda", jobs, found=GPUS, folder=folder) as device:
        os.write(log, f"begin {device} {os.getpid()}\n".encode())
        time.sleep(seconds)
        os.write(log, f"end {device} {os.getpid()}\n".encode())
        if crash:
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("jobs", [1, 3])
def test_parallel_jobs_share_as_told_whatever_crashes(jobs: int, tmp_path: Path) -> None:
    draw = random.Random(jobs)
    processes = []
    for _ in range(24):
        arguments = (tmp_path, jobs, draw.uniform(0.1, 0.3), draw.random() < 0.4)
        processes.append(PROCESSES.Process(target=job, args=arguments))
        processes[-1].start()
    for process in processes:
        process.join(60)
    codes = {process.exitcode for process in processes}
    assert codes == {0, -signal.SIGKILL}
    holders: dict[str, set[str]] = collections.defaultdict(set)
    most: collections.Counter[str] = collections.Counter()
    lines = (tmp_path / "log").read_text().splitlines()
    assert len(lines) == 2 * 24  # everybody had a turn
    for event, device, process in map(str.split, lines):
        (holders[device].add if event == "begin" else holders[device].remove)(process)
        most[device] = max(most[device], len(holders[device]))
    assert dict(most) == {"cuda:0": jobs, "cuda:1": jobs}  # never more, and all places were used


def test_a_job_that_crashes_gives_its_place_back(tmp_path: Path) -> None:
    process = PROCESSES.Process(target=job, args=(tmp_path, 1, 60.0, False))
    process.start()
    while not (tmp_path / "log").exists() or not (tmp_path / "log").read_text():
        time.sleep(0.01)
    taken = (tmp_path / "log").read_text().split()[1]
    refused = []

    def waiting() -> None:
        refused.append(True)
        process.kill()

    with lease.gpu(taken, found=GPUS, folder=tmp_path, waiting=waiting) as device:
        assert device == taken and refused
    process.join(60)


def test_jobs_spread_over_the_gpus_before_they_share_one(tmp_path: Path) -> None:
    with (
        lease.gpu("cuda", 2, found=GPUS, folder=tmp_path) as first,
        lease.gpu("cuda", 2, found=GPUS, folder=tmp_path) as second,
        lease.gpu("cuda", 2, found=GPUS, folder=tmp_path) as third,
        lease.gpu("cuda:1", 2, found=GPUS, folder=tmp_path) as fourth,
    ):
        assert (first, second, third, fourth) == ("cuda:0", "cuda:1", "cuda:0", "cuda:1")
        with pytest.raises(TimeoutError), lease.gpu("cuda", 2, found=GPUS, folder=tmp_path, waiting=_give_up):
            pass


def _give_up() -> None:
    raise TimeoutError


def test_the_same_gpu_under_another_number_is_the_same_place(tmp_path: Path) -> None:
    # As two jobs see it whose CUDA_VISIBLE_DEVICES are 0,1 and 1.
    with (
        lease.gpu("cuda:1", found=GPUS, folder=tmp_path),
        pytest.raises(TimeoutError),
        lease.gpu("cuda", found={"GPU-b": "cuda:0"}, folder=tmp_path, waiting=_give_up),
    ):
        pass


@pytest.mark.parametrize(
    "visible, seen, places",
    [
        (None, ["aa", "bb"], ["aa", "bb"]),
        ("1,0", ["bb", "aa"], ["bb", "aa"]),
        ("GPU-bb", ["bb"], ["bb"]),
        ("MIG-cc,MIG-dd", ["aa"], ["MIG-cc"]),  # of the parts of a GPU a process has one
        ("MIG-GPU-aa/1/0", ["aa"], ["MIG-GPU-aa-1-0"]),
    ],
)
def test_places_are_on_what_cuda_visible_devices_leaves_and_named_for_all_processes(
    visible: str | None, seen: list[str], places: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # seen: the UUIDs that torch tells, device by device, as CUDA has read the variable.
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: len(seen))
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda number: types.SimpleNamespace(uuid=seen[number]))
    with contextlib.ExitStack() as held:
        devices = [held.enter_context(lease.gpu("cuda", folder=tmp_path)) for _ in places]
        assert devices == [f"cuda:{number}" for number in range(len(places))]
        assert sorted(file.name for file in tmp_path.iterdir()) == sorted(f"{name}.0" for name in places)
        with pytest.raises(TimeoutError), lease.gpu("cuda", folder=tmp_path, waiting=_give_up):
            pass


def test_without_a_gpu_nothing_is_taken(tmp_path: Path) -> None:
    with lease.gpu("cpu", found=GPUS, folder=tmp_path) as device:
        assert device == "cpu"
    with lease.gpu("cuda", found={}, folder=tmp_path) as device:
        assert device == "cuda"
    assert not list(tmp_path.iterdir())


def start(folder: Path, begin: float) -> None:
    """What a sweep does at its start, at that moment: look for stale locks, then make its own; ends after a while."""
    time.sleep(max(0.0, begin - time.time()))
    lease.clear_stale(folder)
    own = folder / "locks" / f"{os.getpid()}.lock"
    own.write_text("results\n")
    time.sleep(0.1)
    handle = os.open(folder / "flare.lock", os.O_RDWR)
    try:  # nobody can be alone while this one runs
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os._exit(0 if own.exists() else 3)
    os._exit(4)


def test_sweeps_that_start_in_one_moment_all_hold_the_lock_and_delete_nobodys(tmp_path: Path) -> None:
    for number in range(6):
        folder = tmp_path / str(number)
        (folder / "locks").mkdir(parents=True)
        (folder / "locks/stale.lock").write_text("results\n")
        begin = time.time() + 0.5
        processes = [PROCESSES.Process(target=start, args=(folder, begin)) for _ in range(12)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(60)
        assert {process.exitcode for process in processes} == {0}
        assert not (folder / "locks/stale.lock").exists()


def test_the_shared_lock_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = os.open(tmp_path / "flare.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(alone, fcntl.LOCK_EX)
    monkeypatch.setattr(lease, "PATIENCE", 0.05)
    with pytest.raises(ConfigError, match="held by a process that does not go on"):
        lease.clear_stale(tmp_path)
    os.close(lease._open.pop())
    monkeypatch.setattr(lease, "PATIENCE", 60.0)
    monkeypatch.setattr(lease.time, "sleep", lambda _: fcntl.flock(alone, fcntl.LOCK_UN))  # it gives it back
    lease.clear_stale(tmp_path)
    other = os.open(tmp_path / "flare.lock", os.O_RDWR)
    with pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    for handle in (alone, other, lease._open.pop()):
        os.close(handle)


def test_a_question_writes_nothing_and_a_folder_that_cannot_be_written_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease.clear_stale(tmp_path / ".snakemake", asking=True)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(lease.os, "access", lambda *_: False)  # as on a read-only mount
    with pytest.raises(ConfigError, match=r"\.snakemake: cannot be written; Snakemake keeps its notes there"):
        lease.clear_stale(tmp_path / ".snakemake", asking=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="Not a directory; Snakemake"):
        lease.clear_stale(tmp_path / "file" / ".snakemake")


def test_a_place_whose_file_was_tidied_away_is_not_had_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = fcntl.flock

    def late(handle: int, how: int) -> None:  # between opening and locking the name is given to another file
        monkeypatch.setattr(lease.fcntl, "flock", genuine)
        (tmp_path / "place").unlink()
        (tmp_path / "place").touch()
        genuine(handle, how)

    monkeypatch.setattr(lease.fcntl, "flock", late)
    assert lease._take(tmp_path / "place") is None
    handle = lease._take(tmp_path / "place")
    assert handle is not None and lease._take(tmp_path / "place") is None
    os.close(handle)


def test_locks_of_a_sweep_that_is_gone_are_deleted_and_those_of_a_running_one_are_not(tmp_path: Path) -> None:
    stale = tmp_path / "locks/0.output.lock"
    stale.parent.mkdir()
    stale.write_text("results\n")
    running = os.open(tmp_path / "flare.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(running, fcntl.LOCK_SH)
    lease.clear_stale(tmp_path)
    assert stale.exists()
    os.close(running)
    os.close(lease._open.pop())
    lease.clear_stale(tmp_path)
    assert not stale.exists()
    os.close(lease._open.pop())
