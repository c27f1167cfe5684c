"""Send to W&B what is kept in the results' folder: finished offline runs, and the sweep's tables and figures.

Everything is sent once: a mark beside it remembers that the server has it. What failed is reported in one line and sent
the next time. The runs go through the SDK's own `wandb sync`, many at a time.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from flare.columns import IDENTITY
from flare.errors import ConfigError, hide
from flare.files import is_locked, write_whole
from flare.tracking import sdk

# Runs that one process of the SDK sends, and how many of them at a time.
BATCH, AT_A_TIME = 50, 5
# Seconds after which a record no longer changes.
SETTLED = 2.0
# The SDK would try a server that is gone for days; whoever has set these already decides.
LIMITS = {
    f"WANDB__{call}_{limit}": value
    for call in ("GRAPHQL", "FILE_STREAM", "FILE_TRANSFER")
    for limit, value in (
        ("RETRY_MAX", "3"),
        ("RETRY_WAIT_MIN_SECONDS", "0.5"),
        ("RETRY_WAIT_MAX_SECONDS", "5"),
        ("TIMEOUT_SECONDS", "20"),
    )
}


def need_key() -> None:
    """Raise ConfigError, one line, if W&B has no API key here or is not installed."""
    if not sdk.check_key():
        raise ConfigError("W&B: no API key; set WANDB_API_KEY, or say wandb login")


def sync(results: Path) -> bool:
    """Send what is finished and was not sent yet; True if the server then has everything."""
    need_key()
    runs = list(unsent(results))
    if runs:  # the SDK's process writes the end of a record while the run's own, finished, ends
        age = time.time() - max(record.stat().st_mtime for record in runs)
        time.sleep(min(max(0.0, SETTLED - age), SETTLED))
    sent, reason = 0, ""
    fresh = [record for record in runs if not sdk.mark(record).exists()]
    # What was tried before goes alone, because it needs another id.
    again = [[record] for record in runs if sdk.mark(record).exists()]
    for batch in [*(fresh[start : start + BATCH] for start in range(0, len(fresh), BATCH)), *again]:
        done, why = _send(batch)
        sent, reason = sent + done, reason or why
        if not done:  # the server is gone: the other batches would wait for nothing
            break
    whole = sent == len(runs)
    if whole:
        print(f"W&B: {sent} runs sent" if sent else "W&B: no run to send")
    else:
        failed = f"W&B: {len(runs) - sent} of {len(runs)} runs not sent: {reason[:300]}"
        print(hide(f"{failed}; sync_wandb tries them again"), file=sys.stderr)
    return _send_tables(results) and whole if sent or not runs else whole


def unsent(results: Path) -> Iterator[Path]:
    """W&B's records of the finished runs and trials below the folder of results that the server does not have."""
    for pattern in ("runs/*/*/keep-*/epochs-*/seed-*/run.json", "tuning/**/seed-*/run.json"):
        for file in sorted(results.glob(pattern)):
            for record in sorted(file.parent.glob("wandb/*run-*/*.wandb")):
                if not sdk.is_sent(record) and not is_locked(file.parent):
                    yield record.resolve()


def _send(records: Sequence[Path]) -> tuple[int, str]:
    """Send some records; returns how many of them the server has, and why it does not have the others.

    A single record that was tried before becomes another run: the server would append it to what it has of the first.
    """
    for record in records:
        record.with_suffix(".wandb.synced").unlink(missing_ok=True)
    if len(records) == 1 and sdk.mark(records[0]).exists():
        sdk.mark(records[0]).unlink()
        records = [records[0].rename(records[0].with_name(f"run-{sdk.next_id(records[0])}.wandb"))]
    said, refused, begun = _run_sdk(records)
    lacking = {path for path, _ in refused}
    done = 0
    for record in records:
        if record.with_suffix(".wandb.synced").exists() and str(record) not in lacking:
            write_whole(sdk.mark(record), sdk.SENT.encode())
            done += 1
        # The SDK names the page of a run that has begun, though not of every one.
        elif f"/runs/{sdk.id_of(record)}" in said or str(record) in begun:
            write_whole(sdk.mark(record), sdk.TRIED.encode())
    reasons = [line for line in said.splitlines() if "rror" in line] + [reason for _, reason in refused]
    return done, " ".join((reasons or ["the SDK does not say why"])[0].replace("wandb: ERROR", "").split())


def _run_sdk(records: Sequence[Path]) -> tuple[str, list[tuple[str, str]], set[str]]:
    """Run `wandb sync` on the records; returns what it printed, `sdk.refusals`, and `sdk.begun`."""
    where = ["--project", sdk.project()]
    if os.environ.get("WANDB_ENTITY"):
        where += ["--entity", os.environ["WANDB_ENTITY"]]
    if len(records) == 1:
        where += ["--id", sdk.id_of(records[0])]
    with tempfile.TemporaryDirectory() as folder:
        own = {"WANDB_DIR": folder, "WANDB_CACHE_DIR": folder, "WANDB_ERROR_REPORTING": "false"}
        try:
            ended = subprocess.run(
                [sys.executable, "-m", "wandb", "sync", "--yes", "--include-online", "-n", str(AT_A_TIME), *where]
                + [str(record) for record in records],
                env=LIMITS | os.environ | own,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=120 + 30 * len(records) / AT_A_TIME,
            )
            said = ended.stdout + ended.stderr
        except subprocess.TimeoutExpired as error:
            said = f"{(error.stderr or b'').decode()}\nError: the server takes too long"
        logs = list(Path(folder).glob("wandb/logs/debug-sync.*"))
        refused = [refusal for log in logs for refusal in sdk.refusals(log)]
        begun = {record for log in logs for record in sdk.begun(log)}
    return said, refused, begun


def _send_tables(results: Path) -> bool:
    """Send the sweep's tables and figures as an artifact of one run; True if the server then has what there is."""
    files = {
        str(file.relative_to(results)): file
        for part in ("tables", "figures")
        for file in sorted((results / part).rglob("*"))
        if file.is_file() and not file.name.startswith(".")
    }
    if not (results / "tables/runs.csv").exists():
        return True
    digest = hashlib.sha256()
    for name, file in files.items():
        digest.update(f"{name}\n{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    sent = results / "wandb" / "sent.txt"
    if sent.exists() and sent.read_text() == digest.hexdigest():
        print("W&B: no table or figure to send")
        return True
    with open(results / "tables/runs.csv", newline="", encoding="utf-8") as table:
        rows = [[row[key] for key in IDENTITY] for row in csv.DictReader(table)]
    sweep = hashlib.sha256(json.dumps(sorted(rows)).encode()).hexdigest()[:16]
    shutil.rmtree(results / "wandb", ignore_errors=True)
    try:
        run = sdk.start(
            "online",
            results,
            id=sweep,
            name="tables and figures",
            group="/".join(dict.fromkeys(row[0] for row in rows))[:128],
            job_type="assemble",
            resume="allow",
            config={"runs": len(rows)},
        )
        sdk.log_artifact(run, f"sweep-{sweep}", "sweep", files)
        with sdk.bounded(sdk.FINISH_SECONDS + 2):
            run.finish()
        sdk.check_sent(Path(run.settings.sync_file))
    except Exception as error:
        reason = " ".join((str(error) or type(error).__name__).split())[:300]
        print(hide(f"W&B: tables and figures not sent: {reason}; sync_wandb tries them again"), file=sys.stderr)
        sdk.abandon()
        return False
    write_whole(sent, digest.hexdigest().encode())
    print(f"W&B: {len(files)} tables and figures sent")
    return True
