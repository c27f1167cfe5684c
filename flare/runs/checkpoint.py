"""Checkpoints: a run that was interrupted goes on where it was, and ends with the same bits.

The state between two rounds (`on_state` of `flare.simulate`) lies in the run's folder, as checkpoint.pt, until the run
is finished. It is written every so many seconds or rounds, whole or not at all, and taken up again only by the same
run: same settings, code, data and versions. SIGTERM and SIGINT end a run after the round it is in, with its state saved
and exit code 75 (EX_TEMPFAIL of sysexits.h: try again later); a second signal ends it at once.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from flare.files import CHECKPOINT
from flare.runs.machine import words

NAME = CHECKPOINT
OLD = "checkpoint.old.pt"
PART = f".{NAME}.part"
RESUMABLE = 75
SECONDS = 300.0
# Saving takes at most this share of the time, however large the state.
_SHARE = 0.02


class Interrupted(Exception):
    """The process was told to end; what it was doing is saved and can be taken up again."""


class Stop:
    """Notes SIGTERM and SIGINT while it is entered, so that a run can save itself; `signal` is the name of the first.

    The second signal has its usual effect. Outside the main thread, where Python has no signals, nothing is noted.
    """

    def __init__(self) -> None:
        self.signal: str | None = None
        self._usual: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            self._usual = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._usual.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """Raise Interrupted where a signal was noted."""
        if self.signal:
            raise Interrupted(self.signal)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.signal = signal.Signals(number).name
        os.write(2, f"{self.signal}: the run is saved after this round; once more ends it now\n".encode())
        self.__exit__()


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
                    print(f"{self.path.parent}: another process carries out this run; waiting for it", flush=True)
                waiting = self.waited = True
                time.sleep(0.2)
            except OSError:  # a file system without locks
                break
            if self._stop.signal:
                break
        if self._stop.signal:  # before it began: what another process may have finished stays as it is
            self.__exit__()
            raise Interrupted(self._stop.signal)
        for pattern in (PART, ".rounds.csv.*", ".run.json.*"):  # of a process that was killed while it wrote
            for leftover in self.path.parent.glob(pattern):
                leftover.unlink(missing_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        if self._folder is not None:
            os.close(self._folder)
            self._folder = None

    def load(self) -> dict[str, Any] | None:
        """What was last saved; None where there is nothing, or nothing of this run: then one line says why."""
        import torch

        try:
            # Mapped, not read: it is copied from once, and the memory of a large state is not needed twice.
            found = torch.load(self.path, map_location="cpu", weights_only=True, mmap=True)
            other = [name for name, value in self._key.items() if found["key"].get(name) != value]
        except FileNotFoundError:
            return None
        except Exception:  # whatever torch makes of a file that is not its own
            problem = "not a whole checkpoint"
        else:
            if not other:
                self._started -= found["wall_seconds"]
                self._came_from([*(found.get("machines") or []), found.get("machine")])
                state: dict[str, Any] = found["state"]
                return state
            problem = f"made with other {', '.join(other)}"
        os.replace(self.path, self.path.with_name(OLD))
        print(
            f"{self.path}: {problem}; the run starts from the beginning"
            f" (to go on with it, undo the change and rename {OLD} to {NAME})",
            file=sys.stderr,
            flush=True,
        )
        return None

    def _came_from(self, machines: Sequence[Any]) -> None:
        """Note the other machines that a state comes from, and say so: the last bits may be others than on one."""
        others = [other for other in machines if other and other != self._machine]
        self.machines = [other for place, other in enumerate(others) if other not in others[:place]]
        if self.machines:
            print(
                f"{self.path}: goes on from another machine ({'; '.join(map(words, self.machines))}; here"
                f" {words(self._machine)}): the last bits may be others than those of a run on one; run.json says so",
                file=sys.stderr,
                flush=True,
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
        import torch

        begun = time.monotonic()
        part = self.path.with_name(PART)
        try:
            with open(part, "wb") as file:
                content = {"key": self._key, "wall_seconds": self.wall_seconds, "state": dict(state)}
                torch.save(content | {"machine": self._machine, "machines": self.machines}, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, self.path)
        except (OSError, RuntimeError) as error:
            part.unlink(missing_ok=True)
            print(f"{self.path}: not saved: {' '.join(str(error).split())[:200]}", file=sys.stderr, flush=True)
        now = time.monotonic()
        self._due = now + max(self._seconds, (now - begun) / _SHARE)


def remove(folder: Path) -> None:
    """The run is finished: delete its checkpoint, and one that was refused."""
    for name in (NAME, OLD):
        with contextlib.suppress(FileNotFoundError):
            (folder / name).unlink()
