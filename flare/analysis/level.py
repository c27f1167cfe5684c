"""The level of confidence of every interval, and of every word about one: changed here, it is changed everywhere.

Imports nothing, because the figures' captions name the level and Snakemake reads them every time it starts.
"""

from __future__ import annotations

LEVEL = 0.95


def percent(share: float) -> str:
    """A share as texts have it: "95 %"."""
    return f"{100 * share:g} %"


def with_level(text: str) -> str:
    """A text that is no code, such as a figure's docstring, with the level where it says {level}."""
    return text.replace("{level}", percent(LEVEL))
