"""Reading a configuration file: YAML, with what it would quietly misread refused."""

from __future__ import annotations

import errno
import itertools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from flare.errors import ConfigError, shown
from flare.files import read_bytes

# A value nested deeper than this is not a configuration: YAML can refer to itself.
DEPTH = 20
# YAML takes seconds for a larger file.
_BYTES = 256_000
# What is written out, with every alias (*name) in full, is no more than so many values.
VALUES = 100_000


class _Loader(yaml.SafeLoader):
    """YAML, except that a key that is there twice is refused: YAML would quietly take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            own = (key.tag, key.value if isinstance(key, yaml.ScalarNode) else id(key))
            if own in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {shown(key.value)} is there twice; once in its mapping", key.start_mark
                )
            seen.add(own)
        return super().construct_mapping(node, deep)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Merge what << names, unless that multiplies without end."""
        super().flatten_mapping(node)
        if len(node.value) > VALUES:
            raise RecursionError

    def fetch_flow_collection_start(self, *given: Any) -> None:
        """Refuse what is nested in brackets without end, for which the scanner takes the square of the depth."""
        if self.flow_level > 10 * DEPTH:
            raise RecursionError
        super().fetch_flow_collection_start(*given)


def _whole_number(loader: _Loader, node: yaml.ScalarNode) -> int:
    """The number; refuses 010 and 1:30, which YAML 1.1 would quietly read as 8 and 90."""
    number: int = loader.construct_yaml_int(node)
    if ":" in node.value or re.fullmatch(r"[-+]?0[0-9_]+", node.value):
        said = f"{shown(node.value)} would be read as {shown(number)}; write the number plainly, or text in quotes"
        raise yaml.constructor.ConstructorError(None, None, said, node.start_mark)
    return number


_Loader.add_constructor("tag:yaml.org,2002:int", _whole_number)


def read(path: Path) -> Any:
    """The content of a configuration file, not checked yet; ConfigError if it is not YAML in UTF-8."""
    try:
        return parse(read_bytes(path, _BYTES).decode("utf-8"))
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise ConfigError(f"{path}: more than {_BYTES} bytes; a configuration, at most that long") from None
        raise ConfigError(f"{path}: {error.strerror}; a file with a configuration") from None
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply; at most {DEPTH} levels") from None
    except ConfigError:
        raise
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        said = f"line {mark.line + 1}: {getattr(error, 'problem', '')}" if mark else str(error)
        raise ConfigError(f"{path}: {' '.join(said.split())[:300]}; YAML in UTF-8 is expected") from None


def parse(text: str) -> Any:
    """The value of a YAML text; YAMLError, ValueError or RecursionError if it is not YAML or has a key twice."""
    try:
        return yaml.load(text, _Loader)
    except (LookupError, AttributeError, TypeError) as error:  # what YAML makes of !!bool x, !!int "" or !!timestamp x
        raise ValueError("a tag (!!) that its value does not fit") from error


def read_own(path: Path) -> Any:
    """The value of a YAML file that this package wrote, as a person may have edited it; OSError or ValueError if it is
    no plain file, too long, no YAML, or nested or repeated by aliases without end."""
    try:
        value = parse(read_bytes(path, _BYTES).decode("utf-8"))
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"not YAML: {' '.join(str(error).split())[:200]}") from None
    check_size(value)
    return value


def check_size(value: Any) -> None:
    """Raise ValueError for a value that, with its aliases in full, has too many values or too many levels."""
    rest: list[tuple[Any, int]] = [(value, 0)]
    for count in itertools.count():
        if not rest:
            return
        own, depth = rest.pop()
        if count > VALUES or depth > DEPTH:
            raise ValueError(f"too many values, or a value that holds itself; at most {VALUES}, {DEPTH} levels deep")
        inside = own.values() if isinstance(own, Mapping) else own if isinstance(own, list | tuple | set) else ()
        rest += [(item, depth + 1) for item in inside]
