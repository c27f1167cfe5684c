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
    items = _items(lines)
    out: list[str] = []
    inside = False  # an item
    for number, line in enumerate(lines):
        before = lines[number - 1] if number else ""
        item = items[number]
        if item:
            starts = not inside
            names = ", ".join(f"`{name}`" for name in re.findall(_NAME, item["names"]))
            line = f"- {names}: {item['meaning']}"
            inside = True
        elif line.startswith("    ") and inside:
            starts = False
        else:
            # Indented lines are code, and dashes a list, only after an empty line; so is a paragraph apart from a list.
            starts = inside or _starts(line, before, "    ") or _starts(line, before, "- ")
            inside = False
        if starts and line and out and out[-1]:
            out.append("")
        out.append(line)
    return _BRACKET.sub(r"\\[", "\n".join(out))


def _items(lines: list[str]) -> list[re.Match[str] | None]:
    """Which lines begin an item. One that goes on at the margin is prose: what begins a sentence there is no name."""
    found: list[re.Match[str] | None] = []
    for number in reversed(range(len(lines))):
        after = lines[number + 1] if number + 1 < len(lines) else ""
        ends = not after or after.startswith("    ") or bool(found[-1])
        found.append(_ITEM.fullmatch(lines[number]) if ends else None)
    return found[::-1]


def _starts(line: str, before: str, mark: str) -> bool:
    return line.startswith(mark) and not before.startswith((mark, "  "))


class Docstrings(griffe.Extension):
    """Rewrites every docstring when it is read."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """griffe has read an object."""
        if obj.docstring:
            obj.docstring.value = as_markdown(obj.docstring.value)
