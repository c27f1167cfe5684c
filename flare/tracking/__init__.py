"""Tracking: a copy of each run's rows and result for people to browse, elsewhere than in the results' folder.

The files of a run are the truth and a tracker only mirrors them: whatever goes wrong with it is reported in one line
and training goes on.

    sdk.py      how this package uses W&B's SDK: start, finish, give up, what the server has
    mirror.py   `Mirror`, the tracker of a run in W&B
    sync.py     sends to W&B what was kept offline, and the sweep's tables and figures
    report.py   makes a W&B Report of the sweep
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from flare.settings import WANDB_MODES

# What a run may ask of its tracker: keep the record in the run's folder, send it at once, or do nothing.
MODES = WANDB_MODES


class Tracker(Protocol):
    """What follows one run from outside. `flare.runs.train` makes one per run, and calls nothing but these two.

    A second tracker, of TensorBoard or MLflow say, is one file of this folder with a class that has these two methods,
    made in `flare.runs.train` beside or instead of `Mirror`. It must:

    - never raise and never wait for long. What fails is one line on standard error, and every later call does nothing.
      That includes an SDK that is not installed: import it when the tracker is made, not with the module;
    - change nothing that the run computes: no random numbers, no threads of torch, no file of the run;
    - write only below the run's folder, since runs of a sweep go side by side;
    - know a run by the digest of its settings, so that a repeated run is recognised;
    - take all rows again, from round 0 on, if the run goes on from a checkpoint, and leave out those that it has.
    """

    def log(self, row: Mapping[str, Any]) -> None:
        """Take one row of the history: "round" (from 0) and the values of that evaluation."""

    def finish(self, summary: Mapping[str, Any], exit_code: int = 0) -> None:
        """Take the result of the run and end. exit_code: 0, or that with which the run ended early."""
