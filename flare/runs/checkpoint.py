"""Checkpoints: a run that was interrupted goes on where it was, and ends with the same bits.

The state between two rounds (`on_state` of `flare.simulate`) lies in the run's folder, as checkpoint.pt, until the run
is finished. It is written every so many seconds or rounds, whole or not at all, and taken up again only by the same
run: same settings, code, data and versions, and only if the digest at its end is that of every byte before. What a
person, a terminal or a scheduler sends to end a run (SIGTERM, SIGINT, SIGHUP, SIGXCPU, SIGUSR1, SIGUSR2) ends it after
the round it is in, with its state saved and exit code 75 (EX_TEMPFAIL of sysexits.h: try again later); a second SIGTERM
or SIGINT ends it at once.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, BinaryIO, cast

from flare.files import CHECKPOINT, opened, replacing
from flare.runs.lease import NO_LOCKS
from flare.runs.machine import words
from flare.runs.process import say

NAME = CHECKPOINT
OLD = "checkpoint.old.pt"
# How the temporary name of a checkpoint begins that is being written.
PART = f".{NAME}."
RESUMABLE = 75
# A checkpoint ends with this and the SHA-256 of all before it: torch writes a checksum of its own and checks none.
_SEAL = b"flare sha256 "
_LARGEST = 1 << 42
# What a person or a scheduler ends a run with, and how it is warned: again and again, as by SIGXCPU every second.
_ENDING = (signal.SIGTERM, signal.SIGINT)
_WARNING = (signal.SIGHUP, signal.SIGXCPU, signal.SIGUSR1, signal.SIGUSR2)
SECONDS = 300.0
# Saving takes at most this share of the time, however large the state.
_SHARE = 0.02


class Interrupted(Exception):
    """The process was told to end; what it was doing is saved and can be taken up again."""


class Stop:
    """Notes the signals that end a run while it is entered, so that it can save itself; `signal` is the first's name.

    The second SIGTERM or SIGINT has its usual effect; the others may come as often as they like. A SIGHUP that
    the caller told this process to ignore, as nohup does, stays ignored. Outside the main thread, where Python has no
    signals, nothing is noted.
    """

    def __init__(self) -> None:
        self.signal: str | None = None
        self._usual: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            heeded = [number for number in _WARNING if signal.getsignal(number) is not signal.SIG_IGN]
            self._usual = {number: signal.signal(number, self._note) for number in (*_ENDING, *heeded)}
        return self

    def __exit__(self, *_: object) -> None:
        self._restore(self._usual)

    def check(self) -> None:
        """Raise Interrupted where a signal was noted."""
        if self.signal:
            raise Interrupted(self.signal)

    def _restore(self, numbers: Iterable[int]) -> None:
        for number in list(numbers):
            handler = self._usual.pop(number)
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        again = "; once more ends it now" if number in _ENDING else ""
        if self.signal is None:
            self.signal = signal.Signals(number).name
            with contextlib.suppress(OSError):  # nobody may be left to read it
                os.write(2, f"{self.signal}: the run is saved after this round{again}\n".encode())
        if again:
            self._restore(ending for ending in _ENDING if ending in self._usual)


class _Sealed:
    """A file to write to that keeps the digest of what was written: nothing is read again, or held twice."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def write(self, content: Any) -> int:
        self.digest.update(content)
        return self._file.write(content)

    def flush(self) -> None:
        self._file.flush()


def seal(file: BinaryIO, content: Any) -> None:
    """Write what `torch.save` makes of the content, and the digest of that, into the file."""
    import torch

    sealed = _Sealed(file)
    torch.save(content, cast(BinaryIO, sealed))
    file.write(_SEAL + sealed.digest.digest())


def is_sealed(path: Path) -> bool:
    """Whether the file ends with the digest of all before that; OSError if it is no plain file."""
    digest, left = hashlib.sha256(), path.stat().st_size - len(_SEAL) - 32
    with opened(path, _LARGEST) as file:
        while left > 0 and (part := file.read(min(left, 1 << 20))):
            digest.update(part)
            left -= len(part)
        return left == 0 and file.read() == _SEAL + digest.digest()


class Checkpoint:
    """The checkpoint of one run; entered, it is this process's alone.

    key: what must be equal for the state to be taken up again (see `key_of`). seconds: from one save to the next, at
    least; the first comes after as many. rounds: save after every so many rounds, too. machine: this one, as
    `flare.runs.machine` says it; those that a state comes from are in `machines`, if they are others. waited: whether
    another process had the run when this one came.
    """

    def __init__(
        self,
        folder: Path,
        key: Mapping[str, Any],
        stop: Stop,
        *,
        seconds: float = SECONDS,
        rounds: int | None = None,
        machine: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = folder / NAME
        self.machines: list[Any] = []
        self.waited = False
        self._machine = dict(machine or {})
        self._key = dict(key)
        self._stop = stop
        self._seconds, self._rounds = seconds, rounds
        self._started = time.monotonic()
        self._due = self._started + seconds
        self._folder: int | None = None

    def __enter__(self) -> Checkpoint:
        """Wait until no other process has the run: the job of a sweep that was killed may live on."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._folder = os.open(self.path.parent, os.O_RDONLY)
        waiting = False
        while True:
            try:
                fcntl.flock(self._folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not waiting:
                    say(f"{self.path.parent}: another process carries out this run; waiting for it")
                waiting = self.waited = True
                time.sleep(0.2)
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
                break
            if self._stop.signal:
                break
        if self._stop.signal:  # before it began: what another process may have finished stays as it is
            self.__exit__()
            raise Interrupted(self._stop.signal)
        for pattern in (f"{PART}*", ".rounds.csv.*", ".run.json.*"):  # of a process that was killed while it wrote
            for leftover in self.path.parent.glob(pattern):
                with contextlib.suppress(IsADirectoryError, PermissionError):  # none of ours
                    leftover.unlink(missing_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        if self._folder is not None:
            os.close(self._folder)
            self._folder = None

    def load(self, fits: Callable[[Mapping[str, Any]], bool] = lambda state: True) -> dict[str, Any] | None:
        """What was last saved; None where there is nothing, or nothing of this run: then one line says why.

        fits(state): whether the state can be one of this run's.
        """
        import torch

        problem = "not a whole checkpoint"
        try:
            if is_sealed(self.path):
                # Mapped, not read: it is copied from once, and the memory of a large state is not needed twice.
                found = torch.load(self.path, map_location="cpu", weights_only=True, mmap=True)
                other = [name for name, value in self._key.items() if found["key"].get(name) != value]
                seconds, state = float(found["wall_seconds"]), found["state"]
                if not other and math.isfinite(seconds) and seconds >= 0 and fits(state):
                    self._started -= seconds
                    self._came_from([*(found.get("machines") or []), found.get("machine")])
                    return dict(state)
                problem = f"made with other {', '.join(other)}" if other else "a state that no round of this run has"
        except FileNotFoundError:
            return None
        except Exception:  # whatever torch makes of a file that is not its own, and a state that is none
            problem = "not a whole checkpoint"
        self.refuse(problem)
        return None

    def refuse(self, problem: str) -> None:
        """Set aside what was loaded, or could not be, in one line that says why; the run starts from the beginning."""
        self._started, self.machines = time.monotonic(), []
        try:
            os.replace(self.path, self.path.with_name(OLD))
            aside = f"to go on with it, undo the change and rename {OLD} to {NAME}"
        except OSError as error:  # a folder of that name in the place of OLD
            aside = f"it cannot be renamed to {OLD}: {error.strerror}"
        say(f"{self.path}: {problem}; the run starts from the beginning ({aside})", error=True)

    def _came_from(self, machines: Sequence[Any]) -> None:
        """Note the other machines that a state comes from, and say so: the last bits may be others than on one."""
        others = [other for other in machines if other and other != self._machine]
        self.machines = [other for place, other in enumerate(others) if other not in others[:place]]
        if self.machines:
            say(
                f"{self.path}: goes on from another machine ({'; '.join(map(words, self.machines))}; here"
                f" {words(self._machine)}): the last bits may be others than those of a run on one; run.json says so",
                error=True,
            )

    @property
    def wall_seconds(self) -> float:
        """Time spent on the run, before interruptions too, but for what was `untimed`."""
        return time.monotonic() - self._started

    @contextlib.contextmanager
    def untimed(self) -> Iterator[None]:
        """What is done inside is not the run's own work: its time is not counted in wall_seconds."""
        begun = time.monotonic()
        try:
            yield
        finally:
            self._started += time.monotonic() - begun

    def offer(self, state: Mapping[str, Any]) -> None:
        """A round is complete: save where it is time to. Raises Interrupted, after saving, where told to end."""
        due = time.monotonic() >= self._due or (self._rounds and state["completed"] % self._rounds == 0)
        if due or self._stop.signal:
            self.save(state)
        self._stop.check()

    def save(self, state: Mapping[str, Any]) -> None:
        """Write the checkpoint, whole or not at all. Where that fails one line says so, and the run goes on."""
        begun = time.monotonic()
        content = {"key": self._key, "wall_seconds": self.wall_seconds, "state": dict(state)}
        content |= {"machine": self._machine, "machines": self.machines}
        try:
            with replacing(self.path) as file:
                seal(file, content)
        except (OSError, RuntimeError) as error:
            say(f"{self.path}: not saved: {' '.join(str(error).split())[:200]}", error=True)
        now = time.monotonic()
        self._due = now + max(self._seconds, (now - begun) / _SHARE)


def remove(folder: Path) -> None:
    """The run is finished: delete its checkpoint, and one that was refused."""
    for name in (NAME, OLD):
        # A folder of that name is none of ours.
        with contextlib.suppress(FileNotFoundError, IsADirectoryError, PermissionError):
            (folder / name).unlink()
