"""Digits: 1,797 images of handwritten digits, 8 x 8, 17 grey levels; in scikit-learn, needs no network.

Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository,
1998, the test part, as shipped by scikit-learn (`sklearn.datasets.load_digits`). Licence: CC BY 4.0.
The first 1,500 images are for training and the last 297 for testing: 146 to 153 and 27 to 33 of every digit.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from flare.datasets import Split

KIND = "images"
CLASSES = 10
SHAPE = (1, 8, 8)
SCALE = 16.0
TRAIN = 1500


def fetch(folder: Path) -> tuple[Split, Split]:
    """Train and test; inputs uint8 (N, 1, 8, 8) in 0..16. Reads nothing in `folder`."""
    import sklearn
    from sklearn.datasets import load_digits

    bunch = load_digits()
    inputs = bunch.images.astype(np.uint8)[:, None]
    targets = bunch.target.astype(np.int64)
    source = f"scikit-learn {sklearn.__version__}, load_digits"
    return (
        Split(inputs[:TRAIN], targets[:TRAIN], source=source),
        Split(inputs[TRAIN:], targets[TRAIN:], source=source),
    )
