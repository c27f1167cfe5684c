"""The report's pages say what the Markdown says, and nothing in it becomes markup."""

from __future__ import annotations

from pathlib import Path

import pytest

from flare.cli import main


def test_a_table_becomes_a_page(tmp_path: Path) -> None:
    table = "| method | accuracy |\n| :-- | --: |\n| <b>x</b> | 83.00 ± 8.96 |\n"
    (tmp_path / "summary.md").write_text(f"{table}\n- a rule\n")
    assert main(["render", str(tmp_path / "summary.md"), "-o", str(tmp_path / "pages/summary.html")]) == 0
    page = (tmp_path / "pages/summary.html").read_text()
    assert "<title>summary</title>" in page and "<li>a rule</li>" in page
    assert '<td style="text-align:right">83.00 ± 8.96</td>' in page
    assert "&lt;b&gt;x&lt;/b&gt;" in page and "<b>" not in page


def test_one_that_cannot_be_read_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["render", str(tmp_path / "none.md"), "-o", str(tmp_path / "none.html")]) == 2
    assert capsys.readouterr().err.startswith(f"flare: {tmp_path}/none.md: ")
    assert not (tmp_path / "none.html").exists()
