"""Errors that a user sees: one line that names the key, the value and what is allowed."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import quote, quote_plus, unquote, unquote_plus

HIDDEN = "***"
# In a URL, or in what somebody meant for one: name:password@ or a token@ before the host, and what follows ? or #.
_USER = re.compile(r"""(?<![^\s'"<(=\[,/])([\w.%+-]*):(?!//)[^\s'"<>]*@(?=[\w.\[-])""")
_AUTHORITY = re.compile(r"""(//)[^\s'"<>]*@""")
_QUERY = re.compile(r"""(\w://[^\s'"<>?#]*[?#])[^\s'"<>]+""")
# Variables that hold a secret, and those that hold a URL, which may have one in it.
_SECRET_NAMES = re.compile(r"KEY$|TOKEN|PASSWORD|PASSWD|SECRET", re.IGNORECASE)
_URL_NAMES = re.compile(r"URL|PROXY|STORAGE|INDEX", re.IGNORECASE)


def hide(text: str, *urls: str) -> str:
    """The text without passwords and keys: in what looks like a URL, and wherever those of known URLs and of this
    process's environment stand, as they are or percent-encoded.

    urls: those that are known.
    """
    for secret in sorted({*_secrets(urls), *_ambient()}, key=len, reverse=True):
        if secret in text:  # a short one as a word: a letter would be everywhere
            found = re.escape(secret)
            text = re.sub(rf"(?<![^\W_]){found}(?![^\W_])" if len(secret) < 6 else found, HIDDEN, text)
    text = _AUTHORITY.sub(rf"\1{HIDDEN}@", text)
    text = _USER.sub(rf"\1:{HIDDEN}@", text)
    return _QUERY.sub(rf"\1{HIDDEN}", text)


def _secrets(urls: Iterable[str]) -> Iterator[str]:
    """The passwords, tokens and values of parameters in the URLs, in every spelling that a library may print."""
    for url in urls:
        rest = url.partition("://")[2] or url
        before, at, behind = rest.rpartition("@")
        name, colon, password = before.partition(":")
        found = [password if colon else name] if at else []
        found += [part.partition("=")[2] for part in re.split(r"[?#&;]", behind if at else rest)[1:]]
        for raw in found:
            for secret in (raw, unquote(raw), unquote_plus(raw)):
                yield from filter(None, (secret, quote(secret, safe=""), quote_plus(secret), quote(secret)))


def _ambient() -> Iterator[str]:
    """The secrets in this process's environment."""
    for name, value in os.environ.items():
        if _SECRET_NAMES.search(name):
            yield from filter(None, [value.strip()] if len(value) >= 6 else [])
        elif _URL_NAMES.search(name) and ("@" in value or "?" in value):
            yield from _secrets(value.split())


class ConfigError(ValueError):
    """A setting is wrong. The message is one line: key, value, what is allowed; passwords are hidden."""

    def __init__(self, said: object = "", *more: object) -> None:
        super().__init__(hide(str(said)), *more)


class DataError(ValueError):
    """A data set cannot be had, or a file is bad; the message names it, what was expected and what to do."""

    def __init__(self, said: object = "", *more: object) -> None:
        super().__init__(hide(str(said)), *more)


def shown(value: Any) -> str:
    """The value as a message shows it: one line, at most 60 characters, no password."""
    text = hide(repr(value), *([value] if isinstance(value, str) and "//" in value else []))
    return text if len(text) <= 60 else text[:57] + "..."


def choose(key: str, value: Any, allowed: Iterable[str]) -> str:
    """The value, if it is one of the allowed ones; ConfigError with the nearest spelling if it is not."""
    names = list(allowed)
    if value in names:
        return str(value)
    near = difflib.get_close_matches(str(value)[:60], names, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise ConfigError(f"{key}: {shown(value)} is unknown{hint}; one of {', '.join(names)}")
