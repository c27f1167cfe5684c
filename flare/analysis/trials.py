"""The trials of an experiment's studies as one table, for its figures: trials/EXPERIMENT.csv."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from flare.analysis.text import csv
from flare.columns import TRIALS
from flare.errors import DataError
from flare.files import read_bytes, write_whole
from flare.tuning.conclude import importances, read


def gather_trials(studies: Sequence[Path], output: Path) -> None:
    """Write the trials of an experiment's studies (folders with trials.csv and study.json) as one table, TRIALS.

    A row per trial and tuned setting, with the setting's value; state: complete, diverged or pruned; result: the mean
    over the study's seeds of its objective (accuracy in 0..1, or loss) on held-out samples, empty if not complete;
    best: whether the reported runs take its values; lowest, highest: over its seeds; importance: of the setting in its
    study (flare.tuning.conclude.importances; empty if that says nothing). DataError if a study is not whole.
    """
    write_whole(output, csv(pd.concat([_trials_of(Path(folder)) for folder in studies])))


def _trials_of(folder: Path) -> pd.DataFrame:
    """The rows of one study."""
    try:
        study, trials = read(folder)
        shares = importances(study, trials)
        found = pd.read_csv(io.BytesIO(read_bytes(folder / "trials.csv")), dtype="str", keep_default_na=False)
        seeds = found[[f"seed_{seed}" for seed in study["seeds"]]].apply(pd.to_numeric)
        found["lowest"], found["highest"] = seeds.min(axis=1), seeds.max(axis=1)
        experiment, method, keep, epochs = study["study"].split("/")
        long = found.melt(
            ["trial", "state", "objective", "lowest", "highest"], list(study["space"]), "setting", "value"
        )
        long = long.rename(columns={"objective": "result"}).assign(
            experiment=experiment,
            method=method,
            keep=keep.removeprefix("keep-"),
            local_epochs=epochs.removeprefix("epochs-"),
            objective=study["objective"],
            best=long["trial"] == str(study["best_trial"]),
            importance=long["setting"].map(shares).astype("float64"),
        )
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{folder}: not a study that is over: {' '.join(str(error).split())}") from None
    return long[list(TRIALS)]
