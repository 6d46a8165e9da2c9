"""Runs the terminal sessions of docs/cli.md and writes what they print into it.

    python tools/cli_docs.py [--check]

Each session stands between `<!-- session: NAME -->` and `<!-- end -->`. The commands run in an
empty folder with a cache of their own and a terminal of 100 columns without colours. With --check
nothing is written; the exit status is 1 if a command now prints something else. Keys, times,
sizes, counts of bytes, processes and machines differ from run to run and are not compared.
"""

from __future__ import annotations

import difflib
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import tempfile
import termios
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "cli.md"
COLUMNS = 100

MODEL = """\
import torch
from torch import nn
import tracejit


@tracejit.compile(backend="triton", wait=True)
def add_and_norm(x, residual, weight):
    x = x + residual
    scale = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
    return x, x * scale * weight


def inputs():
    return torch.randn(512, 4096), torch.randn(512, 4096), torch.randn(4096)


def temperature(x, t=2.0):
    return (x / t).softmax(-1)


if __name__ == "__main__":
    add_and_norm(*inputs())
"""

# Name -> commands. {kernel} and {plan} stand for the beginning of a key.
SESSIONS: dict[str, list[str]] = {
    "compile": ["cat model.py", *["TRACEJIT_TARGET=cuda:90 python model.py"] * 2],
    "ls": ["tracejit cache ls", "tracejit cache ls --kind kernels --sort size --json"],
    "show": ["tracejit cache show {kernel}"],
    "show plan": ["tracejit cache show {plan}"],
    "parts": [
        "tracejit cache show {kernel} --sass | head -12",
        "tracejit cache show {plan} --graph",
    ],
    "stats": ["tracejit cache stats"],
    "verify": ["tracejit cache verify"],
    "prune": ["tracejit cache prune --older-than 30d --dry-run"],
    "explain": [
        "tracejit explain model.py:temperature --backend interpret "
        "--args 'torch.randn(8, 32), 2.0' --args 'torch.randn(8, 32), 0.5'"
    ],
    "explain disk": ["tracejit explain model.py:add_and_norm --target cuda:90"],
    "bisect": ["tracejit bisect model.py:temperature --args 'torch.randn(8, 32)'"],
    "doctor": ["tracejit doctor"],
    "bench": ["tracejit bench --list"],
    "bench run": ["tracejit bench softmax --peer tracejit --quick --measure startup"],
    "completion": ["tracejit completion bash | head -3"],
    "clear": ["tracejit cache clear --yes"],
    "manners": ["tracejit cache ls --sizes", "tracejit explain modle:f", "tracejit cache show zz"],
}


MACHINES = ("bisect", "doctor")  # sessions that say what machine it is: run, not compared
SLOW = ("bench run",)  # not run by --check


def in_terminal(command: str, folder: Path, environ: dict[str, str]) -> str:
    """What a command prints, run by a shell in a terminal of its own."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, COLUMNS, 0, 0))
    process = subprocess.Popen(
        ["sh", "-c", command],
        cwd=folder,
        env=environ,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    pieces = []
    while True:
        try:
            data = os.read(ours, 65536)
        except OSError:  # Linux reports the end of a terminal as EIO
            break
        if not data:
            break
        pieces.append(data)
    process.wait()
    os.close(ours)
    return b"".join(pieces).decode().replace("\r\n", "\n")


class Session:
    """An empty folder with the model's file and a cache."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "model.py").write_text(MODEL)
        kept = {n: v for n, v in os.environ.items() if not n.startswith(("TRACEJIT_", "PYTHON"))}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        own = {"PATH": path, "TERM": "dumb", "HOME": str(folder), "COLUMNS": str(COLUMNS)}
        own |= {"TRACEJIT_CACHE_DIR": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
        own |= {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
        self.environ = kept | own

    def keys(self) -> dict[str, str]:
        """The keys that commands name."""
        cache = self.folder / "cache"
        found = {}
        for word, kind in (("kernel", "kernels"), ("plan", "plans")):
            names = sorted(p.name for p in (cache / kind).glob("*")) or [""]
            found[word] = names[0][:8]
        return found

    def block(self, commands: list[str]) -> str:
        """The session as Markdown."""
        lines = []
        for command in commands:
            command = command.format(**self.keys())
            lines.append(
                f"$ {command}\n{self.tidy(in_terminal(command, self.folder, self.environ))}"
            )
        return "```console\n" + "\n".join(part.rstrip("\n") for part in lines) + "\n```\n"

    def tidy(self, text: str) -> str:
        """The output without trailing spaces and what names this machine."""
        for folder, name in ((self.folder, "~"), (ROOT, "~/tracejit")):
            text = text.replace(str(folder), name)
        text = re.sub(r"\bLinux-\S+", "Linux", text)
        return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"


def masked(text: str) -> str:
    """A page without what differs from run to run and from machine to machine."""
    for name in MACHINES:
        text = re.sub(rf"(<!-- session: {name} -->).*?(?=<!-- end -->)", r"\1", text, flags=re.S)
    return re.sub(r"```console\n(.*?)```", lambda m: _masked_block(m[0]), text, flags=re.S)


UNITS = r"(?:B|KiB|MiB|GiB|ns|µs|ms|s|min|h|d)\b"


def _masked_block(text: str) -> str:
    """Without figures; of each line the words in any order, since keys decide the order of some."""
    text = re.sub(r"\b[0-9a-f]{6,64}\b", "#", text)
    text = re.sub(r"^(  compiler ).*", r"\1", text, flags=re.M)  # the stages that took longest
    text = re.sub(rf"\d+(?:[.,:-]\d+)*(?: {UNITS})?", "#", text)
    return "\n".join(" ".join(sorted(re.split(r"[\s,]+", line))) for line in text.splitlines())


def page(text: str, without: tuple[str, ...] = ()) -> str:
    """The page with every session run anew, but some."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "demo"
        folder.mkdir()
        session = Session(folder)
        for name, commands in SESSIONS.items():
            if name in without:
                continue
            begin = f"<!-- session: {name} -->\n"
            head, rest = text.split(begin)
            _, _, tail = rest.partition("<!-- end -->\n")
            text = head + begin + session.block(commands) + "<!-- end -->\n" + tail
    return text


def main() -> int:
    text = PAGE.read_text()
    checking = "--check" in sys.argv
    new = page(text, SLOW if checking else ())
    if not checking:
        PAGE.write_text(new)
        return 0
    before, now = (masked(each).splitlines() for each in (text, new))
    differences = list(difflib.unified_diff(before, now, "docs/cli.md", "now", lineterm="", n=0))
    if differences:
        print("\n".join([*differences, "run `python tools/cli_docs.py` and look at it"]))
    return int(bool(differences))


if __name__ == "__main__":
    raise SystemExit(main())
