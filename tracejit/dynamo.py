"""The door from torch's own compiler: `torch.compile(f, backend="tracejit")`.

Dynamo captures frames as graphs, AOTAutograd makes them functional: one graph for inference, or a
forward and a backward one for training. Each becomes a plain function that tracejit compiles as it
does a user's: its first call runs eagerly and is recorded, later ones run the plan.

torch imports this module when the backend is first named (the entry point in pyproject.toml).
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import PurePath
from types import FunctionType, MethodType
from typing import Any

from torch.fx import GraphModule, Node

from tracejit import api
from tracejit.ir.graph import Origin
from tracejit.runtime import log, private
from tracejit.runtime.config import config
from tracejit.runtime.errors import BadOption, CompilerError, CompilerWarning
from tracejit.trace.origins import PLACES, is_users

OPTIONS = ("backend", "numerics", "wait", "strict")  # of tracejit.compile

Compile = Callable[[Any], Any]
_graphs: list[weakref.ref[Any]] = []


def backend(
    graph: GraphModule,
    inputs: Sequence[Any],
    *,
    mode: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Callable[..., Any]:
    """What torch.compile calls with each graph. `options` are those of tracejit.compile; `mode` is
    a word of Inductor's and changes nothing here.

    A BadOption is raised by the result: what a backend itself raises reaches the user wrapped.
    """
    try:
        wrap = _compiler(options or {})
    except BadOption as error:
        return _raiser(error)
    try:
        return _lowered(graph, inputs, wrap)
    except private.dynamo_exception():  # how parts of Dynamo talk to each other
        raise
    except Exception as error:  # AOTAutograd's, of any type: the graph runs eagerly
        return _eager(graph, error, bool(options and options.get("strict")))


def graphs() -> list[Any]:
    """The compiled graphs that are alive, oldest first, each one for tracejit.explain and
    tracejit.last_traces."""
    _graphs[:] = [ref for ref in _graphs if ref() is not None]
    return [made for ref in _graphs if (made := ref()) is not None]


def _compiler(options: Mapping[str, Any]) -> Compile:
    """tracejit.compile with these options. Raises BadOption."""
    for name in options:
        if name not in OPTIONS:
            raise BadOption(name="options", value=name, legal=", ".join(map(repr, OPTIONS)))
    made: Compile = api.compile(**options)
    return made


def _raiser(error: BadOption) -> Callable[..., Any]:
    def refuse(*args: Any) -> Any:
        raise error

    return refuse


def _lowered(graph: GraphModule, inputs: Sequence[Any], wrap: Compile) -> Callable[..., Any]:
    """The graph, split and made functional by AOTAutograd, each part compiled by `wrap`."""
    from functorch.compile import make_boxed_func, min_cut_rematerialization_partition

    def part(kind: str) -> Callable[[GraphModule, Any], Any]:
        def compiler(part: GraphModule, inputs: Any) -> Any:
            made = wrap(_function(part, kind))
            _graphs.append(weakref.ref(made))
            return make_boxed_func(made)

        return compiler

    lower = private.aot_autograd()(
        fw_compiler=part("forward"),
        bw_compiler=part("backward"),
        inference_compiler=part("inference"),
        partition_fn=min_cut_rematerialization_partition,
        keep_inference_input_mutations=True,  # writes belong to the plan
    )
    lowered: Callable[..., Any] = lower(graph, inputs)
    return lowered


def _eager(graph: GraphModule, error: Exception, strict: bool) -> Callable[..., Any]:
    """The graph as Dynamo captured it, because AOTAutograd failed."""
    name, text = _named(graph), f"{type(error).__name__}: {error}"
    if strict or config.strict:
        raise CompilerError(name=name, stage="AOTAutograd", cause=text) from error
    said = f"AOTAutograd raised {text}; the graph of {name} runs eagerly"
    log.warn_once(said, CompilerWarning, f"{name} AOTAutograd")
    forward: Callable[..., Any] = graph.forward
    return forward


def _function(graph: GraphModule, kind: str) -> MethodType:
    """The graph's code as a method with a name to read, which knows where its lines come from."""
    name = f"{_named(graph)}.{kind}"
    places = dict(_places(graph))  # reads the graph's code: only then a lazy module has its forward
    forward: Any = type(graph).forward
    code = forward.__code__.replace(co_filename="<graph>", co_name=kind)
    known = {**forward.__globals__, PLACES: places}
    made = FunctionType(code, known, kind, forward.__defaults__)
    made.__qualname__, made.__module__ = name, __name__
    return MethodType(made, graph)


def _places(graph: GraphModule) -> Iterator[tuple[int, Origin]]:
    """For each line of the graph's code that computes a node: where the user wrote it."""
    nodes = {node.name: node for node in graph.graph.nodes}
    for number, line in enumerate(graph.code.split("\n"), 1):
        found = re.match(r"\s+(\w+)\b.* = ", line)
        node = nodes.get(found[1]) if found else None
        origin = _origin(node) if node is not None else None
        if origin is not None:
            yield number, origin


def _origin(node: Node) -> Origin | None:
    """The user's line that a node stems from, and the module that it ran for. Where only torch's
    own modules ran: where the innermost one's forward is written."""
    frames = re.findall(r'File "(.+)", line (\d+), in (.+)', node.meta.get("stack_trace") or "")
    user = [frame for frame in frames if is_users(frame[0])]
    modules = _modules(node)
    if user:
        path, line, function = user[-1]
    elif modules and (code := getattr(getattr(modules[-1][1], "forward", None), "__code__", None)):
        path, line, function = code.co_filename, code.co_firstlineno, code.co_name
    else:
        return None
    short = "/".join(PurePath(path).parts[-2:]).lstrip("/")
    return Origin(short, int(line), function, _path(modules))


def _path(modules: list[tuple[str, Any]]) -> str:
    """The path of the innermost module: `layers.0.norm`; "" for the outermost one, or none."""
    path = modules[-1][0] if modules else ""
    return re.sub(r"\['?(\w+)'?\]", r".\1", path).removeprefix("L.").partition(".")[2]


def _modules(node: Node) -> list[tuple[str, Any]]:
    """Path and class of each module around a node, or around what a backward node belongs to."""
    meta = node.meta
    stack = meta.get("nn_module_stack") or meta.get("fwd_nn_module_stack") or {}
    return list(stack.values())


def _named(graph: GraphModule) -> str:
    """The function, or the class of module, that the graph was captured in; "graph" if nothing of
    it tells."""
    for node in graph.graph.nodes:
        trace = node.meta.get("stack_trace") or ""
        frames = re.findall(r'File "(.+)", line \d+, in (.+)', trace)
        function = next((name for path, name in frames if is_users(path)), "")
        path, cls = (_modules(node) or [("", None)])[0]
        if path.startswith("L[") and path.count("[") == 1 and "." not in path:
            return str(getattr(cls, "__name__", cls))
        if function:
            return function
    return "graph"
