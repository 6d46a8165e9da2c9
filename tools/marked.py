"""A part of a document that a tool writes: the text between two marks."""

from __future__ import annotations

import sys
from pathlib import Path


def main(document: Path, begin: str, end: str, block: str) -> int:
    """Put `block` between the marks; with --check write nothing and give 1 if it is not there."""
    text = document.read_text()
    head, rest = text.split(begin)
    _, tail = rest.split(end)
    new = head + begin + block + end + tail
    if "--check" in sys.argv:
        return int(new != text)
    document.write_text(new)
    return 0
