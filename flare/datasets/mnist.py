"""MNIST: 70,000 grey images of handwritten digits, 28 x 28, ten classes, 60,000 for training.

Source: Y. LeCun, C. Cortes, C. Burges, "The MNIST database of handwritten digits", 1998. Licence: its page states
none; often given as CC BY-SA 3.0.
Looked for in this order: the data folder (the raw files, also in torchvision's layout); torchvision's download.
"""

from __future__ import annotations

from pathlib import Path

from flare.datasets import Split, _idx, _torchvision

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


def fetch(folder: Path) -> tuple[Split, Split]:
    """Train and test; inputs uint8 (N, 1, 28, 28) in 0..255. Raises DataError where no source has them."""
    places = [folder / "raw", folder, folder.parent / "MNIST" / "raw"]
    sources: list[_idx.Source] = [
        ("the data folder", lambda scratch: places),
        ("torchvision's download", lambda scratch: [_torchvision.idx_files("MNIST", scratch)]),
    ]
    return _idx.fetch("mnist", folder, SHA256, sources)
