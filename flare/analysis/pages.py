"""A table in Markdown as a page of its own, for the report: `render`. Read from the file, so it says the same."""

from __future__ import annotations

import html
from pathlib import Path

import mistune

from flare.errors import DataError
from flare.files import SMALL, read_bytes, write_whole

_STYLE = """
body { font: 14px/1.45 system-ui, sans-serif; color: #222; margin: 1.5em; }
table { border-collapse: collapse; margin-bottom: 1em; font-variant-numeric: tabular-nums; }
th { border-bottom: 2px solid #222; text-align: left; position: sticky; top: 0; background: #fff; }
th, td { padding: 0.25em 0.8em; vertical-align: top; }
td { border-bottom: 1px solid #ddd; }
td[style*="right"] { white-space: nowrap; }
"""


def render(source: Path, output: Path) -> None:
    """Write the Markdown file `source` as one HTML page that needs no other file; HTML within it is shown as text.

    Raises DataError, one line, if it cannot be read. Rendering: the library mistune.
    """
    try:
        text = read_bytes(source, 16 * SMALL).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{source}: {error}") from None
    body = mistune.create_markdown(escape=True, plugins=["table"])(text)
    title = html.escape(source.stem)
    page = f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
    write_whole(output, f"{page}</head>\n<body>\n{body}</body></html>\n".encode())
