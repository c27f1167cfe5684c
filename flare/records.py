"""Records: a finished sweep in a few small files that are committed, and from which all of it is made again.

`pack` writes a folder, results/records/NAME, the same bytes whenever it is the same sweep:

    config.yaml           the configuration
    runs.csv.xz           a row per run: where it lies, who it is, how it ended, its digests of settings, code and data,
                          commit, versions, processor or card, seconds, hash of the result; and `run_json`, all of it
    rounds.csv.xz         every evaluation of every run: `folder`, then the run's own rounds.csv
    trials.csv.xz         the same two of the trials of the studies, if something was tuned
    trial_rounds.csv.xz
    files.json.xz         small files as text, by name: studies, samples of text, labels, plan, pre-registration
    record.json           how many runs and trials, and SHA-256 of the other files

pandas reads each table in one line: `pd.read_csv("runs.csv.xz")`. What is packed is what the configuration asks for and
what agrees with it (`flare.runs.provenance`); a record that is there already grows by it, and refuses what contradicts.

`restore` writes the runs back, byte for byte except that each run.json says `restored_from`. Nothing is believed that
the checksums do not confirm. What is there already is left alone if it is the same, and never overwritten.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import lzma
import os
import re
import shutil
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from flare import config as configuration
from flare.columns import IDENTITY
from flare.errors import ConfigError, DataError, shown
from flare.files import LARGE, SMALL, parse_json, read_bytes, to_json, write_whole
from flare.runs.reading import broken_record
from flare.runs.reading import read as read_run
from flare.runs.record import settings_digest
from flare.tuning.origin import Sweep
from flare.tuning.study import Study, studies

# Where a project keeps its records, and what a restored run.json says besides.
FOLDER, RESTORED = Path("results/records"), "restored_from"
NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}"
_FORMAT = 1
_TABLES = {"runs": ("runs.csv.xz", "rounds.csv.xz"), "trials": ("trials.csv.xz", "trial_rounds.csv.xz")}
_FILES = ("config.yaml", "files.json.xz", *_TABLES["runs"], *_TABLES["trials"])
# What of a results folder is kept as text beside the runs: no more than what is made from the runs needs.
_KEPT = (
    "preregistration.json",
    "tables/plan.csv",
    "tables/labels/*.csv",
    "runs/*/*/keep-*/epochs-*/seed-*/sample.txt",
    "tuning/*/*/keep-*/epochs-*/best.yaml",
    "tuning/*/*/keep-*/epochs-*/study.json",
    "tuning/*/*/keep-*/epochs-*/trials.csv",
    "tuning/*/*/keep-*/epochs-*/batch-*/proposals.json",
    "tuning/*/*/keep-*/epochs-*/batch-*/trial-*/trial.json",
)
# What a row of a run says beside its identity; dots lead into run.json.
_COLUMNS = (
    *("status", "diverged_round", "rounds", "final_accuracy", "best_accuracy", "uplink_bits", "downlink_bits"),
    *("tuned", "wall_seconds", "device", "threads", "engine", "git_commit", "result_hash"),
    *("made_from.settings", "made_from.code", "made_from.data", "made_from.rounds"),
    *("made_from.processor", "made_from.card", "versions.python", "versions.torch", "versions.numpy", "versions.flare"),
)
# Of a run's folder or a trial's below the results: what it may be called.
_PART = r"[A-Za-z0-9_.+-]{1,80}"
_PLACE = re.compile(rf"(runs|tuning)(/(?!\.){_PART}){{3,8}}")


@dataclass
class Record:
    """A record in memory: its configuration, (run.json, rounds.csv) of each run and trial by folder, and texts."""

    config: dict[str, Any]
    runs: dict[str, tuple[bytes, bytes]] = field(default_factory=dict)
    trials: dict[str, tuple[bytes, bytes]] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)


# ---- pack -----------------------------------------------------------------------------------------------------------


def pack(config: Mapping[str, Any], output: Path, results: Path | None = None) -> str:
    """Write the record of a sweep into a folder, or add it to the one that is there; returns one line on it.

    config: checked. results: where the sweep lies, if not where the configuration says. DataError if no run is
    finished, or if a run contradicts the one that the record has; then nothing is written.
    """
    if not re.fullmatch(NAME, output.name):
        raise ConfigError(f"--output: {shown(output.name)} is not allowed as a record's name; letters, digits, '_.-'")
    results = Path(config.get("results", "results")) if results is None else results
    sweep = Sweep.of({**config, "results": str(results), "record": None})
    config = _plain(config)
    own, left = Record(config), {}
    planned = configuration.runs(config)
    for run in planned:
        problem = sweep.run(run)
        if problem:
            left[run.folder] = problem
        else:
            own.runs[f"runs/{run.folder}"] = _packed(results / "runs" / run.folder)
    if not own.runs:
        why = f" ({next(iter(left))}: {next(iter(left.values()))})" if left else ""
        raise DataError(f"{results}: no finished run of the configuration to pack{why}")
    tuned = {study.name: study for study in studies(config)}
    for study in tuned.values():
        for place in _trials(study, sweep):
            own.trials[f"tuning/{study.name}/{place}"] = _packed(results / "tuning" / study.name / place, trial=True)
    for pattern in _KEPT:
        for path in sorted(results.glob(pattern)):
            name = path.relative_to(results).as_posix()
            if _belongs(name, own, tuned):
                own.files[name] = read_bytes(path).decode("utf-8")
    _recover(output)
    before = read(output) if output.exists() else None
    whole = own if before is None else _merged(before, own, output)
    _write(whole, output)
    more = "" if before is None else f", {len(whole.runs) - len(before.runs)} of them new"
    trials = f" and {len(whole.trials)} trials" if whole.trials else ""
    lacking = [f"{len(left)} not packed, the first: {run}: {problem}" for run, problem in list(left.items())[:1]]
    size = sum(path.stat().st_size for path in output.iterdir()) / 1e3
    said = f"{output}: {len(whole.runs)} runs{more}{trials}, {size:,.0f} kB"
    return "; ".join([said, *(lacking if before is None or len(whole.runs) < len(planned) else [])])


def _belongs(name: str, record: Record, tuned: Collection[str]) -> bool:
    """Whether a small file is of what is packed. tuned: the names of the studies."""
    kind, *parts = name.split("/")
    if kind == "runs":
        return "/".join([kind, *parts[:5]]) in record.runs
    if kind == "tuning":
        return "/".join(parts[:4]) in tuned
    return parts[:1] != ["labels"] or Path(name).stem in record.config["experiments"]


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration as it is kept: without folders of one machine, and without a database's password."""
    out: dict[str, Any] = json.loads(json.dumps(config))
    for name in ("record", "results", "storage"):
        out.pop(name, None)
    if Path(out.get("data", "data")).is_absolute():
        del out["data"]
    return out


def _packed(folder: Path, trial: bool = False) -> tuple[bytes, bytes]:
    """run.json, without what a restored one says besides, and rounds.csv; DataError if they are not a run's."""
    found, rounds = read_run(folder, trial=trial)
    content = read_bytes(folder / "run.json")
    if content != to_json(found):
        raise DataError(f"{folder}/run.json: not as a run writes it")
    found.pop(RESTORED, None)
    return to_json(found), rounds


def _trials(study: Study, sweep: Sweep) -> Iterator[str]:
    """Where the finished runs of a study's trials lie, below its folder."""
    for trial in range(study.batches * study.trials):
        for run in study.runs(trial):
            if sweep.trial(study, run) == "":
                yield study.place(run)


def _merged(before: Record, now: Record, output: Path) -> Record:
    """Both together; DataError if one contradicts the other."""
    experiments = dict(before.config["experiments"])
    for name, experiment in now.config["experiments"].items():
        experiments[name] = experiment
    out = Record({**now.config, "experiments": experiments})
    for kind in _TABLES:
        old, new = getattr(before, kind), getattr(now, kind)
        for place in new.keys() & old.keys():
            _check_same(output, place, json.loads(old[place][0]), json.loads(new[place][0]))
        getattr(out, kind).update({**new, **old})
    planned = {f"runs/{run.folder}": settings_digest(vars(run)) for run in configuration.runs(out.config)}
    codes: dict[tuple[str, str], str] = {}
    for place, (content, _) in out.runs.items():
        found = json.loads(content)
        if planned.get(place) != settings_digest(found["config"]):
            raise DataError(f"{output}: {place}: the record has it with other settings than these; pack elsewhere")
        code = found["made_from"]["code"]
        if codes.setdefault((found["experiment"], found["method"]), code) != code:
            raise DataError(
                f"{output}: {place}: other runs of {found['method']} were made by other code; pack elsewhere"
            )
    for name, text in now.files.items():
        if name.startswith("tuning/") and before.files.get(name, text) != text:
            raise DataError(f"{output}: {name}: the record has another one; pack elsewhere")
    # What was registered first counts.
    out.files = {**now.files, **before.files} | {k: v for k, v in now.files.items() if k.startswith("tables/")}
    return out


def _check_same(output: Path, place: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Raise DataError if two records of one run contradict each other."""
    made = [found["made_from"] for found in (old, new)]
    for name in ("settings", "code", "data"):
        if made[0][name] != made[1][name]:
            raise DataError(f"{output}: {place}: the record has it with other {name}; pack elsewhere")
    if old["result_hash"] != new["result_hash"]:
        why = [
            f"{name} {shown(made[0].get(name))} there, {shown(made[1].get(name))} here"
            for name in ("processor", "card", "threads")
            if made[0].get(name) != made[1].get(name)
        ]
        said = f" ({', '.join(why)})" if why else ""
        raise DataError(f"{output}: {place}: the record has another result of the same run{said}; it is kept")


def _write(record: Record, output: Path) -> None:
    """Write the record beside its place, and put it there when it is whole."""
    fresh, old = _beside(output, "new"), _beside(output, "old")
    for path in (fresh, old):
        shutil.rmtree(path, ignore_errors=True)
    fresh.mkdir(parents=True)
    config = yaml.safe_dump(record.config, sort_keys=False, allow_unicode=True, width=120, default_flow_style=None)
    contents = {"config.yaml": config.encode(), "files.json.xz": _squeezed(to_json(dict(sorted(record.files.items()))))}
    for kind, names in _TABLES.items():
        if table := getattr(record, kind):
            contents |= {name: _squeezed(content) for name, content in zip(names, _tables(table), strict=True)}
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in sorted(contents.items())}
    head = {"format": _FORMAT, "runs": len(record.runs), "trials": len(record.trials), "sha256": digests}
    for name, content in contents.items():
        write_whole(fresh / name, content)
    write_whole(fresh / "record.json", to_json(head))
    if output.exists():
        os.replace(output, old)
    os.replace(fresh, output)
    shutil.rmtree(old, ignore_errors=True)


def _beside(output: Path, kind: str) -> Path:
    return output.with_name(f".{output.name}.{kind}")


def _recover(output: Path) -> None:
    """Put back a record that was being replaced when its process was killed."""
    if not output.exists() and _beside(output, "old").exists():
        os.replace(_beside(output, "old"), output)


def _squeezed(content: bytes) -> bytes:
    return lzma.compress(content, preset=6 | lzma.PRESET_EXTREME)


def _tables(table: Mapping[str, tuple[bytes, bytes]]) -> tuple[bytes, bytes]:
    """A row per run, and a row per evaluation, as CSV."""
    runs, rounds = io.StringIO(), io.StringIO()
    writer = csv.writer(runs, lineterminator="\n")
    writer.writerow(["folder", *IDENTITY, *_COLUMNS, "columns", "run_json"])
    width = {place: content.partition(b"\n")[0].count(b",") + 1 for place, (_, content) in table.items()}
    longest = table[max(width, key=lambda place: width[place])][1].partition(b"\n")[0].decode()
    rounds.write(f"folder,{longest}\n")
    for place, (record, content) in sorted(table.items()):
        found = json.loads(record)
        header, *lines = content.decode().split("\n")
        if not f"{longest},".startswith(f"{header},"):
            raise DataError(f"{place}: runs with different columns, {header} and {longest}")
        row = [*(found[name] for name in IDENTITY), *(_at(found, name) for name in _COLUMNS)]
        writer.writerow([place, *row, width[place], json.dumps(found, separators=(",", ":"))])
        missing = "," * (longest.count(",") + 1 - width[place])
        rounds.writelines(f"{place},{line}{missing}\n" for line in lines[:-1])
    return runs.getvalue().encode(), rounds.getvalue().encode()


def _at(found: Mapping[str, Any], name: str) -> Any:
    """A value of run.json by its dotted name, as it stands in a table; "" if there is none."""
    value: Any = found
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return "" if value is None else json.dumps(value) if isinstance(value, dict | list) else value


# ---- read -----------------------------------------------------------------------------------------------------------


def names(folder: Path = FOLDER) -> list[str]:
    """The records of a project."""
    return sorted(path.parent.name for path in folder.glob("*/record.json") if not path.parent.name.startswith("."))


def read(folder: Path) -> Record:
    """A record, all of which agrees with its checksums; DataError, one line, if it does not."""
    _recover(folder)
    try:
        head, contents = _read_files(folder)
        files = parse_json(_opened(contents["files.json.xz"]))
        if not all(isinstance(text, str) and _is_kept(name) for name, text in files.items()):
            raise ValueError("a file that no record has")
        out = Record(configuration.load(folder / "config.yaml"), files=files)
        for kind, (runs, rounds) in _TABLES.items():
            if runs in contents:
                getattr(out, kind).update(_untabled(_opened(contents[runs]), _opened(contents[rounds])))
        if (len(out.runs), len(out.trials)) != (head["runs"], head["trials"]):
            raise ValueError("another number of runs than it says")
    except (DataError, ConfigError):
        raise
    except FileNotFoundError as error:
        raise DataError(f"{error.filename}: missing; this is not a whole record") from None
    except OSError as error:
        raise DataError(f"{error.filename or folder}: {error.strerror or error}") from None
    except (ValueError, TypeError, LookupError, AttributeError, EOFError, csv.Error, lzma.LZMAError) as error:
        raise DataError(f"{folder}: not a record: {' '.join(str(error).split())[:200]}") from None
    return out


def _read_files(folder: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """record.json, and the files that it names, each of which has the checksum that it says."""
    head = parse_json(read_bytes(folder / "record.json"))
    digests = dict(head["sha256"])
    if head["format"] != _FORMAT:
        raise ValueError(f"of format {shown(head['format'])}; this version reads {_FORMAT}")
    if not {"config.yaml", "files.json.xz", *_TABLES["runs"]} <= set(digests) <= set(_FILES):
        raise ValueError("other files than a record's")
    contents = {name: read_bytes(folder / name, LARGE) for name in digests}
    for name, content in contents.items():
        if hashlib.sha256(content).hexdigest() != digests[name]:
            raise DataError(f"{folder / name}: not the file that was packed; take the record anew")
    return head, contents


def _opened(content: bytes) -> bytes:
    """What was squeezed, of at most LARGE bytes."""
    opener = lzma.LZMADecompressor()
    out = opener.decompress(content, LARGE + 1)
    if len(out) > LARGE or not opener.eof or opener.unused_data:
        raise ValueError("a file that is too large, or not whole")
    return out


def _is_kept(name: str) -> bool:
    """Whether a file's name is one of those that a record keeps, and leads nowhere else."""
    parts = name.split("/")
    known = any(Path(name).match(kept) and kept.count("/") == name.count("/") for kept in _KEPT)
    return known and all(re.fullmatch(_PART, part) and not part.startswith(".") for part in parts)


def _untabled(runs: bytes, rounds: bytes) -> Iterator[tuple[str, tuple[bytes, bytes]]]:
    """(run.json, rounds.csv) of each run by its folder, from the two tables; ValueError if they do not agree."""
    csv.field_size_limit(SMALL)
    evaluations: dict[str, list[str]] = {}
    header, *lines = rounds.decode().split("\n")
    columns = header.split(",")[1:]
    for line in lines[:-1]:
        place, _, rest = line.partition(",")
        evaluations.setdefault(place, []).append(rest)
    for row in csv.DictReader(io.StringIO(runs.decode())):
        place, width = row["folder"], int(row["columns"])
        found = parse_json(row["run_json"].encode())
        if not _PLACE.fullmatch(place) or ".." in place:
            raise ValueError(f"{shown(place)}: no folder of a run")
        for name in (*IDENTITY, *_COLUMNS):
            if str(_at(found, name)) != row[name]:
                raise ValueError(f"{place}: {name} is {shown(row[name])}, and {shown(_at(found, name))} in run_json")
        own = evaluations.pop(place, [])
        cut = [line.rsplit(",", len(columns) - width)[0] if len(columns) > width else line for line in own]
        content = "".join(f"{line}\n" for line in [",".join(columns[:width]), *cut]).encode()
        if problem := broken_record(found, content):
            raise ValueError(f"{place}: {problem}")
        yield place, (to_json(found), content)
    if evaluations:
        raise ValueError(f"{next(iter(evaluations))}: evaluations of a run that is not there")


# ---- restore --------------------------------------------------------------------------------------------------------


def restore(folder: Path, results: Path) -> int:
    """Write the runs of a record below a results folder, and its configuration with it; returns how many runs.

    The configuration, results/config.yaml, has the key `record`: what is made from it is made from the record's runs as
    they are, whatever code this is. DataError if another result is in the place of one; nothing is overwritten.
    """
    record = read(folder)
    writes: dict[Path, bytes] = {}
    for place, (content, rounds) in {**record.trials, **record.runs}.items():
        found = {**json.loads(content), RESTORED: folder.name}
        writes |= {results / place / "rounds.csv": rounds, results / place / "run.json": to_json(found)}
    writes |= {results / name: text.encode() for name, text in record.files.items()}
    config = {**record.config, "results": str(results), "record": folder.name}
    text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=120, default_flow_style=None)
    missing = [path for path, content in writes.items() if not _is_there(path, content)]
    for path in missing:
        write_whole(path, writes[path])
    write_whole(results / "config.yaml", text.encode())
    return len(record.runs)


def _is_there(path: Path, content: bytes) -> bool:
    """Whether a file is there with that content; DataError if it is another one, which is left alone."""
    try:
        there = read_bytes(path, LARGE)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    same = there == content
    if not same and path.name == "run.json":  # the run from which the record was packed
        found, wanted = (parse_json(text) for text in (there, content))
        same = {**found, RESTORED: None} == {**wanted, RESTORED: None}
    if not same and path.name not in ("plan.csv", "preregistration.json") and "labels" not in path.parts:
        raise DataError(f"{path}: another result than the record's is there; move it away, or restore elsewhere")
    return True
