"""Passwords and keys: in no message, wherever in a URL they stand and however they are spelt."""

from __future__ import annotations

from pathlib import Path

import pytest

from flare import cli
from flare.config import check
from flare.datasets import _fetching
from flare.errors import ConfigError, DataError, hide, shown
from flare.tracking import mirror

PASSWORD = "Pa:s/s@w%rd!"
QUOTED = "Pa%3As%2Fs%40w%25rd%21"
URLS = (
    f"postgresql://me:{PASSWORD}@host:5432/db",
    f"postgresql://me:{QUOTED}@host/db",
    f"postgresql+psycopg2://me:{QUOTED}@host/db?sslmode=require",
    f"mysql://host/db?user=me&password={QUOTED}",
    f"https://host/?api_key={QUOTED}#x",
    f"https://{QUOTED}@host/simple",
    f"postgresql//me:{QUOTED}@host/db",
    f"http://:{QUOTED}@host:3128",
)
SAID = (
    "{}",
    "cannot connect to {!r}",
    "<{}>: refused",
    "HTTPSConnectionPool(host='h'): Max retries with url: {} (Caused)",
)


@pytest.mark.parametrize("url", URLS)
def test_a_password_is_hidden_wherever_it_stands(url: str) -> None:
    for words in SAID:
        for error in (DataError, ConfigError):
            said = str(error(words.format(url)))
            assert "s%2Fs" not in said and "w%rd" not in said and "***" in said, said
        decoded = hide(f"connection of 'me' with password '{PASSWORD}' or {QUOTED} refused", url)
        assert PASSWORD not in decoded and QUOTED not in decoded, decoded
    assert QUOTED not in shown(url) and PASSWORD not in shown(url)


@pytest.mark.parametrize("name", ["FLARE_STORAGE", "WANDB_BASE_URL", "HTTPS_PROXY", "all_proxy", "PIP_INDEX_URL"])
def test_a_password_of_the_environment_is_hidden_in_what_a_library_says(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv(name, f"http://me:{QUOTED}@host:80/")
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef")
    said = f"proxy me:{PASSWORD} refused, key 0123456789abcdef"
    with pytest.raises(DataError) as caught:
        _fetching.run(["sh", "-c", f"echo 'ERROR: {said}' >&2; exit 1"], tmp_path)
    mirrored = mirror.Mirror.__new__(mirror.Mirror)
    monkeypatch.setattr(mirror.sdk, "abandon", lambda: None)
    mirrored._give_up(RuntimeError(said))
    for text in (str(caught.value), capsys.readouterr().err):
        assert PASSWORD not in text and "0123456789abcdef" not in text and "refused" in text


def test_nothing_else_is_hidden() -> None:
    for text in (
        "sqlite:///studies.db",
        "GitHub https://github.com/a/b at commit 1",
        "line 3: keep is '1e-3', and '1e-2' in run.json",
        "results/runs/e/flare/keep-1e-2/epochs-1/seed-1: run.json is missing; this run is not finished",
        "write to someone@example.org: at once",
    ):
        assert hide(text) == text


def test_a_storage_that_is_refused_shows_no_password(capsys: pytest.CaptureFixture[str]) -> None:
    for url in (f"postgresql://me:{QUOTED} x@host/db", f"postgresql//me:{QUOTED}@host/db", f"a b://me:{QUOTED}@h"):
        with pytest.raises(ConfigError) as caught:
            check({"storage": url, "experiments": {}})
        assert "s%2Fs" not in str(caught.value) and "storage" in str(caught.value)
    with pytest.raises(SystemExit):
        cli.main(["export_studies", "x", "--output", "y", f"--storge=postgresql://me:{QUOTED}@host/db"])
    said = capsys.readouterr().err
    assert "storge" in said and QUOTED not in said
