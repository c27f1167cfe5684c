"""Extension of griffe for the API reference: arguments in this project's docstrings become a list.

A line `name: meaning` or `name, name: meaning`, with its further lines indented by four spaces, is an item. Lines that
are indented otherwise (formulas, small tables) stay as they are.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

_ITEM = re.compile(r"(?P<names>[A-Za-z_][\w ,>(){}\[\]`*.=-]{0,60}?): (?P<meaning>\S.*)")
# One outside code.
_BRACKET = re.compile(r"\[(?=(?:[^`]*`[^`]*`)*[^`]*\Z)")
_NAME = re.compile(r"[a-z_][a-z_0-9]*(\([^)]*\))?( > 0| in [^,]+)?$")


def as_markdown(text: str) -> str:
    """A docstring as Markdown. A square bracket is itself, and no link."""
    lines = _BRACKET.sub(r"\\[", text).splitlines()
    out: list[str] = []
    inside = False  # an item
    for number, line in enumerate(lines):
        item = _ITEM.fullmatch(line)
        if item and all(_NAME.match(name) for name in item["names"].split(", ")):
            if not inside and out and out[-1]:
                out.append("")
            names = ", ".join(f"`{name}`" for name in item["names"].split(", "))
            out.append(f"- {names}: {item['meaning']}")
            inside = True
        elif line.startswith("    ") and inside:
            out.append(line)
        else:
            # Indented lines after a paragraph are code only after an empty line.
            if line.startswith("    ") and number and lines[number - 1] and not lines[number - 1].startswith(" "):
                out.append("")
            if inside and line:
                out.append("")
            inside = False
            out.append(line)
    return "\n".join(out)


class Docstrings(griffe.Extension):
    """Rewrites every docstring when it is read."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """griffe has read an object."""
        if obj.docstring:
            obj.docstring.value = as_markdown(obj.docstring.value)
