"""What a method is called in tables and figures, and how it looks: constants of its file, which is not imported."""

from __future__ import annotations

import ast
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flare.algorithms import names

CONSTANTS = ("LABEL", "COLOUR", "MARKER", "DASHES")


@functools.cache
def look(method: str) -> Mapping[str, Any]:
    """Those of the CONSTANTS that the method's file has; none if there is no such file."""
    file = Path(__file__).with_name(f"{method}.py")
    if not file.exists():
        return {}
    said = [item for item in ast.parse(file.read_bytes()).body if isinstance(item, ast.Assign)]
    named = [(target, item.value) for item in said for target in item.targets]
    return {
        target.id: ast.literal_eval(value)
        for target, value in named
        if isinstance(target, ast.Name) and target.id in CONSTANTS
    }


@functools.cache
def label(method: str) -> str:
    """The name for readers, LABEL or else the key; with the key behind it if another method has the same one."""
    own = _label(method)
    return f"{own} ({method})" if own in [_label(other) for other in names() if other != method] else own


def _label(method: str) -> str:
    return str(look(method).get("LABEL") or method)
