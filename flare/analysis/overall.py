"""Over experiments: what a method keeps of dense FedAvg's accuracy, how often FLARE is better, which claims hold where.

A score is a finished run's late accuracy over the mean late accuracy of dense FedAvg in the same experiment with as
many local epochs; a run that diverged has what a guess has. Per method and keep, over all experiments that have both:

    share      the interquartile mean of the scores, the mean without the lowest and the highest quarter, with the
               percentile interval of a bootstrap stratified by experiment (Agarwal et al., arXiv 2108.13264)
    improves   the probability that FLARE at the same keep has more in a random run of a random experiment: the mean
               over experiments of P(X > Y) + P(X = Y) / 2
    at_least_X the performance profile: the share of the runs whose score is at least X

After rliable (https://github.com/google-research/rliable, archived), in which that is a library of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import trim_mean

from flare import datasets
from flare.algorithms._looks import label
from flare.analysis.level import LEVEL, percent
from flare.analysis.rules import CLAIMS, DENSE, METHOD
from flare.analysis.statistics import NOISE
from flare.analysis.text import NONE, csv, latex, markdown
from flare.columns import OVERALL
from flare.files import write_whole

RESAMPLES = 2_000
PROFILE = (0.8, 0.9, 0.95, 0.99)


def scores(runs: pd.DataFrame) -> pd.DataFrame:
    """Rows of runs.csv with the column score, of those that have dense FedAvg beside them; NaN where a guess is not
    known.
    """
    place = ["experiment", "local_epochs"]
    finished = runs["status"] == "finished"
    dense = runs[finished & (runs["method"] == DENSE) & (runs["keep"] == "dense")]
    means = dense.groupby(place)["late_accuracy"].mean().rename("dense").reset_index()
    out = runs.merge(means, on=place, how="inner")
    guess = {name: chance(str(name)) for name in out["dataset"].unique()}
    had = out["late_accuracy"].where(out["status"] == "finished", out["dataset"].map(guess))
    return out.assign(score=had / out["dense"])


def chance(dataset: str) -> float:
    """The accuracy of a guess; NaN if the data set has no file here any more."""
    return 1 / datasets.module(dataset).CLASSES if dataset in datasets.names() else math.nan


def interquartile_mean(values: NDArray[np.float64]) -> float:
    """The mean without a quarter at either end, each rounded down to whole values."""
    return float(trim_mean(values, 0.25))


def stratified_interval(strata: Sequence[NDArray[np.float64]]) -> tuple[float, float]:
    """The interval of the interquartile mean of all values, if the values of each stratum are drawn again, with
    replacement; the draws are from a fixed seed.
    """
    rng = np.random.default_rng(0)
    drawn = [values[rng.integers(0, len(values), (RESAMPLES, len(values)))] for values in strata]
    means = np.sort(trim_mean(np.concatenate(drawn, axis=1), 0.25, axis=1))
    cut = round(RESAMPLES * (1 - LEVEL) / 2)
    return float(means[cut]), float(means[-cut - 1])


def improvement(pairs: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]]) -> float:
    """The mean over pairs of samples of P(X > Y) + P(X = Y) / 2; NaN if there are none."""
    each = [((x[:, None] > y).mean() + (x[:, None] == y).mean() / 2) for x, y in pairs if len(x) and len(y)]
    return float(np.mean(each)) if each else math.nan


def overall(runs: pd.DataFrame) -> pd.DataFrame:
    """One row (OVERALL) per method and keep, in the order in which they first appear, from rows of runs.csv."""
    scored = scores(runs).dropna(subset="score")
    place = ["experiment", "local_epochs"]
    ours = {key: own["score"].to_numpy() for key, own in scored[scored["method"] == METHOD].groupby(["keep", *place])}
    rows = []
    for (method, keep), cell in scored.groupby(["method", "keep"], sort=False):
        strata = {key: own["score"].to_numpy() for key, own in cell.groupby(place, sort=False)}
        values = cell["score"].to_numpy()
        low, high = stratified_interval(list(strata.values()))
        against = [(ours[keep, *key], own) for key, own in strata.items() if (keep, *key) in ours]
        rows.append(
            {"method": method, "keep": keep, "experiments": len(strata), "n": len(values)}
            | {"share": interquartile_mean(values), "share_low": low, "share_high": high}
            | {"improves": improvement(against) if method != METHOD else math.nan}
            | {f"at_least_{100 * least:g}": float((values >= least - NOISE).mean()) for least in PROFILE}
        )
    return pd.DataFrame(rows, columns=list(OVERALL))


def support(judged: pd.DataFrame) -> list[str]:
    """A line per claim and baseline: in how many of its experiments it is supported, refuted, equal, undecided.

    An experiment counts as supported if all its rows are, else as the first of refuted, undecided, equal that occurs.
    """
    lines = []
    for (claim, baseline), rows in judged.groupby(["claim", "baseline"], sort=False):
        worst = rows.groupby("experiment", sort=False)["verdict"].agg(
            lambda said: next((v for v in ("refuted", "undecided", "equal") if v in set(said)), "supported")
        )
        count = worst.value_counts()
        others = [f"{count[verdict]} {verdict}" for verdict in ("refuted", "equal", "undecided") if verdict in count]
        held = f"supported in {count.get('supported', 0)} of {len(worst)} experiments"
        lines.append(f"{claim}, {label(str(baseline))}: {'; '.join([held, *others])}. {CLAIMS[str(claim)].statement}.")
    return lines


def write(folder: Path, runs: pd.DataFrame, judged: pd.DataFrame) -> None:
    """Write overall.csv, overall.md and overall.tex into the folder, from rows of runs.csv and of claims.csv."""
    found = overall(runs)

    def share(value: float) -> str:
        return NONE if math.isnan(value) else f"{100 * value:.1f}"

    text = {name: [str(value) for value in found[name]] for name in ("keep", "experiments")}
    text = {"method": [label(method) for method in found["method"]], **text}
    text |= {"runs": [str(n) for n in found["n"]], "of dense (%)": [share(value) for value in found["share"]]}
    limits = zip(found["share_low"], found["share_high"], strict=True)
    text[f"{percent(LEVEL)} interval"] = [f"{share(low)} to {share(high)}" for low, high in limits]
    text[f"P({label(METHOD)} better) (%)"] = [share(value) for value in found["improves"]]
    for least in PROFILE:
        text[f"runs of at least {percent(least)}"] = [share(value) for value in found[f"at_least_{100 * least:g}"]]
    people = pd.DataFrame(text, dtype="str")
    notes = [
        f"Of dense: interquartile mean of late accuracy over dense {label(DENSE)}'s, of all runs of all experiments"
        f" that have both; {percent(LEVEL)} bootstrap stratified by experiment, {RESAMPLES:,} resamples; diverged runs"
        " count as guessing.",
        *support(judged),
    ]
    table = markdown(people, left=("method", "keep"))
    write_whole(folder / "overall.csv", csv(found))
    write_whole(folder / "overall.md", "\n".join([table, *(f"- {note}" for note in notes), ""]).encode())
    write_whole(folder / "overall.tex", latex(people, "ll" + "r" * (len(people.columns) - 2), notes=notes).encode())
