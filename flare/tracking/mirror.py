"""The mirror of a run in Weights & Biases: the one tracker that there is.

Offline by default, so no account is needed. Everything W&B writes stays in the run's own folder, because parallel runs
with a common one race for its links.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flare.config import Run
from flare.errors import hide
from flare.files import write_whole
from flare.tracking import sdk

# The files of a run that its artifact holds.
FILES = ("rounds.csv", "run.json")


class Mirror:
    """One run in W&B, a `flare.tracking.Tracker`; every call is safe, even if W&B is absent, unreachable or broken.

    resumed: the run goes on from a checkpoint. All rows from the first on must be logged again; those that W&B already
    has are left out.
    """

    def __init__(self, run: Run, folder: Path, mode: str, resumed: bool = False) -> None:
        self._run: Any = None
        self._known = 0
        self._folder = folder
        self._mode = mode
        self._name = run.folder
        if mode == "disabled":
            return
        try:
            self._run = self._start(run, folder, mode, resumed)
            if resumed and mode == "online":
                self._known = int(self._run.starting_step)  # calls of log that W&B has; `step` does not say
        except ImportError as error:  # W&B is not installed, so nothing can be kept offline either
            self._give_up(error)
        except Exception as error:
            self._give_up(error, "the record is kept offline" if mode == "online" else "")
            if mode == "online":  # no network, no key: keep the record here, `sync_wandb` can send it later
                self._mode = "offline"
                try:
                    self._run = self._start(run, folder, "offline", resumed)
                except Exception as second:
                    self._give_up(second)

    @staticmethod
    def _start(run: Run, folder: Path, mode: str, resumed: bool) -> Any:
        folder.mkdir(parents=True, exist_ok=True)
        settings = dataclasses.asdict(run)
        name = hashlib.sha256(json.dumps(run.identity(), sort_keys=True).encode()).hexdigest()[:16]
        for record in folder.glob("wandb/*run-*/*.wandb"):
            # The server appends to a run that it knows, so a run that starts over gets an id of its own.
            fresh = sdk.mark(record).exists() and not resumed
            name = sdk.next_id(record) if fresh else sdk.id_of(record)
        shutil.rmtree(folder / "wandb", ignore_errors=True)  # the mirror of an earlier try of this run
        started = sdk.start(
            mode,
            folder,
            id=name,
            name=run.folder,
            group=run.cell,
            job_type="train" if run.trial is None else "tune",
            resume=("allow" if resumed else "never") if mode == "online" else None,
            config=settings,
        )
        if mode == "online":
            write_whole(sdk.mark(Path(started.settings.sync_file)), sdk.TRIED.encode())
        started.define_metric("*", step_metric="round")
        return started

    def _give_up(self, error: BaseException, instead: str = "") -> None:
        self._run = None
        said = " ".join((str(error) or type(error).__name__).split())[:300]
        with contextlib.suppress(OSError, ValueError):  # nobody may be left to read it
            print(hide(f"W&B: {said}; {instead or 'the run goes on without it'}"), file=sys.stderr)
        sdk.abandon()

    def log(self, row: Mapping[str, Any]) -> None:
        """Mirror one row of the history."""
        if self._known:
            self._known -= 1
        elif self._run:
            try:
                self._run.log(dict(row))
            except Exception as error:
                self._give_up(error)

    def finish(self, summary: Mapping[str, Any], exit_code: int = 0) -> None:
        """Mirror the summary of the run and, if it succeeded, its files; then end the mirror."""
        if self._run:
            try:
                self._run.summary.update(dict(summary))
                if exit_code == 0:
                    files = {file: self._folder / file for file in FILES}
                    sdk.log_artifact(self._run, self._name.replace("/", "."), "run", files)
                with sdk.bounded(sdk.FINISH_SECONDS + 2):
                    self._run.finish(exit_code=exit_code)
                if self._mode == "online":
                    sdk.check_sent(Path(self._run.settings.sync_file))
            except Exception as error:
                kept = "what it has not is kept in the run's folder" if self._mode == "online" else ""
                self._give_up(error, kept)
