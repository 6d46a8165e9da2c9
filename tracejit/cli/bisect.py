"""`tracejit bisect MODULE:FUNCTION`: which stage makes its result differ from eager's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from tracejit.cli import locate, terminal
from tracejit.cli.explain import arguments_of, check, files, users_code
from tracejit.runtime import targets

if TYPE_CHECKING:
    from tracejit.check import Checked

HELP = """\b
Examples:
  tracejit bisect model.py:forward --args 'torch.randn(4, 8), scale=2.0'
  tracejit bisect package.module:Net --inputs package.module:batch
  tracejit bisect model.py:f --args 'torch.randn(8)' --backend interpret

\b
FUNCTION, --args and --inputs are as for tracejit explain. Stages are asked in the order in which
data passes them: the recorder, each pass over the graph, each kernel (given eager's own values),
the compiled call. The first that differs by more than torch.testing allows is at fault.

\b
JSON: {"schema": 1, "target", "stages", "fault"}
  stages  [{"stage", "kernel", "difference", "wrong"}], as far as they were asked
  fault   the last of them, or null if all agree

Exit status: 1 if a stage is at fault.
"""


@click.command(epilog=HELP)
@click.argument("function", metavar="MODULE:FUNCTION", shell_complete=files)
@click.option("--args", "expression", help="Arguments, as Python writes them.")
@click.option("--inputs", metavar="[MODULE:]MAKER", help="A function that makes the arguments.")
@click.option(
    "--backend",
    type=click.Choice([name for name in targets.BACKENDS if name != "eager"]),
    default="auto",
    help="As in tracejit.compile.",
)
@terminal.json_option
def bisect(
    function: str, expression: str | None, inputs: str | None, backend: str, as_json: bool
) -> None:
    """Find the stage that makes a result differ from eager's, and the kernel."""
    if expression is not None and inputs:
        raise click.UsageError("--args and --inputs both give the arguments: use one of them")
    check(backend, None)
    name, path = locate.split(function)
    asked: list[Checked] = []
    with users_code(as_json):
        module = locate.module(name)
        found = locate.attribute(module, path)
        arguments = arguments_of(module, expression or "", inputs)
        locate.fits(found, arguments)
        import torch

        with torch.no_grad():
            target, stages = compared(found, arguments, backend)
            for stage in stages:
                asked.append(stage)
                if not as_json:
                    click.echo(f"{stage.kernel or stage.stage:24} {verdict(stage)}")
                if stage.wrong:
                    break
    fault = asked[-1] if asked[-1].wrong else None
    if as_json:
        data = {"target": target, "stages": [vars(stage) for stage in asked]}
        terminal.print_json({**data, "fault": vars(fault) if fault else None})
    else:
        click.echo("\n" + conclusion(fault, target))
    if fault is not None:
        raise click.exceptions.Exit(1)


def compared(
    function: Any, arguments: locate.Arguments, backend: str
) -> tuple[str, Iterator[Checked]]:
    """The target and its stages. Raises click.UsageError where the call cannot be compiled here."""
    from tracejit.api import is_compiled, plain
    from tracejit.check import Check

    args, kwargs = arguments
    function = plain(function) if is_compiled(function) else function
    choice = targets.choose(backend, targets.device_of(args, kwargs, function))
    if choice.reason is not None or choice.offline:
        raise click.UsageError(f"nothing to compare: {choice.reason or choice.target}")
    try:
        made = Check(function, args, kwargs, choice.target)
    except ValueError as refused:
        raise click.UsageError(str(refused)) from None
    return choice.target, made.stages()


def verdict(stage: Checked) -> str:
    """`off by 3e-08`, and whether that is too much."""
    off = f"off by {stage.difference:.1e}" if stage.difference else "equal"
    return f"WRONG: {off}" if stage.wrong else off


def conclusion(fault: Checked | None, target: str) -> str:
    """Where to look."""
    if fault is None:
        return f"every stage agrees with eager, compiled for {target}"
    lines = [f"at fault: {fault.stage}" + (f", kernel {fault.kernel}" if fault.kernel else "")]
    lines += [f"  {line}" for line in fault.wrong.splitlines() if line]
    return "\n".join([*lines, f"  {advice(fault.stage)}"])


def advice(stage: str) -> str:
    """What to look at where a stage is at fault."""
    from tracejit.check import CALL, GENERATOR, NEST, RECORDER

    found = {
        RECORDER: "what was recorded, run by torch, differs from the call itself",
        NEST: "the nest in plain torch differs too: backend='reference' reproduces it",
        GENERATOR: "the nest in plain torch is right, its machine code is not: TRACEJIT_DEBUG=4 "
        "prints the kernel",
        CALL: "each kernel is right by itself: guards, the plan, or what the disk holds "
        "(tracejit cache clear)",
    }
    return found.get(stage, "a pass over the graph: TRACEJIT_DEBUG=3 prints the graph after each")
