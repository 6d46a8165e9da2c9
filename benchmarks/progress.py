"""What is running, how far, and how long it may still take: on standard error."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TaskID, TextColumn
from rich.progress import Progress as Bar


class Progress:
    """A bar in a terminal, else a line for each step."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self.steps: Sequence[tuple[str, float]] = ()
        self.began = 0.0
        self.bar: Bar | None = None
        self.task = TaskID(0)

    @contextlib.contextmanager
    def over(self, steps: Sequence[tuple[str, float]]) -> Iterator[None]:
        """Show the progress of steps, each in words and with the seconds that it may take."""
        self.steps, self.began = steps, time.monotonic()
        out = Console(stderr=True, highlight=False, markup=False)
        if self.quiet or not out.is_terminal:
            yield
            return
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.completed}/{task.total}, {task.fields[left]}"),
        )
        with Bar(*columns, console=out, transient=True) as self.bar:
            self.task = self.bar.add_task("", total=len(steps), left="")
            yield

    def begin(self, place: int) -> None:
        """Step number `place` begins."""
        words, left = self.steps[place][0], self.left(place)
        if self.bar is not None:
            self.bar.update(self.task, description=words, completed=place, left=left)
        elif not self.quiet:
            count = len(self.steps)
            print(f"[{place + 1:{len(str(count))}}/{count}] {words} ({left})", file=sys.stderr)

    def left(self, place: int) -> str:
        """The time that remains before step `place`: what was guessed, scaled by how it went so
        far."""
        done = sum(weight for _, weight in self.steps[:place])
        pace = (time.monotonic() - self.began) / done if done else 1.0
        seconds = pace * sum(weight for _, weight in self.steps[place:])
        words = f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
        return f"about {words} left"
