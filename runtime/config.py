"""Every environment variable of tracejit, in one table, checked when tracejit is first used.

`config` holds the values in force; tests set its fields. What changes generated code is part of
every cache key.
"""

from __future__ import annotations

import difflib
import os
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tracejit.runtime.errors import BadSetting, SettingWarning

TARGET = re.compile(
    r"(interpret|reference|native:(avx512|avx2|neon)|cuda:\d{2,3}|hip:gfx[0-9a-f]{3,4})"
)


@dataclass(frozen=True)
class Flag:
    """One environment variable: the field of `Config` it sets, its legal values in words, what it
    is for."""

    name: str
    field: str
    legal: str
    about: str
    parse: Callable[[str], Any]  # raises ValueError for a value that is not legal


def _switch(text: str) -> bool:
    if text not in ("0", "1"):
        raise ValueError(text)
    return text == "1"


def _level(text: str) -> int:
    if text not in ("0", "1", "2", "3", "4"):
        raise ValueError(text)
    return int(text)


def _target(text: str) -> str:
    if text and not TARGET.fullmatch(text):
        raise ValueError(text)
    return text


def size_of(text: str) -> int:
    """Bytes: `500`, `20KB`, `1.5GiB` (powers of 1024). Raises ValueError for anything else."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?\s*", text, re.I)
    if found is None:
        raise ValueError(text)
    return int(float(found[1]) * 1024 ** " kmgt".index(found[2].lower() or " "))


FLAGS: tuple[Flag, ...] = (
    Flag("TRACEJIT_CACHE_DIR", "cache_dir", "a directory", "where compiled programs are kept", str),
    Flag(
        "TRACEJIT_CACHE_LIMIT",
        "cache_limit",
        "a size such as 500MB or 4GiB",
        "what the cache may take on disk; what was used longest ago is removed first",
        size_of,
    ),
    Flag(
        "TRACEJIT_DEBUG",
        "debug",
        "0, 1, 2, 3 or 4",
        "what is printed to stderr: 1 cache hits and times, 2 also fusion groups and refusals, "
        "3 also the program after each pass, 4 also kernel source",
        _level,
    ),
    Flag(
        "TRACEJIT_STRICT",
        "strict",
        "0 or 1",
        "a call that can only run eagerly is an error",
        _switch,
    ),
    Flag(
        "TRACEJIT_TARGET",
        "target",
        "cuda:<sm>, hip:<gfx>, native:<avx512, avx2 or neon>, interpret or reference",
        "compile for this GPU or CPU; where it is not there: store it, run eagerly",
        _target,
    ),
    Flag("TRACEJIT_VERIFY", "verify", "0 or 1", "check the program between passes", _switch),
)


@dataclass
class Config:
    """The settings in force. Field names are those of FLAGS."""

    cache_dir: str = ""  # empty: the platform's cache directory
    cache_limit: int = 4 << 30  # bytes
    debug: int = 0
    strict: bool = False
    target: str = ""
    verify: bool = False


def legal(field: str) -> str:
    """The legal values of a setting in words."""
    return next(flag.legal for flag in FLAGS if flag.field == field)


def read(environ: Mapping[str, str]) -> Config:
    """The settings that `environ` asks for.

    Raises BadSetting for an illegal value; warns of a name that begins with TRACEJIT_ and is none
    of ours.
    """
    settings = Config()
    for flag in FLAGS:
        if flag.name in environ:
            setattr(settings, flag.field, _parse(flag, environ[flag.name]))
    _warn_of_unknown(environ)
    return settings


def _parse(flag: Flag, text: str) -> Any:
    try:
        return flag.parse(text)
    except ValueError:
        raise BadSetting(name=flag.name, value=text, legal=flag.legal, about=flag.about) from None


def _warn_of_unknown(environ: Mapping[str, str]) -> None:
    known = [flag.name for flag in FLAGS]
    for name in environ:
        if name.startswith("TRACEJIT_") and name not in known:
            near = difflib.get_close_matches(name, known, 1)
            meant = f"; did you mean {near[0]}?" if near else f"; known are {', '.join(known)}"
            warnings.warn(
                f"{name} is not a setting of tracejit{meant}", SettingWarning, stacklevel=3
            )


config = read(os.environ)
