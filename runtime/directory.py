"""The directory of a cache: which one, and whether what lies in it may be trusted.

A cache holds code that is run. So its directory must be this user's, and nobody else may write
there.
"""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

from tracejit.runtime.config import config


def default_directory() -> Path:
    """TRACEJIT_CACHE_DIR, else the platform's directory for caches with `tracejit` in it."""
    if config.cache_dir:
        return Path(config.cache_dir).expanduser()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "tracejit"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "tracejit"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tracejit"


def make(directory: Path) -> str:
    """Make it, only for this user; why it cannot be made, or ""."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as problem:
        return f"cannot be made ({problem.strerror})"
    return ""


def make_private(directory: Path) -> str:
    """Close it to other users where it is open to them; why it may not be used, or "".

    One that others may read and that cannot be closed (a read-only disk) may be used. Raises
    FileNotFoundError.
    """
    try:
        status = os.stat(directory)
    except FileNotFoundError:
        raise
    except OSError as problem:
        return f"cannot be looked at ({problem.strerror})"
    failed = _close(directory) if _open_to_others(status) else ""
    why = refusal(directory)
    return f"{why} and {failed}" if why and failed else why


def _close(directory: Path) -> str:
    try:
        os.chmod(directory, 0o700)
    except OSError as problem:
        return f"cannot be made private ({problem.strerror})"
    return ""


def refusal(directory: Path) -> str:
    """Why the directory may not be used as it is, or "". Changes nothing. Raises
    FileNotFoundError."""
    try:
        status = os.stat(directory)
        return _refusal(status) or _inner_refusal(directory, _open_to_others(status))
    except FileNotFoundError:
        raise
    except OSError as problem:
        return f"cannot be looked at ({problem.strerror})"


def _open_to_others(status: os.stat_result) -> bool:
    """Whether it is a directory of this user, and others may at least look into it."""
    if not hasattr(os, "getuid") or status.st_uid != os.getuid():
        return False
    return stat.S_ISDIR(status.st_mode) and bool(status.st_mode & 0o077)


def stranger(status: os.stat_result) -> str:
    """Whose it is, if not this user's."""
    if hasattr(os, "getuid") and status.st_uid != os.getuid():
        return f"belongs to user {status.st_uid}, and a cache holds code that is run"
    return ""


def _refusal(status: os.stat_result) -> str:
    if not stat.S_ISDIR(status.st_mode):
        return "is not a directory"
    if hasattr(os, "getuid") and status.st_uid == os.getuid() and status.st_mode & 0o022:
        return "may be written by other users, and a cache holds code that is run"
    return stranger(status)


def _inner_refusal(directory: Path, is_open: bool) -> str:
    """The same of the folders in it. A directory that is closed to others protects them, but not
    from who had made them before it was closed."""
    for entry in os.scandir(directory):
        if entry.is_dir():
            status = entry.stat()
            why = _refusal(status) if is_open else stranger(status)
            if why:
                return f"has a folder {entry.name} that {why}"
    return ""
