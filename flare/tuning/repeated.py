"""A trial with the values of another one: its runs would be the same to the last bit, so the other's are taken."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path

from flare.config.run import Run
from flare.errors import DataError
from flare.files import read_json, to_json, write_whole
from flare.runs import provenance
from flare.runs.checkpoint import Checkpoint, Stop
from flare.runs.process import say
from flare.runs.reading import read
from flare.runs.record import whole_digest


def once(run: Run, output: Path, data: Path, device: str, threads: int, train: Callable[[], bool]) -> bool:
    """train() or, if a trial of the same values has the run or is about to, that; True where it is there.

    run: of a trial, with its values. output: its folder, seed-S in trial-T in batch-B of the study's folder, where the
    proposals of all batches up to this one are looked through. data, device, threads: as of `flare.runs.train.train`.
    """
    equal = list(_equal(run, output))
    if not equal:
        return train()
    first = min([*equal, (run.trial or 0, output)])[1]
    with Stop() as stop, Checkpoint(first.with_name(f".{first.name}-equal"), {}, stop):  # one after the other
        for number, place in equal:
            other = provenance.planned(dataclasses.replace(run, trial=number), data, device, threads)
            if other.problem(place) == "":
                _take(run, output, place)
                say(f"{run.folder}: has the values of trial {number}; its run is taken")
                return True
        return train()


def _equal(run: Run, output: Path) -> Iterator[tuple[int, Path]]:
    """The other trials that are proposed with the run's values, and the folders of their runs of the same seed."""
    batch, study = output.parents[1], output.parents[2]
    if [output.name, output.parent.name] != [f"seed-{run.seed}", f"trial-{run.trial}"]:
        return
    wanted = json.dumps(dict(run.tuned), sort_keys=True)
    number = batch.name.removeprefix("batch-")
    for earlier in range(int(number) + 1 if number.isdecimal() else 0):
        try:
            proposed = read_json(study / f"batch-{earlier}" / "proposals.json")["trials"]
            for entry in proposed:
                if json.dumps(entry["values"], sort_keys=True) == wanted and entry["trial"] != run.trial:
                    place = study / f"batch-{earlier}" / f"trial-{int(entry['trial'])}" / output.name
                    yield int(entry["trial"]), place
        except (OSError, ValueError, KeyError, TypeError):
            return


def _take(run: Run, output: Path, place: Path) -> None:
    """Write the record of another trial's run as this one's: the rounds are the same, the trial's number is its own."""
    record, rounds = read(place, trial=True, place=False)
    settings = dataclasses.asdict(run)
    own = {"config": settings, "made_from": record["made_from"] | {"settings": whole_digest(settings)}}
    if record["config"] | {"trial": run.trial} != json.loads(json.dumps(settings)):
        raise DataError(f"{place}: of other settings than {run.folder}")
    write_whole(output / "rounds.csv", rounds)
    write_whole(output / "run.json", to_json(record | own))
