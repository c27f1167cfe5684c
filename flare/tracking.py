"""The mirror of a run in Weights & Biases, and nothing else that knows W&B.

The files of a run are the truth, the mirror is for browsing: whatever goes wrong with it is said in one line and
training goes on. Offline by default, so no account is needed. Everything W&B writes stays in the run's own folder,
because parallel runs with a common one race for its links.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flare.config import Run

MODES = ("offline", "online", "disabled")


class Mirror:
    """One run in W&B; every call is safe, also when W&B is absent, unreachable or broken.

    resumed: the run goes on from a checkpoint. All rows since its beginning are to be logged again: those that W&B has
    are left out.
    """

    def __init__(self, run: Run, folder: Path, mode: str, resumed: bool = False) -> None:
        self._run: Any = None
        self._known = 0
        if mode == "disabled":
            return
        try:
            self._run = self._start(run, folder, mode, resumed)
            if resumed and mode == "online":
                self._known = int(self._run.step)  # W&B counts the calls of log
        except Exception as error:
            self._give_up(error)
            if mode == "online":  # no network, no key: keep the record here, `wandb sync` can send it later
                try:
                    self._run = self._start(run, folder, "offline", resumed)
                except Exception as second:
                    self._give_up(second)

    @staticmethod
    def _start(run: Run, folder: Path, mode: str, resumed: bool) -> Any:
        import wandb

        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(folder / "wandb", ignore_errors=True)  # the mirror of an earlier try of this run
        settings = dataclasses.asdict(run)
        started = wandb.init(
            mode=mode,  # type: ignore[arg-type]
            dir=folder.resolve(),
            project=os.environ.get("WANDB_PROJECT") or "flare-sweeps",
            entity=os.environ.get("WANDB_ENTITY") or None,
            id=hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16],
            name=run.folder,
            group=f"{run.experiment}/{run.method}/keep-{run.keep}/epochs-{run.local_epochs}",
            job_type="train" if run.trial is None else "tune",
            resume=("allow" if resumed else "never") if mode == "online" else None,
            config=settings,
            settings=wandb.Settings(
                init_timeout=20,
                finish_timeout=30,
                x_transaction_log_flush_interval=1,
                x_disable_stats=True,
                console="off",
                silent=True,
            ),
        )
        started.define_metric("*", step_metric="round")
        return started

    def _give_up(self, error: Exception) -> None:
        self._run = None
        print(f"W&B: {' '.join(str(error).split())[:300]}; the run goes on without it", file=sys.stderr)

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
        """Mirror the summary of the run and end it."""
        if self._run:
            try:
                self._run.summary.update(dict(summary))
                self._run.finish(exit_code=exit_code)
            except Exception as error:
                self._give_up(error)
