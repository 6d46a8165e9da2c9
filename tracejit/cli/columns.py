"""Text in columns, quick enough for ten thousand lines (rich's tables take seconds for that)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import click
from rich.console import Console

_LEAST = 8  # characters that a shortened column keeps
_GAP = 2


class Column(NamedTuple):
    """A column's title; whether it leans to the right; which end is cut, if any, where a terminal
    is too narrow."""

    title: str
    right: bool = False
    cut: str = ""  # "", "end" or "start"

    def cell(self, text: str, width: int) -> str:
        """The text in so many characters."""
        if len(text) > width:
            short = text[len(text) - width + 1 :] if self.cut == "start" else text[: width - 1]
            return f"…{short}" if self.cut == "start" else f"{short}…"
        return text.rjust(width) if self.right else text.ljust(width)


def print_columns(
    out: Console,
    columns: Sequence[Column],
    rows: Sequence[Sequence[str]],
    red: Collection[int] = (),
) -> None:
    """Rows under the columns' titles; those numbered in `red` are red."""
    titles = [column.title for column in columns]
    widths = [max(map(len, cells)) for cells in zip(titles, *rows, strict=True)]
    if out.is_terminal:
        _fit(widths, [i for i, column in enumerate(columns) if column.cut], out.width)
    lines = []
    for row in (titles, *rows):
        cells = (c.cell(text, width) for c, text, width in zip(columns, row, widths, strict=True))
        lines.append((" " * _GAP).join(cells).rstrip())
    colours = out.color_system is not None and not out.no_color
    if colours:
        lines[0] = click.style(lines[0], bold=True)
        for number in red:
            lines[number + 1] = click.style(lines[number + 1], fg="red")
    click.echo("\n".join(lines), color=colours)


def _fit(widths: list[int], flexible: list[int], total: int) -> None:
    """Narrow the widest of the flexible columns, one character at a time, until all fit."""
    while sum(widths) + _GAP * (len(widths) - 1) > total:
        widest = max(flexible, key=widths.__getitem__)
        if widths[widest] <= _LEAST:
            return
        widths[widest] -= 1
