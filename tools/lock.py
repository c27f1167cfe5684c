"""Rewrite requirements.lock: what pip resolves from pyproject.toml and its `dev` extra, which names the others.

Usage: python tools/lock.py [--upgrade] [--output FILE]
Versions now locked are kept wherever the ranges still allow them; --upgrade takes the newest ones instead. --output
leaves requirements.lock alone: with another index of packages, a lock for torch's CPU build (see docs/conda.md).
Each archive comes with its hash. Wheels are preferred to sources, which pip builds when it installs. Needs pip 22.2 or
newer.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"
HEADER = """\
# Exact versions of everything: the package, its tests and its tools. Written by `make lock`; do not edit.
# For Linux on x86_64 with Python 3.11: the wheels are of that platform. Others: pip install -e '.[dev]',
# which takes the ranges of pyproject.toml. A hash is the SHA-256 of the one archive that pip chose.
"""


def requirements(project: dict[str, Any], extra: str) -> list[str]:
    """The lines of an extra; a line that names extras of the project itself is replaced by theirs."""
    lines: list[str] = []
    for line in project["optional-dependencies"][extra]:
        named = Requirement(line)
        if canonicalize_name(named.name) == canonicalize_name(project["name"]):
            for other in sorted(named.extras):
                lines += requirements(project, other)
        else:
            lines.append(line)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--upgrade", action="store_true")
    parser.add_argument("--output", type=Path, default=LOCK)
    chosen = parser.parse_args()
    if sys.version_info[:2] != (3, 11) or platform.system() != "Linux" or platform.machine() != "x86_64":
        sys.exit("lock.py: the lock is for Linux on x86_64 with Python 3.11; run it there")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = project["dependencies"] + requirements(project, "dev")
    with tempfile.TemporaryDirectory() as folder:
        report, pins = Path(folder, "report.json"), Path(folder, "pins.txt")
        kept = LOCK.read_text(encoding="utf-8") if LOCK.exists() and not chosen.upgrade else ""
        ranges = {canonicalize_name(line.name): line.specifier for line in map(Requirement, wanted)}
        pins.write_text(
            "\n".join(
                f"{name}=={version}"
                for name, version in re.findall(r"^([\w.-]+)==([^\s\\]+)", kept, re.MULTILINE)
                if version in ranges.get(canonicalize_name(name), SpecifierSet())
            ),
            encoding="utf-8",
        )
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet"]
        command += ["--prefer-binary", "--report", str(report), "--constraint", str(pins)]
        if subprocess.run(command + wanted).returncode:
            sys.exit("lock.py: the locked versions and the new ranges exclude each other; try --upgrade")
        items = json.loads(report.read_text(encoding="utf-8"))["install"]
    entries = {}
    for item in items:
        name = canonicalize_name(item["metadata"]["name"])
        sha256 = item["download_info"]["archive_info"]["hashes"]["sha256"]
        entries[name] = f"{name}=={item['metadata']['version']} \\\n    --hash=sha256:{sha256}\n"
    fresh = chosen.output.with_name(chosen.output.name + ".tmp")
    fresh.write_text(HEADER + "".join(entries[name] for name in sorted(entries)), encoding="utf-8")
    os.replace(fresh, chosen.output)
    print(f"{chosen.output}: {len(entries)} packages")


if __name__ == "__main__":
    main()
