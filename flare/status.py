"""How far a sweep is, from its files: `python -m flare status`, and a line now and then while Snakemake runs.

A run is finished or diverged if run.json says so and is what is planned (`flare.runs.provenance`); running if a process
has its folder locked (`flare.runs.checkpoint`); failed if its log ends in an error; interrupted if it was begun and
will go on; else waiting. Of the tuning's trials only those that are over are counted.

Imports neither torch nor pandas: Snakemake does it every time it starts.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flare.config import Run, runs
from flare.files import LARGE, is_locked, read_bytes, read_json
from flare.runs.checkpoint import NAME
from flare.runs.provenance import ABSENT
from flare.tuning.origin import Sweep
from flare.tuning.study import studies

STATES = ("finished", "running", "diverged", "failed", "interrupted", "waiting")
SECONDS = 30.0


@dataclass(frozen=True)
class State:
    """How far a run is. rounds: complete ones. why: the last line of a failed run's log, or what an old result is."""

    run: Run
    state: str
    rounds: int
    why: str = ""

    @property
    def work(self) -> tuple[int, int]:
        """What is done and what there is to do, in rounds times local epochs."""
        done = self.run.rounds if self.state in ("finished", "diverged") else self.rounds
        return done * self.run.local_epochs, self.run.rounds * self.run.local_epochs


def states(config: Mapping[str, Any], known: dict[str, State] | None = None) -> list[State]:
    """The state of every run of a checked configuration, in its order; `known` remembers what is over."""
    results, sweep = Path(config.get("results", "results")), Sweep.of(config)
    out = []
    for run in runs(config):
        found = (known or {}).get(run.folder) or _state(run, results, sweep)
        if known is not None and found.state in ("finished", "diverged"):
            known[run.folder] = found
        out.append(found)
    return out


def trials(config: Mapping[str, Any], known: set[Path] | None = None) -> list[State]:
    """Every run of every trial that a checked configuration asks for: finished, or waiting.

    A study that has its best values is over, even if it gave trials up. `known` remembers what is over.
    """
    known = set() if known is None else known
    out = []
    for study in studies(config):
        folder = Path(config.get("results", "results"), "tuning", study.name)
        over = (folder / "best.yaml").exists()
        for trial in range(study.batches * study.trials):
            for run in study.runs(trial):
                file = folder / study.place(run) / "run.json"
                if over or file in known or file.exists():
                    known.add(file)
                out.append(State(run, "finished" if file in known else "waiting", 0))
    return out


def _state(run: Run, results: Path, sweep: Sweep) -> State:
    folder = results / "runs" / run.folder
    problem = sweep.run(run)
    if not problem:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            record = read_json(folder / "run.json")
            return State(run, str(record["status"]), int(record["rounds"]))
    elif problem != ABSENT and not is_locked(folder):  # an old result, which is set aside when the run is begun anew
        return State(run, "waiting", 0, problem)
    said = _log(run, results)
    numbers = re.findall(rf"^round +(\d+)/{run.rounds} ", said, re.MULTILINE)
    rounds = int(numbers[-1]) if numbers else 0
    lines = said.splitlines()
    if is_locked(folder):
        return State(run, "running", rounds)
    if lines and "; the same command goes on from there" not in lines[-1]:
        failed = re.findall(r"^(.+): failed$", said, re.MULTILINE)  # of a job with several runs
        raised = "Traceback (most recent call last)" in said and not failed
        if run.folder in failed or raised or lines[-1].startswith("flare: "):
            return State(run, "failed", rounds, lines[-1])
    begun = (folder / NAME).exists() or rounds > 0
    return State(run, "interrupted" if begun else "waiting", rounds)


def _log(run: Run, results: Path) -> str:
    """What the log of the run's job says of the run; a job may have several seeds."""
    for path in (results / "logs" / "train" / run.cell).glob("seed-*.log"):
        if str(run.seed) in path.stem.removeprefix("seed-").split("-"):
            said = read_bytes(path, LARGE).decode("utf-8", errors="replace")
            parts = re.split(r"^(?=\S+/seed-\d+: \d+ rounds, )", said, flags=re.MULTILINE)
            # Of one that was not begun: how the job ended, but not how far its last run came.
            rest = re.sub(r"^round .*\n?", "", parts[-1], flags=re.MULTILINE)
            return next((part for part in parts if part.startswith(f"{run.folder}: ")), rest)
    return ""


def line(found: Iterable[State], tried: Iterable[State] = ()) -> str:
    """How many runs are in which state, how many of the trials' runs are over, and the share of the work done."""
    found, tried = list(found), list(tried)
    counts = Counter(state.state for state in found)
    done, all_ = (sum(state.work[place] for state in found + tried) for place in (0, 1))
    said = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
    if tried:
        said += f"; tuning: {sum(state.state == 'finished' for state in tried)} of {len(tried)} runs over"
    return f"{len(found)} runs: {said}; {100 * done // max(all_, 1)} % of the rounds done"


def show(config: Mapping[str, Any]) -> str:
    """The sweep for a terminal: a line for all of it, one per experiment, and the runs that a person may look after."""
    found, tried = states(config), trials(config)
    lines = [line(found, tried)]
    if config.get("record"):
        lines.append(f"restored from the record {config['record']}")
    for name in config["experiments"]:
        own = ([state for state in all_ if state.run.experiment == name] for all_ in (found, tried))
        lines.append(f"  {name}: {line(*own)}")
    for state in found:
        if state.state == "running":
            lines.append(f"running      {state.run.folder}  round {state.rounds}/{state.run.rounds}")
        elif state.state == "diverged":
            lines.append(f"diverged     {state.run.folder}  after {state.rounds} rounds")
        elif state.state == "interrupted":
            lines.append(f"interrupted  {state.run.folder}  round {state.rounds}/{state.run.rounds}")
        elif state.state == "failed":
            lines.append(f"failed       {state.run.folder}  {state.why}")
        elif state.why:
            lines.append(f"waiting      {state.run.folder}  what is there is {state.why}")
    return "\n".join(lines)


class Follow:
    """What is done since it was made, how fast, and how long the rest takes at that pace."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = config
        self._known: dict[str, State] = {}
        self._over: set[Path] = set()
        self._began = time.monotonic()
        self._before = sum(state.work[0] for all_ in self._look() for state in all_)

    def _look(self) -> tuple[list[State], list[State]]:
        return states(self._config, self._known), trials(self._config, self._over)

    def line(self, now: float | None = None) -> str:
        """`line` with throughput and time left."""
        found, tried = self._look()
        done = sum(state.work[0] for state in found + tried)
        elapsed = (time.monotonic() if now is None else now) - self._began
        pace = (done - self._before) / elapsed if elapsed > 0 else 0.0
        # What failed is not being worked on.
        rest = sum(state.work[1] - state.work[0] for state in found + tried if state.state != "failed")
        if not rest:
            return line(found, tried)
        left = f"{pace:.3g} rounds/s, about {_duration(rest / pace)} left" if pace > 0 else "no round finished yet"
        return f"{line(found, tried)}; {left}"


def follow(config: Mapping[str, Any], seconds: float = SECONDS) -> threading.Event | None:
    """Say it on the terminal every so many seconds, from a thread that ends with the process or when the returned event
    is set; nothing, and None, if standard error is no terminal."""
    if not sys.stderr.isatty():
        return None
    progress = Follow(config)
    over = threading.Event()
    bold, plain = ("", "") if os.environ.get("NO_COLOR") else ("\x1b[1m", "\x1b[0m")  # among Snakemake's many lines

    def say() -> None:
        while not over.wait(seconds):
            print(f"{bold}flare: {progress.line()}{plain}", file=sys.stderr, flush=True)

    threading.Thread(target=say, daemon=True).start()
    return over


def _duration(seconds: float) -> str:
    minutes = max(1, round(seconds / 60))
    return (
        f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h" if minutes < 2880 else f"{minutes / 1440:.1f} d"
    )
