"""Pre-registration: what the rules of the claims and the experiments were before the first run, and if they changed.

`snakemake` writes results/preregistration.json before its first job if it is not there, and never again: the text of
every rule, SHA-256 of them and of the configuration, and how many runs were finished by then, 0 if it is in time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flare.errors import DataError
from flare.files import read_json, to_json, write_whole


def digest(config: Mapping[str, Any]) -> str:
    """SHA-256 of what a checked configuration asks for: its experiments, and of what late accuracy is a mean."""
    asked = {"experiments": config["experiments"], "late_evaluations": config.get("late_evaluations", 5)}
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def rules() -> dict[str, str]:
    """The rules by which the claims are judged, as text, by claim; "general": what holds of all."""
    from flare.analysis.rules import CLAIMS, GENERAL

    return {name: f"{claim.statement}. {claim.rule}" for name, claim in CLAIMS.items()} | {"general": GENERAL}


def write_once(results: Path, config: Mapping[str, Any]) -> None:
    """Write results/preregistration.json if it is not there."""
    file = results / "preregistration.json"
    if file.exists():
        return
    texts = rules()
    content = {
        "finished_runs": len(list(results.glob("runs/*/*/*/*/seed-*/run.json"))),
        "configuration_sha256": digest(config),
        "rules_sha256": hashlib.sha256(json.dumps(texts, sort_keys=True).encode()).hexdigest(),
        "rules": texts,
    }
    write_whole(file, to_json(content))


def said(file: Path | None, configuration: str | None) -> str:
    """One sentence: whether it was registered before the first run, and what changed since.

    configuration: its `digest` now, if that is known. DataError if the file is no such record.
    """
    if file is None or not file.exists():
        return "Pre-registration: none."
    try:
        found = read_json(file)
        before, then = dict(found["rules"]), str(found["configuration_sha256"])
        runs, short = int(found["finished_runs"]), str(found["rules_sha256"])[:12]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{file}: not a pre-registration: {' '.join(str(error).split())[:200]}") from None
    now = rules()
    other = sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
    changed = [f"the rules of {', '.join(other)}"] if other else []
    changed += ["the configuration"] if configuration not in (None, then) else []
    when = "before the first run" if not runs else f"when {runs} run{'s were' if runs > 1 else ' was'} finished"
    since = f"changed since: {' and '.join(changed)}" if changed else "unchanged since"
    return f"Pre-registration: rules {short} and configuration {then[:12]} were written down {when}; {since}."
