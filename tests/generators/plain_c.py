"""A generator and a device beside the package's own: loop nests as plain loops in C, compiled by
the system's compiler. `register` adds their rows to the tables; nothing else knows of them.

Each reduction is a loop of its own over the columns. Halves are floats, rounded after each word.
"""

import ctypes
import functools
import re
import subprocess
import tempfile
from pathlib import Path

from tracejit.codegen.generators import ROWS
from tracejit.fuse.index import Axis, Index, Indirect, linear
from tracejit.fuse.loopnest import kernel_source
from tracejit.fuse.reductions import identity, reduced_as, without_columns
from tracejit.fuse.scalar import REDUCTIONS, NoRule, in_order
from tracejit.ir.dtypes import FLOATS, HALVES
from tracejit.runtime.devices import DEVICES, base
from tracejit.runtime.kernel import Binary

COMMAND = "cc -x c -O1 -shared -fPIC -fwrapv -ffp-contract=off -DTrue=1 -DFalse=0 - -lm -o"
HEAD = r"""
#include <stdbool.h>
#include <stdint.h>
#include <tgmath.h>  // exp(x) is a float if x is one
#define bits(to, x) ((union { __typeof__(x) a; to b; }){x}.b)
#define inf INFINITY
#define nan NAN
typedef _Float16 f16; typedef uint16_t bf16;
static float from_bf16(bf16 x) { return bits(float, (uint32_t)x << 16); }
static bf16 nearest(uint32_t n) { return (n + 0x7fff + (n >> 16 & 1)) >> 16; }
static bf16 to_bf16(float x) { return x != x ? 0x7fc0 : nearest(bits(uint32_t, x)); }
static int64_t FloorDiv(int64_t x, int64_t y) { return x / y - (x % y < 0); }
static int64_t Mod(int64_t x, int64_t y) { return x % y + (x % y < 0 ? y : 0); }
static double erfinv(double y) {  // a guess, then Newton's steps
    if (!(fabs(y) < 1)) return atanh(y);
    double l = log1p(-y * y), t = 4.3307 + l / 2, s = sqrt(t * t - l / 0.147) - t;
    double x = copysign(sqrt(fmax(s, 0.0)), y);
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
LOOP = "for (int64_t at_{0.name} = 0; at_{0.name} < {0.size}; at_{0.name}++)"
MEMORY = {"f64": "double", "f32": "float", "f16": "f16", "bf16": "bf16", "bool": "bool"}
MEMORY |= {f"{s}{n}": f"{s.strip('i')}int{n}_t" for s in "iu" for n in (8, 16, 32, 64)}
REGISTER = MEMORY | dict.fromkeys(HALVES, "float")
TO = dict.fromkeys(MEMORY, "{}") | {"f16": "(f16)(float)({})", "bf16": "to_bf16({})"}
FROM = dict.fromkeys(MEMORY, "{}") | {"bf16": "from_bf16({})"}
SIGNS = "add+ sub- mul* div/ idiv/ imod% eq== ne!= lt< le<= gt> ge>= shl<< shr>> and& or| xor^"
ONE = """exp exp2 expm1 log log2 log10 log1p sqrt sin cos tan asin acos atan sinh cosh tanh asinh
acosh atanh erf erfc erfinv lgamma floor ceil trunc isnan signbit"""
TWO = "fmod fmin fmax pow atan2 hypot copysign nextafter philox"
RULES = {
    **{word: f"{{0}} {sign} {{1}}" for word, sign in re.findall(r"(\w+)(\S+)", SIGNS)},
    **{word: f"{word}({{0}})" for word in ONE.split()},
    **{word: f"{word}({{0}}, {{1}})" for word in TWO.split()},
    "const": "({T}){arg}",
    "cast": "{0}",
    "bitcast": "bits({T}, {0})",
    "neg": "-{0}",
    "abs": "{0} <= 0 ? 0 - {0} : {0}",
    "not": "({T})-1 ^ {0}",
    "minimum": "{0} != {0} || {0} < {1} ? {0} : {1}",
    "maximum": "{0} != {0} || {0} > {1} ? {0} : {1}",
    "where": "{0} ? {1} : {2}",
    "rsqrt": "1 / sqrt({0})",
    "round": "rint({0})",
}
BEHIND = {"argmax": "<=", "argmin": ">="}  # what is not more extreme than; NaN never is


def register():
    """Add a row to each table. The targets that run here: none if `cc` does not know half types."""
    ROWS["c"], DEVICES["c"] = (__name__, __name__), __name__
    attempt = "echo '_Float16 x;' | cc -x c -c -o /dev/null -"
    return [] if subprocess.run(attempt, shell=True, capture_output=True).returncode else ["c"]


def generate(nest, name, *, target):
    return kernel_source(nest, name, Writer(without_columns(nest)).text(), target, "loops in C")


def compile_kernels(sources, *, target):
    return (Binary(library(source.text), "shared object") for source in sources)


@functools.cache
def library(text):
    with tempfile.NamedTemporaryFile(suffix=".so") as file:
        subprocess.run([*COMMAND.split(), file.name], input=text.encode(), check=True)
        return Path(file.name).read_bytes()


def load(source, binary=None):
    with tempfile.NamedTemporaryFile(suffix=".so") as file:
        Path(file.name).write_bytes(binary.code)
        run = ctypes.CDLL(file.name).run

    def launch(*tensors):
        base.check_spans(source, tensors)
        run(*(ctypes.c_void_p(t.data_ptr()) for t in tensors))

    return launch


class Writer:
    """Writes one nest: each row's own values in order, then what it stores."""

    def __init__(self, nest):
        self.nest, self.columns = nest, {axis for axis in nest.axes if axis.reduce}
        self.names = {scalar.key: f"t{n}" for n, scalar in enumerate(nest.body())}
        self.varies = set()  # what has another value in each column
        for scalar in nest.body():
            over = scalar.op == "scan" or any(d.key in self.varies for d in scalar.deps())
            if scalar.op != "reduce" and (over or scalar.axes() & self.columns):
                self.varies.add(scalar.key)

    def text(self):
        params = ", ".join(f"{MEMORY[b.dtype]} *{b.name}_" for b in self.nest.buffers)
        loops = "".join(map(LOOP.format, self.nest.parallel))
        rows = [self.statement(s) for s in self.nest.body() if s.key not in self.varies]
        body = "\n".join([*rows, *map(self.stored, self.nest.stores)])
        return f"{HEAD}\nvoid run({params}) {{\n{loops} {{\n{body}\n}}\n}}\n"

    def stored(self, store):
        value = TO[store.value.dtype].format(self.names[store.value.key])
        when = "" if store.mask is None else f"if ({self.names[store.mask.key]}) "
        text = f"{when}{store.buffer}_[{self.index(store.index)}] = {value};"
        across = store.index.axes() & self.columns or any(n.key in self.varies for n in store.needs)
        return self.over_columns(store.needs, text) if across else text

    def over_columns(self, needs, last):
        inside = [s for s in in_order(needs) if s.key in self.varies]
        scans = [self.begin(s) for s in inside if s.op == "scan"]
        loops = map(LOOP.format, self.nest.reduction)
        return "\n".join(["{", *scans, *loops, "{", *map(self.statement, inside), last, "}", "}"])

    def begin(self, scalar):
        """What a reduction or a scan starts with."""
        total, dtype = self.names[scalar.key], reduced_as(scalar.arg, scalar.args[0].dtype)
        wide = "f64" if dtype in FLOATS and scalar.arg in ("sum", "prod") else dtype
        place = f"int64_t {total}_at = -1; " if scalar.arg in BEHIND else ""
        return f"{place}{REGISTER[wide]} {total}_ = {identity(scalar.arg, dtype)};"

    def combine(self, scalar):
        """One more element for a reduction or a scan."""
        total, new = f"{self.names[scalar.key]}_", self.names[scalar.args[0].key]
        if scalar.arg in BEHIND:
            axes = self.nest.reduction
            place = self.index(linear(list(map(Index.of, axes)), [axis.size for axis in axes]))
            better = f"{total}at < 0 || !({new} {BEHIND[scalar.arg]} {total}) && {total} == {total}"
            return f"if ({better}) {total} = {new}, {total}at = {place};"
        return f"{total} = {self.apply(REDUCTIONS[scalar.arg], scalar.dtype, total, new)};"

    def statement(self, scalar):
        lines = [self.combine(scalar)] if scalar.op == "scan" else []
        if scalar.op == "reduce":
            lines = [self.begin(scalar), self.over_columns(scalar.args, self.combine(scalar))]
        name = self.names[scalar.key]
        return "\n".join([*lines, f"{REGISTER[scalar.dtype]} {name} = {self.value(scalar)};"])

    def value(self, scalar):
        op, dtype, args = scalar.op, scalar.dtype, [self.names[a.key] for a in scalar.args]
        if op == "index":
            return self.index(scalar.arg)
        if op == "load":
            text = FROM[dtype].format(f"{scalar.arg.buffer}_[{self.index(scalar.arg.index)}]")
            return f"{args[0]} ? {text} : 0" if args else text
        if op in ("reduce", "scan"):
            text = self.names[scalar.key] + ("_at" if scalar.arg in BEHIND else "_")
        else:
            text = self.apply(op, dtype, *args, arg=scalar.arg)
        return FROM[dtype].format(TO[dtype].format(text))  # halves are rounded

    def apply(self, word, dtype, *operands, arg=None):
        if word not in RULES:
            raise NoRule("C", word, dtype)
        return RULES[word].format(*operands, T=REGISTER[dtype], arg=arg)

    def index(self, index):
        terms = (f"{self.atom(atom)} * {factor}ll" for atom, factor in index.terms)
        return " + ".join([*terms, f"{index.const}ll"])

    def atom(self, atom):
        if isinstance(atom, (Axis, Indirect)):
            return f"at_{atom.name}" if isinstance(atom, Axis) else self.names[atom.scalar.key]
        return f"{type(atom).__name__}({self.index(atom.index)}, {atom.divisor})"
