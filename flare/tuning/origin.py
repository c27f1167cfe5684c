"""What a study's files were made from, held against what is planned: as `flare.runs.provenance` does for runs.

proposals.json says of which study it is, by what code it was proposed and from which results; study.json the same, and
the checksums of best.yaml and trials.csv. What is planned must agree with all of it, batch by batch: a proposal made
from a trial that is run again, or by other code, is proposed again, and so is all that follows.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from flare.config.run import Run
from flare.errors import DataError
from flare.runs import provenance
from flare.runs.identity import code_digest, digest_of
from flare.runs.reading import look
from flare.runs.record import settings_digest
from flare.tuning.study import Study, fill, studies
from flare.tuning.trials import read_values

# What decides which values are proposed, and which are best.
_FILES = tuple(f"tuning/{name}" for name in ("conclude", "propose", "single", "space", "study", "trials"))


def code() -> str:
    """SHA-256 of the code that proposes values and chooses the best."""
    return code_digest(_FILES)


def of_proposals(study: Study, folder: Path, batch: int) -> dict[str, Any]:
    """What the proposals of a batch are made from."""
    own = {name: getattr(study, name) for name in ("space", "seeds", "trials", "validation", "objective", "seed")}
    words = [study.name, settings_digest(dataclasses.asdict(study.run)), own]
    return {"study": _digest(words), "code": code(), "trials": _results(study, folder, range(batch))}


def of_study(study: Study, folder: Path, data: Path | None, device: str, threads: int) -> dict[str, Any]:
    """What the best values of a study are made from."""
    made: dict[str, Any] = {"study": study.digest, "code": code(), "run": digest_of(study.run)}
    if study.mode == "batches":
        return made | {"trials": _results(study, folder, range(study.batches))}
    kind = device.partition(":")[0]
    made |= {
        "data": None if data is None else provenance.dataset_digest(study.run.dataset, data),
        "device": kind,
        "threads": threads if kind == "cpu" else None,
    }
    trials = sorted(folder.glob("batch-*/trial-*/trial.json"))
    return made | {"trials": {str(path.parent.relative_to(folder)): _file(path) for path in trials}}


def _results(study: Study, folder: Path, batches: Iterable[int]) -> dict[str, str]:
    """The checksums of the rounds of all trials of some batches, by where they lie."""
    out = {}
    for batch in batches:
        for trial in study.batch(batch):
            for run in study.runs(trial):
                place = study.place(run)
                out[place] = _file(folder / place / "rounds.csv")
    return out


class Sweep:
    """What lies in results/ of a sweep's runs and studies, held against what is planned. Every file is read once.

    results, data: the folders. device, threads: as configured; device is None if all was restored from a record, whose
    runs are held against the settings alone. studies: by name.
    """

    def __init__(
        self, results: Path, data: Path | None, device: str | None, threads: int, studies: Mapping[str, Study]
    ) -> None:
        self._results, self._data, self._device, self._threads = results, data, device, threads
        self._studies = studies
        self._known: dict[Any, Any] = {}

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Sweep:
        """That of a checked configuration."""
        results, data = (Path(config.get(name, name)) for name in ("results", "data"))
        own = {study.name: study for study in studies(config)}
        device = None if config.get("record") else config.get("device", "cpu")
        return cls(results, data, device, config.get("threads", 1), own)

    def run(self, run: Run) -> str:
        """Why a run is not finished: "" if it is."""
        return str(self._once(("run", run.folder), lambda: self._run(run)))

    def planned(self, run: Run) -> provenance.Planned | None:
        """What a run is to be made from; None while its study has no best values."""
        found: provenance.Planned | None = self._once(("planned", run.folder), lambda: self._planned(run))
        return found

    def rounds(self, run: Run) -> str | None:
        """The checksum of a run's rounds.csv; None if there is none."""
        path = self._results / "runs" / run.folder / "rounds.csv"
        return _file(path) or None

    def code(self, run: Run) -> str | None:
        """The digest of the code that made a run, as its record has it; None if there is none."""
        found: str | None = self._once(("code", run.folder), lambda: self._code(run))
        return found

    def trial(self, study: Study, run: Run) -> str:
        """Why a run of a trial is not finished: "" if it is."""
        assert run.trial is not None
        place = study.place(run)
        return str(self._once(("trial", study.name, place), lambda: self._trial(study, run, place)))

    def proposals(self, study: Study, batch: int) -> str:
        """Why the proposals of a batch are not what is planned: "" if they are."""
        return str(self._once(("proposals", study.name, batch), lambda: self._proposals(study, batch)))

    def best(self, study: Study) -> str:
        """Why the best values of a study are not what is planned: "" if they are."""
        return str(self._once(("best", study.name), lambda: self._best(study)))

    def _once(self, key: Any, what: Any) -> Any:
        if key not in self._known:
            self._known[key] = what()
        return self._known[key]

    def _folder(self, study: Study) -> Path:
        return self._results / "tuning" / study.name

    def _planned(self, run: Run) -> provenance.Planned | None:
        study = self._studies.get(run.cell)
        if study is not None:
            if self.best(study):
                return None
            run = fill(run, read_values(self._folder(study) / "best.yaml", study.name))
        return provenance.planned(run, self._data, self._device, self._threads)

    def _code(self, run: Run) -> str | None:
        try:
            return str(look(self._results / "runs" / run.folder)[0]["made_from"]["code"])
        except (DataError, KeyError, TypeError):
            return None

    def _run(self, run: Run) -> str:
        folder = self._results / "runs" / run.folder
        if not (folder / "run.json").exists() and not (folder / "rounds.csv").exists():
            return provenance.ABSENT
        wanted = self.planned(run)
        return wanted.problem(folder) if wanted is not None else "its study has yet to find its settings"

    def _trial(self, study: Study, run: Run, place: str) -> str:
        assert run.trial is not None
        folder, batch = self._folder(study), run.trial // study.trials
        if not (folder / place / "run.json").exists():
            return provenance.ABSENT
        if self.proposals(study, batch):
            return "its values are proposed again"
        try:
            values = read_values(folder / f"batch-{batch}" / "proposals.json", study.name, run.trial)
            wanted = provenance.planned(fill(run, values), self._data, self._device, self._threads)
        except DataError:
            return "its values are proposed again"
        return wanted.problem(folder / place)

    def _proposals(self, study: Study, batch: int) -> str:
        folder = self._folder(study)
        path = folder / f"batch-{batch}" / "proposals.json"
        made = _made(path)
        if made is None:
            return provenance.ABSENT if not path.exists() else "do not say what they were made from"
        if self._device is None:
            return ""
        wanted = of_proposals(study, folder, batch)
        for name, words in (("study", "of another study"), ("code", "proposed by other code")):
            if made.get(name) != wanted[name]:
                return words
        return self._trials(study, made.get("trials"), wanted["trials"], range(batch))

    def _trials(self, study: Study, made: Any, wanted: Mapping[str, str], batches: Iterable[int]) -> str:
        """Why the trials are not those that something was made from. One that is not there any more counts as it was
        recorded."""
        if not isinstance(made, dict) or set(made) != set(wanted):
            return "made from other trials"
        for batch in batches:
            for trial in study.batch(batch):
                for run in study.runs(trial):
                    problem, place = self.trial(study, run), study.place(run)
                    if problem not in ("", provenance.ABSENT) or (not problem and made[place] != wanted[place]):
                        return f"made from a trial that is not what is planned ({place})"
        return ""

    def _best(self, study: Study) -> str:
        folder = self._folder(study)
        made = _made(folder / "study.json")
        if made is None:
            there = any((folder / name).exists() for name in ("best.yaml", "trials.csv", "study.json"))
            return "does not say what it was made from" if there else provenance.ABSENT
        for name in ("best.yaml", "trials.csv"):
            if made.get(name) != _file(folder / name):
                return f"{name} is not the one that the study wrote"
        if self._device is None:  # of a record: by whatever code, and whatever became of its trials
            return "" if made.get("study") == study.digest else "made with other settings"
        wanted = of_study(study, folder, self._data, self._device, self._threads)
        for name, words in (("study", "settings"), ("code", "code"), ("run", "code"), ("data", "data")):
            if wanted.get(name) is not None and made.get(name) != wanted[name]:
                return f"made with other {words}"
        for name in ("device", "threads"):
            if name in wanted and made.get(name) != wanted[name]:
                return f"made with other {name}"
        if study.mode == "batches":
            return self._trials(study, made.get("trials"), wanted["trials"], range(study.batches)) or next(
                (
                    problem
                    for batch in range(study.batches)
                    if (problem := self.proposals(study, batch)) not in ("", provenance.ABSENT)
                ),
                "",
            )
        there = wanted["trials"]
        recorded = made.get("trials")
        if not isinstance(recorded, dict) or any(recorded.get(place) != digest for place, digest in there.items()):
            return "made from other trials"
        return ""


def _made(path: Path) -> dict[str, Any] | None:
    try:
        made = json.loads(path.read_bytes())["made_from"]
        return made if isinstance(made, dict) else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _file(path: Path) -> str:
    """SHA-256 of a file; "" if there is none."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""


def _digest(words: Any) -> str:
    return hashlib.sha256(json.dumps(words, sort_keys=True).encode()).hexdigest()
