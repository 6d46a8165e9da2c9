"""Long statements broken over lines, as a person would break them."""

from __future__ import annotations

WIDTH = 96  # inside a function's indentation
SUBSCRIPT = "[:, None]"


def broken(line: str, width: int = WIDTH) -> list[str]:
    """The statement as lines of at most `width`, if it ends in a call whose arguments can stand on
    lines of their own.
    """
    if len(line) <= width or line.lstrip().startswith("#"):
        return [line]
    line, suffix = _without_suffix(line)
    if not line.endswith(")"):
        return [line + suffix]
    opening = _opening(line)
    if opening <= 0 or not (line[opening - 1].isalnum() or line[opening - 1] == "_"):
        return [line + suffix]
    indent = " " * (len(line) - len(line.lstrip()))
    arguments = split(line[opening + 1 : -1])
    inner = [piece for a in arguments for piece in broken(f"{indent}    {a},", width)]
    return [line[: opening + 1], *inner, f"{indent}){suffix}"]


def _without_suffix(line: str) -> tuple[str, str]:
    """The line, and what follows its last call."""
    for suffix in (SUBSCRIPT, ","):
        if line.endswith(suffix):
            return line.removesuffix(suffix), suffix
    return line, ""


def _opening(line: str) -> int:
    """Where the parenthesis opens that the last character closes."""
    depth = 0
    for position in range(len(line) - 1, -1, -1):
        depth += (line[position] in ")]") - (line[position] in "([")
        if depth == 0:
            return position
    return -1


def split(text: str) -> list[str]:
    """The arguments in a text, by the commas that are outside all brackets."""
    parts, depth, start = [], 0, 0
    for position, character in enumerate(text):
        depth += (character in "([") - (character in ")]")
        if character == "," and depth == 0:
            parts.append(text[start:position].strip())
            start = position + 1
    return [*parts, text[start:].strip()]
