"""The configuration that Snakemake has: several files, one after the other, and what --config gives beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flare.config.checking import check, check_values
from flare.config.reading import read
from flare.config.written import as_meant
from flare.errors import ConfigError


def settle(config: dict[str, Any], files: Sequence[Path], given: Mapping[str, Any]) -> str:
    """Make Snakemake's configuration, in place, what its files and --config mean; returns where it comes from, for
    messages of the check. ConfigError for a file that cannot be read.
    """
    contents = [read(file) for file in files]
    source = " + ".join(map(str, files)) or "config"
    try:
        check_values(config)  # of which some hold themselves
    except ConfigError as problem:
        raise ConfigError(f"{source}: {problem}") from None
    meant = as_meant(config, given)
    if given:
        alone: dict[str, Any] = {}
        for content in contents:
            _merge(alone, content)
        try:
            check(as_meant(alone))
            source = "--config"
        except ConfigError as problem:
            try:
                check(meant)
            except ConfigError as other:
                source = source if str(problem) == str(other) else f"{source} with --config"
    config.clear()
    config.update(meant)
    return source


def _merge(into: dict[str, Any], content: Any) -> None:
    """Mappings are merged, and of anything else the last holds, as Snakemake does it."""
    for key, value in content.items() if isinstance(content, Mapping) else ():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = dict(value) if isinstance(value, Mapping) else value
