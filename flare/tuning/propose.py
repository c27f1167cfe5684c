"""Proposing the next trials, from the results of all before them and nothing else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flare.files import to_json, write_whole
from flare.tuning import origin
from flare.tuning.space import direction, distributions, latin_hypercube, tidy, to_optuna
from flare.tuning.study import Study, Trial
from flare.tuning.trials import read_batch

if TYPE_CHECKING:
    from optuna import Study as OptunaStudy
    from optuna.samplers import BaseSampler

# Trials before the sampler's model takes over: whole batches with at least so many.
FIRST = 4


def propose(study: Study, done: Sequence[Trial], count: int) -> list[dict[str, Any]]:
    """The values of the next `count` trials, after those that are done, all of them and in order.

    Depends on nothing but the arguments and Optuna's version.
    """
    start = len(done)
    first = study.trials * math.ceil(FIRST / study.trials)
    if start < first:
        return latin_hypercube(study, first)[start : start + count]
    import numpy as np
    import optuna

    # Without the startup of its own the sampler would draw at random until ten trials are done.
    seed = int(np.random.SeedSequence([study.seed, start]).generate_state(1)[0])
    rebuilt = rebuild(study, done, optuna.samplers.TPESampler(seed=seed, n_startup_trials=1))
    space = distributions(study.space)
    return [tidy(study, rebuilt.ask(space).params) for _ in range(count)]


def rebuild(study: Study, done: Sequence[Trial], sampler: BaseSampler | None = None) -> OptunaStudy:
    """The study in memory, with all trials that are done."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    rebuilt = optuna.create_study(study_name=study.name, direction=direction(study.objective), sampler=sampler)
    for trial in done:
        rebuilt.add_trial(to_optuna(study.space, trial))
    return rebuilt


def write_proposals(study: Study, folder: Path, batch: int) -> None:
    """Write proposals.json of a batch, from the results of all batches before it, into the study's folder."""
    done = [trial for earlier in range(batch) for trial in read_batch(study, folder, earlier)]
    proposals = propose(study, done, study.trials)
    content = {
        "study": study.name,
        "batch": batch,
        "made_from": origin.of_proposals(study, folder, batch),
        "trials": [
            {"trial": number, "values": values} for number, values in zip(study.batch(batch), proposals, strict=True)
        ],
    }
    write_whole(folder / f"batch-{batch}" / "proposals.json", to_json(content))
