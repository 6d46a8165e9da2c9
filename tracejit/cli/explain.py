"""`tracejit explain MODULE:FUNCTION`: call it, and show what became of it and why."""

from __future__ import annotations

import importlib.util
import re
import sys
import textwrap
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem
from rich.text import Text

from tracejit.cli import locate, terminal
from tracejit.runtime import targets
from tracejit.runtime.config import TARGET, config, legal
from tracejit.runtime.errors import MissingExtra, TracejitError

if TYPE_CHECKING:
    from rich.console import Console

    from tracejit.report import Explanation

BACKEND = click.Choice(list(targets.BACKENDS))
OFFLINE = "cuda:90"  # what is compiled for, if there is no GPU and nothing else was asked for

HELP = """\b
Examples:
  tracejit explain model.py:forward --args 'torch.randn(4, 8), scale=2.0'
  tracejit explain model.py:forward --args 'torch.randn(4, 8)' --args 'torch.randn(2, 8)'
  tracejit explain package.module:Net --inputs package.module:batch --guards
  tracejit explain model.py:Net.encode --inputs batch --target cuda:90 --source
  tracejit explain model.py:forward            what the disk cache holds for it

\b
FUNCTION is a function, a method, an nn.Module (an instance, or a class that needs no
arguments), or what tracejit.compile returned; a dotted path leads into classes and instances.
Several --args are called in turn, so that it shows why the second is compiled again.
Kernels are those of this machine; where nothing can be compiled for it (no GPU, no llvmlite)
they are compiled for cuda:90, and calls run eagerly.

\b
JSON: {"schema": 1, "name", "backend", "entries", "fallbacks", "parts", "recompiled"}
  entries     [{"source": "recorded" | "disk" | "stored", "state", "target", "plan", "record",
              "hits", "seconds", "program", "guards", "ambient", "libraries", "sharing",
              "plan_text", "graph"}]
    program   {"ops": {op: count}, "captured": [{"value", "op", "line", "result"}],
              "kernels": [{"name", "launches", "lines", "strategy", "reads", "writes", "key",
              "grid", "warps", "tiles", "registers", "spills", "shared", "machine_code",
              "compile_seconds", "text"}], "library": [{"op", "line"}], "refused" and "fused":
              [{"reason", "bytes_saved", "between": two lists of {"value", "name", "op", "line"}}],
              "launches", "calls", "bytes": {"read", "written", "peak", "allocated"},
              "stages": [{"name", "seconds"}]}
    guards    [{"path", "check", "expected", "text"}]
  fallbacks   calls that ran eagerly: [{"kind", "text", "place", "about"}]
  parts       calls compiled on their own, because the whole runs eagerly: the same again
  recompiled  why each further entry was needed, the guard that did not hold or the decision
              that fell otherwise: [{"entry", "path", "check", "was", "now", "text"}]
"""


def files(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The shell completes the name of a file."""
    return [CompletionItem(incomplete, type="file")]


@click.command(epilog=HELP)
@click.argument("function", metavar="MODULE:FUNCTION", shell_complete=files)
@click.option("--args", "expressions", multiple=True, help="Arguments, as Python writes them.")
@click.option("--inputs", metavar="[MODULE:]MAKER", help="A function that makes the arguments.")
@click.option("--backend", type=BACKEND, help="As in tracejit.compile.")
@click.option("--target", help="Compile for it, as TRACEJIT_TARGET does: cuda:90, hip:gfx942.")
@click.option("--calls", type=click.IntRange(1), default=2, show_default=True, help="How often.")
@click.option("--grad/--no-grad", default=False, help="Call with gradients on (default: off).")
@click.option("--source", is_flag=True, help="Show the text of the plan and of its kernels.")
@click.option("--graph", is_flag=True, help="Show the operations as recorded, and after passes.")
@click.option("--guards", is_flag=True, help="Show every guard.")
@terminal.json_option
def explain(
    function: str,
    expressions: tuple[str, ...],
    inputs: str | None,
    backend: str | None,
    target: str | None,
    calls: int,
    grad: bool,
    source: bool,
    graph: bool,
    guards: bool,
    as_json: bool,
) -> None:
    """Call a function with arguments, and show what was captured, each kernel with its lines, each
    refusal and fallback with its reason, each guard, and why it was last compiled again."""
    if expressions and inputs:
        raise click.UsageError("--args and --inputs both give the arguments: use one of them")
    check(backend, target)
    name, path = locate.split(function)
    with users_code(as_json):
        module = locate.module(name)
        found = locate.attribute(module, path)
        given = bool(expressions or inputs)
        if not given and locate.required(found):
            report = stored(found, target or "")
        else:
            arguments = [arguments_of(module, e, inputs) for e in (expressions or ("",)) * calls]
            report = called(found, arguments, backend, target, grad)
    if as_json:
        terminal.print_json(report.to_json())
    else:
        show(report, terminal.console(), guards=guards, graph=graph, source=source)
        _advise(report, given, function)


def check(backend: str | None, target: str | None) -> None:
    """Raises click.UsageError for a target that is none or a backend that this version lacks,
    MissingExtra for one whose packages are not installed."""
    if target is not None and not TARGET.fullmatch(target):
        raise click.UsageError(f"--target {target!r} is none of {legal('target')}")
    if backend == "interpret" and importlib.util.find_spec("numpy") is None:
        raise MissingExtra(what="backend='interpret'", packages="numpy", extra="cpu")
    if backend == "native":
        missing = targets.choose(backend, "cpu").reason
        if missing is not None:
            raise click.UsageError(f"--backend native: {missing.text}")


@contextmanager
def users_code(as_json: bool) -> Iterator[None]:
    """What the user's own code raises is shown as Python would, without our frames; exit status 1.
    What it prints does not come between the JSON."""
    try:
        with redirect_stdout(sys.stderr if as_json else sys.stdout):
            yield
    except (click.ClickException, click.Abort, click.exceptions.Exit, TracejitError):
        raise
    except BrokenPipeError:  # nobody reads what it prints
        raise
    except Exception as error:  # the user's program's
        sys.stdout.flush()
        traceback.print_exception(type(error), error, _without_ours(error.__traceback__))
        raise click.exceptions.Exit(1) from None
    except SystemExit as end:
        raise click.UsageError(f"the program ended itself (exit status {end.code})") from None


def _without_ours(frames: TracebackType | None) -> TracebackType | None:
    """The traceback from the user's first frame on; all of it if the fault is in ours."""
    own = str(Path(__file__).parents[1])
    found, at, ours = None, frames, True
    while at is not None:
        file = at.tb_frame.f_code.co_filename
        ours = file.startswith(own)
        if found is None and not ours and "importlib" not in file:
            found = at
        at = at.tb_next
    return frames if ours else found


def arguments_of(module: ModuleType, expression: str, inputs: str | None) -> locate.Arguments:
    """Those of one call: of an expression, or of a maker (in the same module if it names none)."""
    if inputs is None:
        return locate.evaluated(expression, module)
    other, _, path = inputs.rpartition(":")
    return locate.made(locate.attribute(locate.module(other) if other else module, path))


def stored(function: Any, target: str) -> Explanation:
    """What the disk cache holds for the function, or the module's class."""
    from tracejit.api import is_compiled, plain
    from tracejit.ondisk import on_disk

    return on_disk(plain(function) if is_compiled(function) else function, target)


def called(
    function: Any,
    arguments: list[locate.Arguments],
    backend: str | None,
    target: str | None,
    grad: bool,
) -> Explanation:
    """The report after these calls."""
    import torch

    from tracejit import report
    from tracejit.runtime.worker import worker

    for each in arguments:
        locate.fits(function, each)
    compiled = _compiled(function, backend, target)
    with torch.set_grad_enabled(grad):
        for args, kwargs in arguments:
            compiled(*args, **kwargs)
            worker.drain()  # so that the next call finds what this one left
    return report.explain(compiled)


def _compiled(function: Any, backend: str | None, target: str | None) -> Any:
    """The function compiled as asked for; one that is compiled already as it is, if nothing was
    asked for."""
    from tracejit import api

    if target is not None:
        config.target = target
    elif backend is None and not config.target and nothing_here():
        config.target = OFFLINE
    own = api.dispatcher_of(function).options.backend if api.is_compiled(function) else "auto"
    chosen = backend or (targets.backend_for(config.target) if target or own == "auto" else own)
    if api.is_compiled(function):
        if chosen == own:
            return function
        return api.wrap(function, replace(api.dispatcher_of(function).options, backend=chosen))
    return api.compile(function, backend=chosen)


def nothing_here() -> bool:
    """Whether this machine has neither a GPU nor what native kernels need."""
    return targets.only_cpu() and targets.choose("auto", "cpu").reason is not None


STYLES = (  # of lines in a terminal, by how they begin; the first that fits
    (re.compile(r"\S.*: \d+ (compiled|stored) entr"), "bold"),
    (re.compile(r"entry \d+"), "bold"),
    (re.compile(r"last specialised again|calls that ran eagerly|  not fused"), "yellow"),
    (re.compile(r" {4}(and, listed|\(|torch's state|versions|(  )?\S+\.py:\d+)"), "dim"),
)


def styled(line: str) -> Text:
    """A line of the report, with a little colour."""
    return Text(line, next((style for begins, style in STYLES if begins.match(line)), ""))


def wrapped(line: str, width: int) -> str:
    """The line broken at spaces, the rest of it further in."""
    if len(line) <= width:
        return line
    inside = " " * (len(line) - len(line.lstrip()) + 4)
    return textwrap.fill(
        line, width, subsequent_indent=inside, break_long_words=False, break_on_hyphens=False
    )


def show(report: Explanation, out: Console, *, guards: bool, graph: bool, source: bool) -> None:
    """The report for people, then the texts that were asked for."""
    from tracejit import reporttext

    for line in "\n".join(reporttext.lines(report, guards, rest="listed by --guards")).split("\n"):
        out.print(styled(wrapped(line, out.width)), soft_wrap=True)
    for number, entry in enumerate(report.entries):
        if graph and entry.graph:
            out.print(f"\ngraph of entry {number}", style="bold")
            terminal.source(out, entry.graph)
        if source and entry.plan_text:
            texts = {"plan": entry.plan_text, **entry.kernel_texts}
            for name, text in texts.items():
                out.print(f"\n{name} of entry {number}", style="bold")
                terminal.source(out, text)


def _advise(report: Explanation, given: bool, function: str) -> None:
    """How to give arguments, after what was found on disk."""
    if report.backend or given:
        return
    from tracejit.runtime import cache

    if not report.entries:
        click.echo(f"nothing is stored for it in {cache.shared().store.directory}")
    click.echo(
        f"\nNot called, since it needs arguments. To call it:\n"
        f"  tracejit explain {function} --args 'torch.randn(4, 8)'"
    )
