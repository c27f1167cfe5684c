"""The space of a study for Optuna: distributions, trials, the first points, numbers that a person can copy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from flare.config.ranges import Range
from flare.tuning.study import Study, Trial

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.study import StudyDirection
    from optuna.trial import FrozenTrial


def distributions(space: Mapping[str, Range]) -> dict[str, BaseDistribution]:
    """The space as Optuna has it, by key."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    out: dict[str, BaseDistribution] = {}
    for key, range_ in space.items():
        ((scale, values),) = range_.items()
        if scale == "choices":
            out[key] = CategoricalDistribution(values)
        else:
            whole = all(isinstance(value, int) for value in values)
            low, high = values
            log = scale == "log"
            out[key] = IntDistribution(low, high, log) if whole else FloatDistribution(low, high, log)
    return out


def direction(objective: str) -> StudyDirection:
    """Whether the objective is to be large, "accuracy", or small, "loss"."""
    from optuna.study import StudyDirection

    return StudyDirection.MAXIMIZE if objective == "accuracy" else StudyDirection.MINIMIZE


def to_optuna(space: Mapping[str, Range], trial: Trial) -> FrozenTrial:
    """The trial as Optuna keeps it; one that is not complete has no value."""
    from optuna.trial import TrialState, create_trial

    return create_trial(
        state=TrialState.COMPLETE if trial.state == "complete" else TrialState.PRUNED,
        value=trial.objective,
        params=dict(trial.values),
        distributions=distributions(space),
        intermediate_values=dict(trial.reports),
        user_attrs={"state": trial.state} | {f"seed-{seed}": value for seed, value in trial.measured.items()},
    )


def latin_hypercube(study: Study, count: int) -> list[dict[str, Any]]:
    """The values of so many trials: every range is cut into `count` parts, and each part has one of them."""
    import numpy as np

    points: list[dict[str, Any]] = [{} for _ in range(count)]
    for place, (key, range_) in enumerate(study.space.items()):
        rng = np.random.default_rng([study.seed, place])
        ((scale, values),) = range_.items()
        for point, share in zip(points, (rng.permutation(count) + rng.random(count)) / count, strict=True):
            if scale == "choices":
                point[key] = values[int(share * len(values))]
                continue
            low, high = values
            whole = isinstance(low, int)
            end = high + 1 if whole else high
            at = low * (end / low) ** share if scale == "log" else low + (end - low) * share
            point[key] = min(int(at), high) if whole else float(at)
    return [tidy(study, point) for point in points]


def tidy(study: Study, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values in the order of the space, numbers to four digits, so that a person can copy them."""
    out = {}
    for key, range_ in study.space.items():
        value = values[key]
        if isinstance(value, float) and "choices" not in range_:
            low, high = next(iter(range_.values()))
            value = min(max(float(f"{value:.4g}"), low), high)
        out[key] = value
    return out
