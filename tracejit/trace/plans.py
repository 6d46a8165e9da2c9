"""How the observer treats each code object that runs: decided once per code object, kept for the
process.
"""

from __future__ import annotations

import dis
import functools
import itertools
import os
import sys
from dataclasses import dataclass, field
from types import CodeType, FrameType
from typing import Any

from tracejit.runtime.origins import (
    CORE,
    LIBRARY,
    OWN,
    STDLIB,
    TORCH,
    USER,
    origin_of_code,
    package_of_file,
)
from tracejit.trace.frames import outward
from tracejit.trace.reads import Reads, analyse

# Folders and files of torch and the standard library whose frames hold state in the objects they
# get.
_SCANNED_TORCH = ("nn/modules/", "nn/utils/", "distributions/", "ao/", "optim/")
_MODULE = "nn/modules/module.py"
# Seen through their callers, or (inner) through MODULE_CALL. The rest walks a module's dicts.
_SKIPPED_IN_MODULE = frozenset(
    ("_wrapped_call_impl", "inner", "__getattr__", "__setattr__", "__delattr__", "__init__")
    + ("remove_from",)
)
# Modules of the standard library whose functions do nothing but compute from what they are given,
# or call functions in C that are looked at themselves. What others know (threads, queues, weak
# sets, paths of files) no guard describes.
_COMPUTING = (
    "__future__ _collections_abc _py_abc _strptime _weakref abc ast base64 bisect calendar cmath "
    "codecs collections colorsys contextlib copy copyreg dataclasses datetime decimal difflib dis "
    "encodings enum fnmatch fractions functools genericpath hashlib heapq html importlib inspect "
    "itertools json keyword linecache math ntpath numbers opcode operator pickle posixpath pprint "
    "random re reprlib shlex sre_compile sre_constants sre_parse stat statistics string struct "
    "textwrap token tokenize traceback types typing unicodedata uuid warnings"
)
_COMPUTES = frozenset(_COMPUTING.split())
_SCANNED_STDLIB = ("copy.py", "collections/__init__.py", "random.py", "types.py")

SKIP, SCAN, MUTE, MODULE_CALL, ENVIRON, LOGGER, RANDOM, REGISTER, TELLING = range(9)

# Functions that are looked at as a whole: the end of a file's name, the treatment, names (all, if
# there are none).
_ROWS = (
    ("torch/nn/modules/module.py", MODULE_CALL, "Module._call_impl"),
    ("torch/nn/modules/module.py", REGISTER, "Module.register_buffer Module.register_parameter"),
    ("/os.py", ENVIRON, "_Environ.__getitem__"),
    ("/os.py", SKIP, "getenv _fspath"),
    ("logging/__init__.py", LOGGER, "Logger.isEnabledFor"),
    ("logging/__init__.py", SKIP, "Logger.debug Logger.info Logger.warning Logger.warn"),
    ("logging/__init__.py", SKIP, "Logger.error Logger.exception Logger.critical Logger.fatal"),
    ("logging/__init__.py", SKIP, "Logger.log debug info warning warn error exception critical"),
    ("logging/__init__.py", SKIP, "fatal log getLogger Logger.getLogger"),
    # Import, and reflection on functions, whose code is guarded anyway: the answer is a function of
    # what they are.
    ("importlib/_bootstrap.py", MUTE, ""),
    ("inspect.py", MUTE, "signature"),
    # They read attributes of what they are given by names that nobody sees.
    ("inspect.py", TELLING, "getattr_static getmembers getmembers_static"),
    ("dataclasses.py", TELLING, "asdict astuple"),
    ("string.py", TELLING, "Formatter.vformat"),
    ("typing.py", MUTE, "get_type_hints"),
    ("re/__init__.py", MUTE, "_compile"),
    ("dataclasses.py", MUTE, "fields"),
    ("torch/_jit_internal.py", MUTE, ""),
    ("torch/random.py", MUTE, "manual_seed"),  # what it does the recorder knows
    # Seeds that are not known, or wait for a device.
    ("torch/random.py", RANDOM, "seed seed_all initial_seed"),
    ("torch/cuda/random.py", RANDOM, "seed seed_all initial_seed manual_seed manual_seed_all"),
)
_QUALIFIED = sys.version_info >= (3, 11)  # whether code objects have qualified names
_SPECIAL = {
    (file, name if _QUALIFIED else name.rpartition(".")[2]): treatment
    for file, treatment, names in _ROWS
    for name in names.split() or ("",)
}


@dataclass(eq=False, slots=True)
class Plan:
    """What to do when a frame of `code` starts."""

    code: CodeType  # kept alive: plans are found by its id
    origin: str
    treatment: int
    reads: Reads | None = None
    loads: frozenset[str] = frozenset()
    args: tuple[str, ...] = ()  # every parameter, `*args` and `**kwargs` too
    first: str = ""  # the first positional parameter
    cells: tuple[str, ...] = ()  # free variables
    is_init: bool = False
    tables: bool = False  # walks the modules, parameters and buffers of its first argument
    package: str = ""  # of a library's code
    asks_others: bool = False  # asks for computed names in others than the first parameter
    versioned: dict[str, Any] = field(default_factory=dict)  # globals that a version covers
    computes: bool = False  # the standard library's: it knows no more than what called it
    nested: tuple[int, ...] = ()  # ids of the code objects of functions defined inside
    # Class attributes that the code may read, by class and whether by computed names.
    classes: dict[tuple[type, bool], tuple[str, ...]] = field(default_factory=dict)


_plans: dict[int, Plan] = {}


def plan_of(code: CodeType) -> Plan:
    """The plan of a code object, made at the first use."""
    plan = _plans.get(id(code))
    if plan is None:
        if len(_plans) > 50_000:  # a program that makes code without end
            _plans.clear()
        plan = _plans[id(code)] = _make(code)
    return plan


def _make(code: CodeType) -> Plan:
    origin = origin_of_code(code)
    treatment = _treatment(code, origin)
    plan = Plan(code, origin, treatment)
    plan.computes = origin == CORE and not _inside(code.co_filename, TORCH)
    plan.nested = tuple(
        id(constant) for constant in code.co_consts if isinstance(constant, CodeType)
    )
    if treatment in (SCAN, MODULE_CALL, REGISTER):
        count = code.co_argcount + code.co_kwonlyargcount
        count += bool(code.co_flags & 0x04) + bool(code.co_flags & 0x08)
        plan.args = code.co_varnames[:count]
        plan.first = code.co_varnames[0] if code.co_argcount else ""
        plan.package = package_of_file(code.co_filename) if origin == LIBRARY else ""
        plan.cells = tuple(name for name in code.co_freevars if name != "__class__")
        plan.is_init = bool(plan.first) and code.co_name == "__init__"
        plan.reads = analyse(code)
        plan.tables = origin == CORE and code.co_filename.endswith(_MODULE)
        plan.asks_others = any(asked.of[0] != plan.first for asked in plan.reads.asked if asked.of)
        plan.loads = frozenset(plan.reads.loads)
        if origin == CORE:
            plan.loads -= {"_modules"}  # torch.nn's containers are opened wholly, for what they are
    return plan


@functools.lru_cache(maxsize=4096)
def _inside(file: str, folder: str) -> str:
    """The path of a file inside a folder; empty if it lies elsewhere."""
    path = os.path.realpath(file)
    return path[len(folder) :].replace(os.sep, "/") if path.startswith(folder) else ""


def _treatment(code: CodeType, origin: str) -> int:
    if origin in (USER, LIBRARY):
        numpy = f"{os.sep}numpy{os.sep}" in code.co_filename
        return SKIP if numpy and origin == LIBRARY else SCAN
    if origin == OWN:
        return SKIP
    name = _file(code)
    qualname: Any = getattr(code, "co_qualname", code.co_name)
    for (file, function), treatment in _SPECIAL.items():
        if name.endswith(file) and function in ("", qualname):
            return treatment
    inside = _inside(code.co_filename, TORCH)
    if inside == _MODULE:
        return SKIP if code.co_name in _SKIPPED_IN_MODULE else SCAN
    if inside:
        return SCAN if inside.startswith(_SCANNED_TORCH) else SKIP
    if name.endswith(_SCANNED_STDLIB):
        return SCAN
    module = _inside(name, STDLIB).partition("/")[0].removesuffix(".py")
    return SKIP if module in _COMPUTES else TELLING


def _file(code: CodeType) -> str:
    """The file of a code object, with "/"; of `<frozen name>` too."""
    name = code.co_filename
    if name.startswith("<frozen "):
        name = STDLIB + name[len("<frozen ") : -1].replace(".", "/") + ".py"
    return name.replace(os.sep, "/")


def is_raising(frame: FrameType) -> bool:
    """Whether a frame ends by a `raise` of its own."""
    reads = plan_of(frame.f_code).reads
    if reads is None or not reads.raises:
        return False
    return frame.f_code.co_code[frame.f_lasti] == dis.opmap["RAISE_VARARGS"]


def is_looked_at(frame: FrameType) -> bool:
    """Whether what a frame raises may be caught, and looked at, by one that called it."""
    plans = (plan_of(each.f_code) for each in outward(frame.f_back))
    inside = itertools.takewhile(lambda plan: plan.origin != OWN, plans)
    return any(plan.reads is not None and plan.reads.catches for plan in inside)


def asked_by(frame: FrameType) -> str:
    """The origin of the code on whose behalf a function of the standard library runs."""
    callers = (plan_of(each.f_code) for each in outward(frame.f_back))
    return next((plan.origin for plan in callers if not plan.computes), OWN)
