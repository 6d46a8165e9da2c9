"""Tables without lines, which are whole in a narrow terminal and plain in a file."""

from __future__ import annotations

from rich.console import Console
from rich.measure import Measurement
from rich.segment import Segments
from rich.table import Table


def plain_table() -> Table:
    """Columns, and nothing drawn around them."""
    return Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")


def natural_width(table: Table, out: Console) -> int:
    """Columns that it takes if nothing is cut."""
    return Measurement.get(out, out.options.update(max_width=10_000), table).maximum


def print_table(table: Table, out: Console) -> None:
    """No line ends in spaces where they would stay, and no figure is cut in a narrow terminal."""
    if out.is_terminal:
        width = natural_width(table, out)
        whole = out.render(table, out.options.update(width=width, max_width=width))
        out.print(Segments(whole), soft_wrap=True, end="")
        return
    with out.capture() as caught:
        out.print(table)
    for line in caught.get().splitlines():
        out.print(line.rstrip(), soft_wrap=True)
