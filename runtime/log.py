"""The debugging ladder: what TRACEJIT_DEBUG prints to stderr, and warnings that are shown once.

1 cache hits and times, 2 also fusion groups and refusals, 3 also the program after each pass, 4
also kernel source.
"""

from __future__ import annotations

import sys
import warnings

from tracejit.runtime import forks
from tracejit.runtime.config import config

CACHE, FUSION, PASSES, SOURCE = 1, 2, 3, 4

_shown: set[str] = set()
_lock = forks.Lock()


def enabled(level: int) -> bool:
    """Whether lines of this level are printed: test before building an expensive text."""
    return config.debug >= level


def say(level: int, text: str) -> None:
    """Print `text`, each line marked, if the level is on."""
    if config.debug >= level:
        print("\n".join(f"tracejit| {line}" for line in text.splitlines()), file=sys.stderr)


def warn_once(text: str, category: type[Warning], key: str = "", up: int = 1) -> bool:
    """Warn, once per process for each key (the text by default). True if it was shown.

    `up` says how many frames above the caller the warning belongs to.
    """
    if (key or text) in _shown:
        return False
    with _lock:
        if (key or text) in _shown:
            return False
        _shown.add(key or text)
    warnings.warn(text, category, stacklevel=up + 2)
    return True


def forget() -> None:
    """Let every warning be shown again (for tests)."""
    with _lock:
        _shown.clear()
