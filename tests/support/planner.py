"""Dry runs of a copy of the tree, one after the other: what Snakemake plans, and why, in well under a second each.

Run as a program it imports Snakemake once and forks for every line that it is given, so that each dry run imports the
copy's own code anew; nothing of flare is imported here.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

TREE = ("Snakefile", "config", "flare", "notebooks", "profiles", "requirements.lock", "workflow")
# What Snakemake says of a job that is planned because another one is.
_FOLLOWS = "Input files updated by another job"


class Job(NamedTuple):
    """A planned job: its name, whether something else than a planned job is why, and its command."""

    name: str
    own: bool
    command: str


class Planner:
    """A copy of the tree beside a folder in which its workflow has been carried out, or is said to have been."""

    def __init__(self, folder: Path, config: str) -> None:
        root = Path(__file__).parents[2]
        self.tree, self.sweep = folder / "tree", folder / "sweep"
        self.tree.mkdir()
        for name in TREE:
            source = root / name
            if source.is_dir():
                shutil.copytree(source, self.tree / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(source, self.tree / name)
        self.sweep.mkdir()
        (self.sweep / "config.yaml").write_text(config)
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(self.tree), "PYTHONDONTWRITEBYTECODE": "1"},
        )

    def close(self) -> None:
        """End the program that plans."""
        self._process.communicate()

    def snakemake(self, *arguments: str, config: str = "config.yaml") -> str:
        """What it says, with these arguments, in the folder."""
        place = ["--snakefile", f"{self.tree}/Snakefile", "--directory", str(self.sweep)]
        words = [*place, "--configfile", f"{self.sweep}/{config}", "--nocolor", *arguments]
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(words) + "\n")
        self._process.stdin.flush()
        code, said = json.loads(self._process.stdout.readline())
        assert code == 0, said
        return str(said)

    def jobs(self, *arguments: str, config: str = "config.yaml") -> list[Job]:
        """The jobs that a dry run plans; those of the same rule are told apart by what they make."""
        said = self.snakemake("--dry-run", "--printshellcmds", *arguments, config=config)
        found = re.findall(r"^(?:local)?rule (\w+):\n((?:    .*\n)*)(.*)", said, re.MULTILINE)
        assert found or "Nothing to be done" in said, said
        return [_job(rule, about, command) for rule, about, command in found if rule != "all"]

    def carry_out(self) -> None:
        """Carry out the studies, the runs and their tables, which say themselves what they were made from.

        Every other file of the sweep has its name alone, and is noted as made from what is there.
        """
        self.snakemake("--cores", "2", "tabulate")
        said = self.snakemake("--dry-run", "--forceall")
        for line in re.findall(r"^    output: (.*)$", said, re.MULTILINE):
            for file in (self.sweep / name for name in line.split(", ")):
                if not file.exists():
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_text(f"{file.name}\n")
        self.snakemake("--touch", "--forceall", "--cores", "1")


def _job(rule: str, about: str, command: str) -> Job:
    said = dict(re.findall(r"^    (\w+): (.*)$", about, re.MULTILINE))
    wildcards = dict(re.findall(r"(\w+)=([^,]+)", said.get("wildcards", "")))
    what = next((wildcards[name] for name in ("method", "figure", "table", "dataset") if name in wildcards), "")
    reason = said["reason"]
    return Job(f"{rule}:{what}" if what else rule, not reason.startswith(_FOLLOWS) or "; " in reason, command)


def _serve() -> None:
    import snakemake.cli

    for line in sys.stdin:
        with tempfile.TemporaryFile("w+") as said:
            child = os.fork()
            if not child:
                code = 1
                try:
                    os.dup2(said.fileno(), 1)
                    os.dup2(said.fileno(), 2)
                    snakemake.cli.main(json.loads(line))
                    code = 0
                except SystemExit as ended:
                    code = int(ended.code or 0)
                finally:
                    sys.stdout.flush()
                    sys.stderr.flush()
                    os._exit(code)
            _, status = os.waitpid(child, 0)
            said.seek(0)
            print(json.dumps([os.waitstatus_to_exitcode(status), said.read()]), flush=True)


if __name__ == "__main__":
    _serve()
