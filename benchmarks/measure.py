"""How the benchmarks measure: contenders are processes that do one round when told to, in turn, A B C A B C ...

A worker prints "ready", then for each empty line it reads does one round and prints "done"; another line names a file
to write the server's weights to, so that what was computed can be compared; where the lines end it stops. The cost of a
round is the CPU time, user and system, of the worker and all its children between the two, so that what the machine
does besides weighs little, and since contenders take turns a drift of the machine's speed hits all alike.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import queue
import select
import statistics
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
_TICK = os.sysconf("SC_CLK_TCK")
# Seconds after which a silent worker is taken for dead.
_PATIENCE = 900
# One thread each; the libraries read these when they start.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}


# The weights of the server, tensor by tensor in the model's order.
Weights = Callable[[], Iterable[Any]]


def serve(round_: Callable[[], object], weights: Weights = tuple) -> None:
    """The worker's side: announce, then call `round_()` once an empty line, and write `weights()` to the others."""
    out = os.fdopen(os.dup(1), "w")  # whatever the library prints goes to stderr, so that it is not taken for an answer
    os.dup2(2, 1)
    print("ready", file=out, flush=True)
    for line in sys.stdin:
        if line.strip():
            np.save(line.strip(), np.concatenate([np.asarray(tensor.detach()).ravel() for tensor in weights()]))
        else:
            round_()
        print("done", file=out, flush=True)


def serve_loop(run: Callable[[Callable[[Weights], None]], object]) -> None:
    """`serve` for a library with a loop of its own: `run(pause)` has to call `pause(weights)` after every round.

    It runs in the main thread, whose memory glibc manages as that of any program, held in `pause` until the next round
    is asked for; the questions are read in another one.
    """
    asked: queue.SimpleQueue[None] = queue.SimpleQueue()
    done: queue.SimpleQueue[Weights] = queue.SimpleQueue()
    latest: list[Weights] = [tuple]

    def pause(weights: Weights) -> None:
        done.put(weights)
        asked.get()

    def round_() -> None:
        asked.put(None)
        latest[0] = done.get()

    def answer() -> None:
        serve(round_, lambda: latest[0]())
        os._exit(0)

    threading.Thread(target=answer, daemon=True).start()
    try:
        asked.get()
        run(pause)
    except BaseException:
        traceback.print_exc()
    os._exit(1)  # nobody asks for the last round


@dataclass
class Contender:
    """A worker process and what its rounds cost."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    peak_mb: float = 0.0
    start_seconds: float = 0.0

    def start(self) -> None:
        """Start the worker and wait until it is ready; RuntimeError where it ends before that."""
        began = time.perf_counter()
        environment = {**os.environ, **ONE_THREAD, "PYTHONPATH": str(ROOT), **self.environment}
        self._process = subprocess.Popen(
            self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self._expect("ready")
        self.start_seconds = time.perf_counter() - began

    def round(self, *, counted: bool = True) -> None:
        """Have the worker do one round; its cost is kept if it is counted."""
        pids = _family(self._process.pid)
        before, began = _cpu(pids), time.perf_counter()
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        self._expect("done")
        wall = time.perf_counter() - began
        pids = _family(self._process.pid)
        if counted:
            self.cpu.append(_cpu(pids) - before)
            self.wall.append(wall)
        self.peak_mb = max(self.peak_mb, sum(map(_peak_mb, pids)))

    def weights(self, path: Path) -> np.ndarray:
        """The server's weights now, as one vector; `path`, which ends in .npy, is written on the way."""
        self._process.stdin.write(f"{path}\n")
        self._process.stdin.flush()
        self._expect("done")
        return np.load(path, allow_pickle=False)

    def stop(self) -> None:
        """End the worker."""
        with contextlib.suppress(OSError):  # what it did not read any more
            self._process.stdin.close()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def _expect(self, word: str) -> None:
        speaks, _, _ = select.select([self._process.stdout], [], [], _PATIENCE)
        answer = self._process.stdout.readline().strip() if speaks else f"nothing for {_PATIENCE} s"
        if answer != word:
            raise RuntimeError(f"{self.name}: the worker said {answer!r} instead of {word!r}; run {self.command}")


def race(contenders: Sequence[Contender], rounds: int, warmup: int = 1, *, started: bool = False) -> None:
    """`rounds` counted rounds of each contender, in turn, after `warmup` uncounted ones; `started`: they run."""
    for contender in () if started else contenders:
        contender.start()
    try:
        for number in range(warmup + rounds):
            for contender in contenders:
                contender.round(counted=number >= warmup)
    finally:
        for contender in contenders:
            contender.stop()


def rows(contenders: Sequence[Contender], floor: str) -> list[dict[str, object]]:
    """One row per contender: medians, spread, and the ratio to `floor`, the median of the ratios turn by turn."""
    base = next(contender for contender in contenders if contender.name == floor)
    return [
        {
            "name": contender.name,
            "cpu_s": spread(contender.cpu),
            "ratio": spread([mine / theirs for mine, theirs in zip(contender.cpu, base.cpu, strict=True)]),
            "wall_s": spread(contender.wall),
            "peak_mb": round(contender.peak_mb),
            "start_s": round(contender.start_seconds, 1),
        }
        for contender in contenders
    ]


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and greatest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def words(figure: Mapping[str, float], digits: int = 2) -> str:
    """A spread as text: median [min-max]."""
    return f"{figure['median']:.{digits}f} [{figure['min']:.{digits}f}-{figure['max']:.{digits}f}]"


def report(title: str, heads: Sequence[str], cells: Sequence[Sequence[str]], data: object, output: Path) -> None:
    """Print a Markdown table and write the figures behind it as JSON."""
    print(f"\n### {title}\n")
    for line in (heads, ["---"] * len(heads), *cells):
        print("| " + " | ".join(line) + " |")
    output.parent.mkdir(parents=True, exist_ok=True)
    written = json.dumps({"title": title, "machine": machine(), "figures": data}, indent=1)
    temporary = output.with_suffix(".tmp")
    temporary.write_text(written + "\n", encoding="utf-8")
    temporary.replace(output)
    print(f"\n{machine()}. Written to {output}", flush=True)


def machine() -> str:
    """The processor, its cores, what else runs, and the versions that matter."""
    from importlib.metadata import version

    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    versions = f"Python {platform.python_version()}, torch {version('torch')}"
    return f"{model}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {versions}"


def _family(pid: int) -> list[int]:
    """The process and all its descendants."""
    out = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            for child in task.read_text().split():
                out += _family(int(child))
        except OSError:
            continue
    return out


def _cpu(pids: Sequence[int]) -> float:
    """CPU seconds of the processes, and of those of their children that have ended."""
    total = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        total += sum(int(ticks) for ticks in fields[11:15])
    return total / _TICK


def _peak_mb(pid: int) -> float:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM")), 0.0)
