"""Extension of griffe for the API reference: arguments in this project's docstrings become a list.

A line `name: meaning` or `name, name: meaning`, with its further lines indented by four spaces, is an item. Lines that
are indented otherwise (formulas, small tables) stay as they are.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

# An argument, which may say how it is called or its range: on_state(state), momentum in [0, 1).
_NAME = r"[a-z_][a-z_0-9]*(?:\([^)]*\))?(?: > 0| in [\[(][^\])]*[\])])?"
_ITEM = re.compile(rf"(?P<names>{_NAME}(?:, {_NAME})*): (?P<meaning>\S.*)")
# A square bracket outside code.
_BRACKET = re.compile(r"\[(?=(?:[^`]*`[^`]*`)*[^`]*\Z)")


def as_markdown(text: str) -> str:
    """A docstring as Markdown. A square bracket is itself, and no link."""
    lines = text.splitlines()
    out: list[str] = []
    inside = False  # an item
    for number, line in enumerate(lines):
        item = _ITEM.fullmatch(line)
        if item:
            if not inside and out and out[-1]:
                out.append("")
            names = ", ".join(f"`{name}`" for name in re.findall(_NAME, item["names"]))
            out.append(f"- {names}: {item['meaning']}")
            inside = True
        elif line.startswith("    ") and inside:
            out.append(line)
        else:
            # Indented lines are code only after an empty line; so is a paragraph apart from a list.
            starts_code = line.startswith("    ") and number and not lines[number - 1].startswith("    ")
            if (starts_code or (inside and line)) and out[-1]:
                out.append("")
            inside = False
            out.append(line)
    return _BRACKET.sub(r"\\[", "\n".join(out))


class Docstrings(griffe.Extension):
    """Rewrites every docstring when it is read."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """griffe has read an object."""
        if obj.docstring:
            obj.docstring.value = as_markdown(obj.docstring.value)
