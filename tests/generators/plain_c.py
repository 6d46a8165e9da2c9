"""A generator and a device beside the package's own: loop nests as plain loops in C, compiled by
the system's compiler. `register` adds their rows to the tables; nothing else knows of them.

Each reduction is a loop of its own over the columns. Values of half types are floats, rounded after
each operation; sums and products of floats accumulate in double.
"""

import ctypes
import functools
import subprocess
import tempfile
from pathlib import Path

from tracejit.codegen.generators import ROWS
from tracejit.fuse.index import Axis, FloorDiv, Index, Indirect, linear
from tracejit.fuse.loopnest import LoopNest, Store, kernel_source
from tracejit.fuse.reductions import identity, without_columns
from tracejit.fuse.scalar import REDUCTIONS, SCANS, NoRule, Scalar, in_order
from tracejit.ir.dtypes import FLOATS, HALVES
from tracejit.runtime.devices import DEVICES
from tracejit.runtime.devices.base import check_spans
from tracejit.runtime.kernel import Binary
from tracejit.runtime.targets import BACKENDS, Choice

COMMAND = ["cc", "-x", "c", "-std=gnu11", "-O1", "-shared", "-fPIC", "-fwrapv", "-ffp-contract=off", "-", "-lm", "-o"]
HEAD = r"""
#include <stdbool.h>
#include <stdint.h>
#include <tgmath.h>  // exp(x) is a float if x is one
#define inf INFINITY
#define nan NAN
typedef _Float16 f16;
typedef uint16_t bf16;
static float from_f16(f16 x) { return x; }
static f16 to_f16(float x) { return x; }
static float from_bf16(bf16 x) { return (union { uint32_t i; float f; }){(uint32_t)x << 16}.f; }
static bf16 to_bf16(float x) {
    uint32_t bits = (union { float f; uint32_t i; }){x}.i;
    return x != x ? 0x7fc0 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
static int64_t floor_div(int64_t x, int64_t y) { return x / y - (x % y < 0); }
static int64_t floor_mod(int64_t x, int64_t y) { return x % y + (x % y < 0 ? y : 0); }
static double erf_inverse(double y) {  // a guess, then Newton's steps
    if (!(fabs(y) < 1)) return fabs(y) == 1 ? y * INFINITY : NAN;
    double l = log1p(-y * y), t = 4.3307 + l / 2;
    double x = copysign(sqrt(fmax(sqrt(t * t - l / 0.147) - t, 0.0)), y);
    for (int k = 0; k < 5; k++) x -= (erf(x) - y) / (M_2_SQRTPI * exp(-x * x));
    return x;
}
static int32_t philox(int64_t place, int64_t key) {  // Philox-4x32-10
    uint32_t a = place >> 2, b = place >> 34, c = 0, d = 0, u = key, v = key >> 32;
    for (int k = 0; k < 10; k++, u += 0x9E3779B9, v += 0xBB67AE85) {
        uint64_t p = a * 0xD2511F53ull, q = c * 0xCD9E8D57ull;
        a = (q >> 32) ^ b ^ u, b = q, c = (p >> 32) ^ d ^ v, d = p;
    }
    return ((uint32_t[]){a, b, c, d})[place & 3];
}
"""
MEMORY = {"f64": "double", "f32": "float", "f16": "f16", "bf16": "bf16", "bool": "bool"}
MEMORY |= {f"{s}{n}": f"{s.strip('i')}int{n}_t" for s in "iu" for n in (8, 16, 32, 64)}
REGISTER = MEMORY | dict.fromkeys(HALVES, "float")
TO, FROM = (
    dict.fromkeys(MEMORY, "{}") | {dtype: f"{way}_{dtype}({{}})" for dtype in HALVES}
    for way in ("to", "from")
)
SIGNS = ["add", "+", "sub", "-", "mul", "*", "div", "/", "idiv", "/", "imod", "%", "eq", "==", "ne", "!=", "lt", "<", "le", "<=", "gt", ">", "ge", ">=", "shl", "<<", "shr", ">>", "and", "&", "or", "|", "xor", "^"]
ONE = ["exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sqrt", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh", "erf", "erfc", "lgamma", "floor", "ceil", "trunc", "isnan", "signbit"]
TWO = ["fmod", "fmin", "fmax", "pow", "atan2", "hypot", "copysign", "nextafter", "philox"]
RULES = {
    **{word: f"{{0}} {sign} {{1}}" for word, sign in zip(SIGNS[::2], SIGNS[1::2], strict=True)},
    **{word: f"{word}({{0}})" for word in ONE},
    **{word: f"{word}({{0}}, {{1}})" for word in TWO},
    "neg": "-{0}",
    "abs": "{0} <= 0 ? 0 - {0} : {0}",
    "not": "({T})-1 ^ {0}",
    "minimum": "{0} != {0} || {0} < {1} ? {0} : {1}",
    "maximum": "{0} != {0} || {0} > {1} ? {0} : {1}",
    "where": "{0} ? {1} : {2}",
    "rsqrt": "1 / sqrt({0})",
    "erfinv": "erf_inverse({0})",
    "round": "rint({0})",
}
FIRST = {  # is {0} beyond {1}?
    "argmax": "{0} > {1} || ({0} != {0} && {1} == {1})",
    "argmin": "{0} < {1} || ({0} != {0} && {1} == {1})",
}


def register():
    """Add a row to each table. The targets that run here: none if `cc` does not know half types."""
    ROWS["c"] = (__name__, __name__)
    DEVICES["c"] = __name__
    BACKENDS["c"] = lambda device: Choice("c")
    try:
        return ["c"] if library("") else []
    except (OSError, subprocess.CalledProcessError):
        return []


def generate(nest, name, *, target):
    """The kernel's source: for each row its own values in order, then what it stores."""
    text = f"// {name}\n{HEAD}\n{Writer(without_columns(nest)).text()}"
    return kernel_source(nest, name, text, target, "loops in C")


class Writer:
    def __init__(self, nest: LoopNest):
        self.nest, self.columns = nest, [Index.of(axis) for axis in nest.reduction]
        self.names = {scalar.key: f"t{n}" for n, scalar in enumerate(nest.body())}
        self.varies = set()  # what has another value in each column
        for scalar in nest.body():
            over = scalar.op == "scan" or any(d.key in self.varies for d in scalar.deps())
            if scalar.op != "reduce" and (over or any(a.reduce for a in scalar.axes())):
                self.varies.add(scalar.key)

    def text(self):
        params = ", ".join(f"{MEMORY[b.dtype]} *{b.name}_" for b in self.nest.buffers)
        rows = [s for s in self.nest.body() if s.key not in self.varies]
        lines = [line for scalar in rows for line in self.row(scalar)]
        lines += [line for store in self.nest.stores for line in self.stored(store)]
        loops = map(loop, self.nest.parallel)
        return "\n".join([f"void run({params})", "{", *loops, "{", *lines, "}", "}", ""])

    def row(self, scalar):
        if scalar.op != "reduce":
            return [self.statement(scalar)]
        inside = self.loops(scalar.args, self.combine(scalar))
        return [self.begin(scalar), *inside, self.statement(scalar)]

    def stored(self, store: Store):
        value = TO[store.value.dtype].format(self.names[store.value.key])
        when = "" if store.mask is None else f"if ({self.names[store.mask.key]}) "
        text = f"{when}{store.buffer}_[{self.index(store.index)}] = {value};"
        across = any(a.reduce for a in store.index.axes())
        across = across or any(need.key in self.varies for need in store.needs)
        return self.loops(store.needs, text) if across else [text]

    def loops(self, needs, last):
        """Over the columns: what is needed, then `last`."""
        inside = [s for s in in_order(needs) if s.key in self.varies]
        scans = [s for s in inside if s.op == "scan"]
        steps = [self.combine(s) * (s in scans) + self.statement(s) for s in inside]
        loops = map(loop, self.nest.reduction)
        return ["{", *map(self.begin, scans), *loops, "{", *steps, last, "}", "}"]

    def begin(self, scalar):
        """What a reduction or a scan starts with."""
        total, dtype = self.names[scalar.key], scalar.args[0].dtype
        wide = "f64" if dtype in FLOATS and scalar.arg in ("sum", "prod") else dtype
        text = f"{REGISTER[wide]} {total}_ = {literal(identity(scalar.arg, dtype), dtype)};"
        return text + f" int64_t {total}_at = -1;" * (scalar.arg in FIRST)

    def combine(self, scalar):
        """One more element for a reduction or a scan."""
        total, new = self.names[scalar.key], self.names[scalar.args[0].key]
        if scalar.arg in FIRST:
            place = self.index(linear(self.columns, [a.size for a in self.nest.reduction]))
            better = FIRST[scalar.arg].format(new, f"{total}_")
            return f"if ({total}_at < 0 || {better}) {total}_ = {new}, {total}_at = {place};"
        word = (REDUCTIONS if scalar.op == "reduce" else SCANS)[scalar.arg]
        return f"{total}_ = {apply(word, scalar.dtype, f'{total}_', new)};"

    def statement(self, scalar):
        return f"{REGISTER[scalar.dtype]} {self.names[scalar.key]} = {self.expression(scalar)};"

    def expression(self, scalar: Scalar):
        op, dtype, operands = scalar.op, scalar.dtype, [self.names[a.key] for a in scalar.args]
        if op == "index":
            return self.index(scalar.arg)
        if op == "load":
            text = FROM[dtype].format(f"{scalar.arg.buffer}_[{self.index(scalar.arg.index)}]")
            return f"{operands[0]} ? {text} : 0" if operands else text
        if op == "bitcast":
            old = scalar.args[0].dtype
            union = f"union {{ {MEMORY[old]} x; {MEMORY[dtype]} y; }}"
            return FROM[dtype].format(f"({union}){{{TO[old].format(*operands)}}}.y")
        if op == "cast":
            text = f"{operands[0]} != 0" if dtype == "bool" else operands[0]
        elif op in ("reduce", "scan"):
            text = self.names[scalar.key] + ("_at" if scalar.arg in FIRST else "_")
        elif op == "const":
            text = literal(scalar.arg, dtype)
        else:
            text = apply(op, scalar.args[-1].dtype, *operands)
        return FROM[dtype].format(TO[dtype].format(text))  # halves are rounded

    def index(self, index: Index):
        return " + ".join([*(f"{self.atom(a)} * {c}ll" for a, c in index.terms), f"{index.const}ll"])

    def atom(self, atom):
        if isinstance(atom, (Axis, Indirect)):
            return f"at_{atom.name}" if isinstance(atom, Axis) else self.names[atom.scalar.key]
        word = "floor_div" if isinstance(atom, FloorDiv) else "floor_mod"
        return f"{word}({self.index(atom.index)}, {atom.divisor})"


def loop(axis: Axis):
    return f"for (int64_t at_{axis.name} = 0; at_{axis.name} < {axis.size}; at_{axis.name}++)"


def apply(word, dtype, *operands):
    if word not in RULES:
        raise NoRule("C", word, dtype)
    return RULES[word].format(*operands, T=REGISTER[dtype])


def literal(value, dtype):
    return f"({REGISTER[dtype]}){value if dtype in FLOATS else int(value)}"


def compile_kernels(sources, *, target):
    return (Binary(library(source.text), "shared object") for source in sources)


@functools.cache
def library(text):
    with tempfile.NamedTemporaryFile(suffix=".so") as file:
        source = (text or HEAD).encode()
        subprocess.run([*COMMAND, file.name], input=source, capture_output=True, check=True)
        return Path(file.name).read_bytes()


class PlainC:
    def load(self, source, binary=None):
        if binary is None:
            raise ValueError(f"{source.name} has no machine code")
        with tempfile.NamedTemporaryFile(suffix=".so") as file:
            Path(file.name).write_bytes(binary.code)
            run = ctypes.CDLL(file.name).run

        def launch(*tensors):
            check_spans(source, tensors)
            run(*(ctypes.c_void_p(t.data_ptr()) for t in tensors))

        return launch

    def synchronize(self):
        pass


load = PlainC().load
