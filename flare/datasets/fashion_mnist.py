"""Fashion-MNIST: 70,000 grey images of clothes, 28 x 28, ten classes, 60,000 for training.

Source: H. Xiao, K. Rasul, R. Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine
Learning Algorithms", arXiv 1708.07747. Licence: MIT, Zalando SE.
Looked for in this order: the data folder (the raw files, also in torchvision's layout); Debian's package
dataset-fashion-mnist where it is installed; torchvision's download; Debian's package, downloaded with apt-get and
unpacked without being installed, which needs no rights.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from flare.datasets import Split, _idx, _torchvision
from flare.datasets._fetching import run
from flare.errors import DataError

KIND = "images"
CLASSES = 10
SHAPE = (1, 28, 28)
SCALE = 255.0

# sha256 of the unpacked files. They are the content of the archives whose md5 torchvision pins: Debian's
# archives have those md5 sums once the original names and times (1504176606, 1504176627) are back in their
# gzip headers.
SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
PACKAGE = "dataset-fashion-mnist"
INSTALLED = Path("/usr/share/datasets/fashion-mnist")


def fetch(folder: Path) -> tuple[Split, Split]:
    """Train and test; inputs uint8 (N, 1, 28, 28) in 0..255. Raises DataError where no source has them."""
    places = [folder / "raw", folder, folder.parent / "FashionMNIST" / "raw"]
    sources: list[_idx.Source] = [
        ("the data folder", lambda scratch: places),
        (f"Debian's package {PACKAGE}, installed", lambda scratch: [INSTALLED]),
        ("torchvision's download", _from_torchvision),
        (f"Debian's package {PACKAGE}, downloaded", _from_debian),
    ]
    return _idx.fetch("fashion_mnist", folder, SHA256, sources)


def _from_torchvision(scratch: Path) -> list[Path]:
    return [_torchvision.idx_files("FashionMNIST", scratch)]


def _from_debian(scratch: Path) -> list[Path]:
    """Download the package and unpack it below `scratch`; nothing is installed."""
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise DataError("this machine has no apt-get and dpkg-deb")
    download = ["apt-get", "-o", "Acquire::Retries=1", "-o", "Acquire::http::Timeout=10", "download", PACKAGE]
    try:
        run(download, scratch)
    except DataError:
        if os.geteuid() != 0:
            raise
        run(["apt-get", "update", "-qq"], scratch)  # a new machine has no package lists yet
        run(download, scratch)
    archive = next(scratch.glob(f"{PACKAGE}_*.deb"))
    run(["dpkg-deb", "-x", archive.name, "."], scratch)
    return [scratch / INSTALLED.relative_to("/")]
