"""CIFAR-100: 60,000 colour images, 32 x 32, a hundred (fine) classes, 50,000 for training.

Source: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", University of Toronto, 2009. Licence:
none stated; its page asks to cite that report.
Looked for in this order: the data folder (the archive cifar-100-python.tar.gz); torchvision's download.
"""

from __future__ import annotations

from pathlib import Path

from flare.datasets import Split, _torchvision

KIND = "images"
CLASSES = 100
SHAPE = (3, 32, 32)
SCALE = 255.0


def fetch(folder: Path) -> tuple[Split, Split]:
    """Train and test; inputs uint8 (N, 3, 32, 32), red, green, blue, in 0..255. DataError: no source has it."""
    return _torchvision.cifar("CIFAR100", folder)
