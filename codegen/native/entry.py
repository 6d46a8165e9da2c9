"""How a native kernel is called: a Python function in machine code, and work shared out to threads.

A kernel is one or more phases, run one after the other. A phase is a number of tasks and a function
`void @body(ptr %p0, …, i64 %begin, i64 %end)` that does the tasks begin … end-1. What a task
computes must not depend on which thread does it, nor on how the tasks are cut into ranges: results
are then the same for every number of threads.

Threads are those of the OpenMP runtime that torch has loaded (`GOMP_parallel`), as many as torch
would use. Each has a part of the tasks, the same in every kernel, so that what it wrote in one is
in its cache in the next; it takes range after range of it, and then helps the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tracejit.codegen.native.builder import Builder, Module, define
from tracejit.codegen.native.types import I1, I32, I64, PTR, Value, const, named
from tracejit.runtime.devices.native import TENSOR_ADDRESS

SHARES = 4  # ranges a thread takes, about: the last ones even out what held others up
LINE = 8  # counters in a cache line
RELEASE_NS = 20_000  # work for which Python's lock is given back


@dataclass(frozen=True)
class Phase:
    """`tasks` calls' worth of work in the function `body`. `grain`: tasks in a range at least, so
    that one is worth a thread; as many as there are tasks: never shared out."""

    body: str
    tasks: int
    grain: int


def add_entry(
    module: Module,
    name: str,
    tensors: int,
    phases: Sequence[Phase],
    work_ns: float,
    scratch: bool = False,
) -> None:
    """Define `@name`, a Python function (METH_FASTCALL) of so many tensors and, with `scratch`, an
    address. Phases' functions get the addresses of all.

    `work_ns`: what the whole costs on one thread, estimated.
    """
    pointers = tensors + scratch
    shared = [p for p in phases if p.grain < p.tasks]
    for phase in shared:
        _add_worker(module, name, pointers, phase)
    builder = Builder(module)
    builder.module.declare_global("_Py_NoneStruct", "external global i8")
    arguments = Value("%args", PTR)
    convert = [TENSOR_ADDRESS] * tensors + ["PyLong_AsVoidPtr"] * scratch
    addresses = [
        builder.call(function, PTR, builder.load(builder.gep(arguments, PTR, k), PTR))
        for k, function in enumerate(convert)
    ]
    release = work_ns >= RELEASE_NS
    state = builder.call("PyEval_SaveThread", PTR) if release else None
    for phase in phases:
        if phase in shared:
            _share_out(builder, name, addresses, phase)
        elif phase.tasks:
            builder.call_void(phase.body, *addresses, 0, phase.tasks)
    if state is not None:
        builder.call_void("PyEval_RestoreThread", state)
    none = Value("@_Py_NoneStruct", PTR)
    builder.call_void("Py_IncRef", none)
    builder.line(f"ret {none}")
    head = f"define ptr @{name}(ptr %self, ptr %args, i64 %count) {{"
    module.add(name, "\n".join([head, *builder.text(), "}"]))


def _share_out(builder: Builder, name: str, addresses: list[Value], phase: Phase) -> None:
    """Run a phase on as many threads as torch uses and the work is worth."""
    ranges = -(-phase.tasks // phase.grain)
    inside = builder.call("_ZN2at18in_parallel_regionEv", I1)
    allowed = builder.call("_ZN2at15get_num_threadsEv", I32)
    allowed = builder.select(inside, 1, allowed)
    threads = builder.smin(allowed, min(ranges, 1 << 20))
    labels = [builder.fresh(n) for n in ("alone", "together")]
    for alone in builder.either(builder.icmp("slt", threads, 2), *labels):
        if alone:
            builder.call_void(phase.body, *addresses, 0, phase.tasks)
        else:
            _together(builder, name, addresses, phase, threads)


def _together(
    builder: Builder, name: str, addresses: list[Value], phase: Phase, threads: Value
) -> None:
    """Run a phase on so many threads."""
    count = builder.cast("sext", threads, I64)
    shares = builder.mul(count, SHARES)
    size = _rounded(builder, _over(builder, const(I64, phase.tasks), shares), phase.grain)
    part = _over(builder, const(I64, phase.tasks), count)
    part = builder.mul(_over(builder, part, size), size)
    counters = builder.let(PTR, f"alloca [{LINE} x i64], {count}, align 64", "counters")
    with builder.loop(0, count, name="thread") as thread:
        builder.store(builder.mul(thread, part), _counter(builder, counters, thread))
    context = builder.alloca(I64, 4 + len(addresses), name="context")
    for k, value in enumerate([size, part, count, counters, *addresses]):
        builder.store(value, builder.gep(context, I64, k))
    worker = Value(f"@{name}.{phase.body}.worker", PTR)
    builder.call_void("GOMP_parallel", worker, context, threads, const(I32, 0))


def _over(builder: Builder, value: Value, by: Value) -> Value:
    """value / by, rounded up."""
    above = builder.add(value, builder.sub(by, 1))
    return builder.binary("udiv", above, by)


def _rounded(builder: Builder, value: Value, unit: int) -> Value:
    """The next multiple of a unit."""
    return builder.mul(_over(builder, value, const(I64, unit)), unit)


def _counter(builder: Builder, counters: Value, thread: Value) -> Value:
    """The address of a thread's next task; each has a cache line of its own."""
    return builder.gep(counters, I64, builder.mul(thread, LINE))


def _add_worker(module: Module, name: str, pointers: int, phase: Phase) -> None:
    """What each thread runs: range after range of its own part, then of the next thread's."""
    builder = Builder(module)
    context, tasks = Value("%context", PTR), const(I64, phase.tasks)
    kinds = [I64, I64, I64, *[PTR] * (1 + pointers)]
    size, part, count, counters, *addresses = [
        builder.load(builder.gep(context, I64, k), kind) for k, kind in enumerate(kinds)
    ]
    me = builder.cast("sext", builder.call("omp_get_thread_num", I32), I64)
    with builder.loop(0, count, name="other") as other:
        whose = builder.binary("urem", builder.add(me, other), count)
        counter = _counter(builder, counters, whose)
        limit = builder.mul(builder.add(whose, 1), part)
        limit = builder.smin(limit, tasks)
        take, work, done = (builder.fresh(n) for n in ("take", "work", "done"))
        builder.jump(take)
        builder.label(take)
        begin = builder.let(I64, f"atomicrmw add {counter}, {size} monotonic")
        builder.branch(builder.icmp("slt", begin, limit), work, done)
        builder.label(work)
        end = builder.smin(builder.add(begin, size), limit)
        builder.call_void(phase.body, *addresses, begin, end)
        builder.jump(take)
        builder.label(done)
    builder.line("ret void")
    worker = f"{name}.{phase.body}.worker"
    head = f"define internal void @{worker}(ptr %context) {{"
    module.add(worker, "\n".join([head, *builder.text(), "}"]))


def add_body(module: Module, name: str, names: Sequence[str], write: Callable[..., None]) -> None:
    """Define a phase's function: `write(builder, pointers, begin, end)` writes it."""
    pointers, (begin, end) = named(PTR, " ".join(names)), named(I64, "begin end")

    def body(b: Builder, *_: Value) -> None:
        write(b, pointers, begin, end)

    define(module, name, [*pointers, begin, end], body, body=True)
