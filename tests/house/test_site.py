"""The docs: every key, command, file of results, seam and rule has its place, links lead somewhere, the site builds."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import matplotlib.image
import pytest
import yaml
from commands import ROOT, environment

from flare import columns, config, records
from flare.config.levels import Experiment, Sweep, Tuning, keys

sys.path.insert(0, str(ROOT / "tools"))

DOCS = ROOT / "docs"
# What is read on a forge as it lies there; pages that include such a file are read as the file.
READ = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "RELEASE.md", "SECURITY.md")),
    *(ROOT / name for name in ("CODE_OF_CONDUCT.md", "config/README.md", "results/README.md", "benchmarks/README.md")),
    *sorted(DOCS.rglob("*.md")),
]
FENCE = re.compile(r"^```.*?^```$|`[^`\n]*`|<!--.*?-->", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def docs() -> ModuleType:
    return importlib.import_module("docs")


@pytest.fixture(scope="module")
def meanings() -> ModuleType:
    return importlib.import_module("meanings")


def text(page: str) -> str:
    """A page as the site has it, with what it includes."""
    return str(importlib.import_module("docs_site").rendered(DOCS / page))


def anchors(file: Path) -> set[str]:
    """The anchors of a file's headings, as GitHub and MkDocs both make them; none if they differ."""
    content = re.sub(r"^```.*?^```$", "", file.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    found = set()
    for heading in re.findall(r"^#{1,6} (.*)$", content, re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
        github = re.sub(r"[^\w\- ]", "", plain.lower().strip()).replace(" ", "-")
        if not re.search("--", github):
            found.add(github)
    return found


def broken(file: Path) -> Iterator[str]:
    """The links of a Markdown file that lead nowhere in the repository."""
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", file.read_text(encoding="utf-8"))):
        if re.match(r"https?:|mailto:", target):
            continue
        name, _, anchor = target.partition("#")
        place = Path(os.path.normpath(file.parent / name)) if name else file
        if not place.exists():
            yield f"{file.name}: {target}: no such file"
        elif anchor and anchor not in anchors(place) | included_anchors(place):
            yield f"{file.name}: {target}: no such heading"


def included_anchors(page: Path) -> set[str]:
    """The anchors of the files that a page includes."""
    included = re.findall(r"^<!-- include: (\S+) -->$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return set[str]().union(*(anchors(ROOT / name) for name in included))


@pytest.mark.parametrize("file", READ, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(file: Path) -> None:
    assert list(broken(file)) == []


def test_a_link_that_leads_nowhere_is_found(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# One heading\n\n## A & B\n\n```\n# no heading\n```\n")
    links = ("other.md#one-heading", "other.md#two", "gone.md", "#here", "other.md#no-heading", "other.md#a--b")
    page = tmp_path / "page.md"
    page.write_text("## Here\n\n" + "\n".join(f"[x]({link})" for link in links) + "\n\n`[code](gone.md)`\n")
    assert [line.split(": ")[1] for line in broken(page)] == [links[1], links[2], links[4], links[5]]


def test_every_page_is_in_the_navigation() -> None:
    def pages(entry: object) -> Iterator[str]:
        if isinstance(entry, str):
            yield entry
        elif isinstance(entry, dict | list):
            for inner in entry.values() if isinstance(entry, dict) else entry:
                yield from pages(inner)

    listed = list(pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]))
    assert sorted(listed) == sorted(page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md"))


def test_every_key_has_a_row() -> None:
    page = text("configuration.md")

    def rows(level: type, prefix: str = "") -> Iterator[str]:
        for name, field in keys(level).items():
            if field.metadata["doc"]:
                yield f"| `{prefix}{name}` |"
            else:
                yield from rows(field.metadata["level"], f"{name}.")

    wanted = [row for level in (Sweep, Experiment, Tuning) for row in rows(level)]
    assert len(wanted) > 50
    assert [row for row in wanted if row not in page] == []


def test_every_command_has_a_section() -> None:
    command = [sys.executable, "-m", "flare", "--help"]
    help_text = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    commands = re.findall(r"^    ([a-z_]+)(?: |$)", help_text, re.MULTILINE)
    assert len(commands) > 20
    assert re.findall(r"^## ([a-z_]+)$", text("commands.md"), re.MULTILINE) == commands


def test_every_column_has_a_meaning_and_every_meaning_a_column(meanings: ModuleType) -> None:
    tables = {name: value for name, value in vars(columns).items() if name.isupper() and name != "OPTIONAL"}
    parts = {"IDENTITY", "CELL", "HISTORY"}  # of others
    assert {id(value) for name, value in tables.items() if name not in parts} == {
        id(value) for value in meanings.TABLES.values()
    }
    for table in meanings.TABLES:
        assert all(meaning for _, _, meaning in meanings.rows(table))
        assert set(meanings.OF_TABLE.get(table, {})) <= set(meanings.TABLES[table]), table
    assert set(meanings.MEANINGS) <= set().union(*meanings.TABLES.values())
    assert {column for column, _, _ in meanings.probe_rows()} == set(meanings.OF_PROBE)


CELL = "{experiment}/{method}/keep-{keep}/epochs-{local_epochs}"


def results_of_rules() -> set[str]:
    """The files below results/ that rules of the workflow name as outputs, with {wildcards}."""
    rules = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "workflow/rules").glob("*.smk")))
    study = f"tuning/{CELL}"
    homes = {"RESULTS": "", "TABLES": "tables", "STUDY": study}
    homes["TRIAL"] = f"{study}/batch-{{batch}}/trial-{{trial}}/seed-{{seed}}"
    found = set()
    for block in re.findall(r"^ +output:\n((?: {8}.*\n| *\n)+)", rules, re.MULTILINE):
        for stem, endings in re.findall(r'multiext\(f"([^"]+)", ([^)]*)\)', block):
            found |= {stem + ending for ending in re.findall(r'"([^"]+)"', endings)}
        found |= set(re.findall(r'f"([^"]+\.\w+)"', re.sub(r"multiext\([^)]*\)", "", block)))
    files = set()
    for file in found:
        home, _, rest = file.partition("/")
        if home[1:-1] in homes and not rest.startswith("logs/"):  # data/ is none of results/
            place = f"{homes[home[1:-1]]}/{rest}".lstrip("/")
            files.add(place.replace("{CELL}", CELL).replace("{{", "{").replace("}}", "}"))
    return files


def described(page: str) -> set[str]:
    """What the page of results describes: headings that are files, and first cells of tables.

    A first cell is below the folder that its section names. An ending alone stands for the file before it.
    """
    out: set[str] = set()
    for section in re.split(r"^(?=## )", page, flags=re.MULTILINE):
        below = re.search(r"^`([^`]+/)` holds one", section, re.MULTILINE)
        cells = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
        entries = [
            *re.findall(r"^### (\S+\.csv.*)$", section, re.MULTILINE),
            *(cell.replace("`", "") for cell in cells),
        ]
        for entry in entries:
            last = ""
            for name in entry.split(", "):
                last = name if not name.startswith(".") else re.sub(r"\.\w+$", name, last)
                out |= {last, f"{below[1]}{last}" if below else last}
    return out | set(re.findall(r"^`([^`]+)` holds all", page, re.MULTILINE))


def test_every_file_of_results_is_described() -> None:
    known, files = described(text("results.md")), results_of_rules()
    assert {"tables/claims.tex", "tables/labels/{experiment}.csv", "report.html"} <= files and len(files) > 30
    # A folder's row stands for the files in it.
    assert {file for file in files if file not in known and f"{file.rpartition('/')[0]}/" not in known} == set()
    assert f"runs/{CELL}/seed-{{seed}}/rounds.csv" in files & known


def test_every_key_of_run_json_is_described() -> None:
    [written] = re.findall(r"summary = \{\n(.*?)\n    \}", (ROOT / "flare/runs/record.py").read_text(), re.DOTALL)
    names = {*columns.IDENTITY, records.RESTORED, *re.findall(r'^        "(\w+)":', written, re.MULTILINE)}
    [section] = re.findall(r"^### run\.json$(.*?)^### ", text("results.md"), re.MULTILINE | re.DOTALL)
    assert names == set(re.findall(r"`(\w+)`", "\n".join(re.findall(r"^\| (`.*?) \|", section, re.MULTILINE))))


def test_every_seam_has_a_recipe() -> None:
    """A folder of plug-ins is one whose package lists the names of its files."""
    page = text("extending.md")
    seams = [
        path.parent.relative_to(ROOT).as_posix()
        for path in sorted((ROOT / "flare").rglob("__init__.py"))
        if re.search(r"^def names\(", path.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert {"flare/algorithms", "flare/engine/schedules", "flare/datasets/partitions"} <= set(seams)
    reference = "\n".join(page.read_text(encoding="utf-8") for page in sorted((DOCS / "api").glob("*.md")))
    for seam in seams:
        assert f"`{seam}/NAME.py`" in page, seam
        assert f"<!-- modules: {seam} -->" in reference, seam
    for heading, link in re.findall(r"^\| \[[^\]]+\]\(#([\w-]+)\) \| (.*) \|$", page, re.MULTILINE):
        assert heading in anchors(DOCS / "extending.md"), link


def test_every_rule_is_in_the_picture() -> None:
    rules = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "workflow/rules").glob("*.smk")))
    assert "    rule:\n        name:\n" in rules  # the runs, whose rules are made by a loop
    names = set(re.findall(r"^rule (\w+):", rules, re.MULTILINE)) | {"train"}
    picture = importlib.import_module("picture")
    assert picture.names() == names
    assert (DOCS / "pipeline.svg").read_text(encoding="utf-8") == picture.svg(), "pipeline.svg is old; run make docs"


def test_what_is_generated_is_what_the_code_says(docs: ModuleType) -> None:
    for page, tables in docs.PAGES.items():
        content = page.read_text(encoding="utf-8")
        assert content == docs.readme_text(content, tables), f"{page.name} is old; run make docs"
        assert sorted(re.findall(r"<!-- generated: (.*?) -->", content)) == sorted(tables), page.name


def test_pictures_are_those_of_the_records(tmp_path: Path) -> None:
    recorded = importlib.import_module("recorded")
    recorded.draw(tmp_path)
    for file, record, *_ in recorded.PICTURES:
        kept, drawn = (matplotlib.image.imread(folder / file) for folder in (DOCS, tmp_path))
        # Another processor may round a line's place otherwise.
        assert kept.shape == drawn.shape and abs(kept - drawn).mean() < 1e-3, f"{file} is old; run make docs"
        assert (ROOT / "results/records" / record / "record.json").exists()
        assert f"docs/{file}" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_record_has_its_place_and_is_whole() -> None:
    page = text("records.md")
    for name in records.names(ROOT / records.FOLDER):
        found = records.read(ROOT / records.FOLDER / name)
        assert f"| `{name}` | " in page and len(found.runs) == len(config.runs(found.config)), name


def test_arguments_of_a_docstring_are_a_list() -> None:
    as_markdown = importlib.import_module("docstrings").as_markdown
    text = "Do it: now.\n\nkeep: a share\n    of all, in [0, 1).\non_state(state), seed: two.\n"
    text += "\nThen `a[1]`.\n    w <- w\n"
    assert as_markdown(text) == (
        "Do it: now.\n\n- `keep`: a share\n    of all, in \\[0, 1).\n- `on_state(state)`, `seed`: two.\n\n"
        "Then `a[1]`.\n\n    w <- w"
    )
    assert as_markdown("momentum in [0, 1): m\n    n") == "- `momentum in [0, 1)`: m\n    n"
    # Prose, and a list that follows it at once.
    assert as_markdown("A part.\n\ninputs: floats. targets:\nwhole.") == "A part.\n\ninputs: floats. targets:\nwhole."
    assert as_markdown("It has\n- `A`: one,\n  or two\n- `B`") == "It has\n\n- `A`: one,\n  or two\n- `B`"


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    more = {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment(**more), timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    home = (tmp_path / "site/index.html").read_text(encoding="utf-8")
    assert 'href="docs/' not in home and 'href="getting-started.html"' in home
    # A reader's browser asks no other server for anything.
    for page in (tmp_path / "site").rglob("*.html"):
        loaded = re.findall(r'(?:<script[^>]* src|<link[^>]* href|<img[^>]* src)="(https?:[^"]+)"', page.read_text())
        assert loaded == [], page.name
