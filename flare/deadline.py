"""A sweep within a limit of time: no run begins that would not end in it, and what runs then is saved.

    python -m flare sweep CONFIG --deadline MINUTES [--pack NAME]

It starts Snakemake and watches it. How long a run takes is what the slowest finished one took. Once that does not fit
any more, Snakemake is asked to begin no other job; shortly before the end what still runs is told to save itself, as by
Ctrl-C. The same command goes on from there, on this machine or, from the record that is packed, on another one.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flare.files import read_json

# Seconds that are kept free: a job's start, saving a run, assembling what is there.
START, SAVE = 5.0, 20.0
# Seconds after which what does not end by itself is killed.
PATIENCE = 60.0
# Seconds between two looks at what is finished.
EVERY = 2.0


def sweep(
    config: Mapping[str, Any],
    file: Path,
    minutes: float,
    given: Sequence[str] = (),
    program: Sequence[str] = (sys.executable, "-m", "snakemake"),
) -> bool:
    """Carry out a sweep for at most so many minutes; True if all of it is done. given: Snakemake's own arguments.

    program: what starts Snakemake. Raises CalledProcessError if it failed by itself.
    """
    end = time.monotonic() + 60 * minutes - SAVE
    results = Path(config.get("results", "results"))
    known: dict[Path, float] = {}
    # A group of its own: Ctrl-C reaches it through this process, and a signal to it reaches its jobs.
    process = subprocess.Popen([*program, "--configfile", str(file), *given], start_new_session=True)
    asked = stopped = False
    looked = slowest = 0.0
    try:
        while process.poll() is None:
            time.sleep(0.2)
            now = time.monotonic()
            left = end - now
            if not asked and now - looked > EVERY:
                looked, slowest = now, longest(results, known)
            if not asked and left < slowest + START:
                asked = True
                print("flare: no run would end in time any more; what runs goes on", file=sys.stderr, flush=True)
                process.terminate()
            if not stopped and left < 0:
                stopped = True
                print("flare: the time is over; what runs is saved", file=sys.stderr, flush=True)
                os.killpg(process.pid, signal.SIGINT)
            if stopped and left < -PATIENCE:
                os.killpg(process.pid, signal.SIGKILL)
    except KeyboardInterrupt:
        os.killpg(process.pid, signal.SIGINT)
        process.wait()
        raise
    if process.returncode and not asked:
        raise subprocess.CalledProcessError(process.returncode, "snakemake")
    return process.returncode == 0 and not asked


def longest(results: Path, known: dict[Path, float]) -> float:
    """Seconds of the slowest finished run or trial; 0 while there is none. known: those that were read before."""
    for pattern in ("runs/*/*/keep-*/epochs-*/seed-*/run.json", "tuning/**/seed-*/run.json"):
        for path in results.glob(pattern):
            if path not in known:
                try:
                    known[path] = float(read_json(path)["wall_seconds"])
                except (OSError, ValueError, KeyError, TypeError):
                    continue
    return max(known.values(), default=0.0)
