"""A vision transformer on handwritten digits: trained eagerly, compiled, checked, started warm.

    python examples/digits_vit.py

Everything runs on the CPU, in native kernels. The same loop nests as Triton kernels run in Triton's
interpreter, which is slow but exact, and are compiled to machine code for an H100 that need not be
there. The exit status is 1 if any comparison fails.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

TARGET = "cuda:90"
# Parts of the compiler that a process with a filled cache has no use for.
COMPILER = ("tracejit.trace", "tracejit.ops", "tracejit.fuse", "tracejit.codegen", "sympy")


class Block(nn.Module):
    """Attention and a feed-forward, each behind a norm and around a residual."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def attend(self, x: Tensor) -> Tensor:
        images, patches, width = x.shape
        q, k, v = self.qkv(x).view(images, patches, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.out(mixed.transpose(1, 2).reshape(images, patches, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attend(self.norm1(x))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class DigitsViT(nn.Module):
    """8 × 8 images as 16 patches of 2 × 2; three blocks, 64 wide; ten logits."""

    def __init__(self, width: int = 64, depth: int = 3, heads: int = 4) -> None:
        super().__init__()
        self.patch = nn.Linear(4, width)
        self.place = nn.Parameter(0.02 * torch.randn(16, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        patches = images.view(-1, 4, 2, 4, 2).transpose(2, 3).reshape(-1, 16, 4)
        x = self.patch(patches / 16 - 0.5) + self.place
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x.mean(1)))


def load_data() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images and labels to train on, and the quarter of the 1,797 digits kept for the test."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images, labels = torch.tensor(digits.images, dtype=torch.float32), torch.tensor(digits.target)
    order = torch.randperm(len(images))
    test, train = order[:450], order[450:]
    return images[train], labels[train], images[test], labels[test]


def train(model: nn.Module, images: Tensor, labels: Tensor, steps: int = 300) -> None:
    """A few seconds of AdamW, eagerly."""
    optimizer = torch.optim.AdamW(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for _ in range(steps):
        batch = torch.randint(len(images), (128,))
        loss = F.cross_entropy(model(images[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


class Screen:
    """Prints with rich where it is installed, plainly otherwise, and counts failed comparisons."""

    def __init__(self) -> None:
        self.failed = 0
        self.steps = 0
        try:
            from rich.console import Console

            self.rich: Any = Console(highlight=False)
        except ImportError:
            self.rich = None

    def step(self, title: str) -> None:
        self.steps += 1
        text = f"{self.steps}. {title}"
        self.rich.print(f"\n[bold cyan]{text}[/]") if self.rich else print(f"\n{text}")

    def say(self, text: str) -> None:
        self.rich.print(text, markup=False) if self.rich else print(text)
        sys.stdout.flush()

    def check(self, claim: str, true: bool) -> None:
        """A comparison: shown with its outcome, and counted if it fails."""
        self.failed += not true
        mark, colour = ("✓", "green") if true else ("✗ FAILED:", "bold red")
        self.rich.print(f"[{colour}]{mark}[/] {claim}") if self.rich else print(mark, claim)

    def code(self, text: str) -> None:
        if not self.rich:
            print(text)
            return
        from rich.syntax import Syntax

        self.rich.print(Syntax(text, "python", theme="ansi_dark", background_color="default"))

    def table(self, header: list[str], rows: list[list[str]]) -> None:
        """Columns aligned: the first to the left, the others to the right."""
        if not self.rich:
            print(*("  ".join(f"{cell:>16}" for cell in row) for row in [header, *rows]), sep="\n")
            return
        from rich import box
        from rich.table import Table

        table = Table(box=box.SIMPLE_HEAD)
        for number, title in enumerate(header):
            table.add_column(title, justify="right" if number else "left")
        for row in rows:
            table.add_row(*row)
        self.rich.print(table)


def compile_and_compare(screen: Screen, model: nn.Module, images: Tensor, labels: Tensor) -> Any:
    """The compiled model; on the whole test set its predictions are eager's."""
    import tracejit

    compiled = tracejit.compile(model, backend="native", wait=True, strict=True)
    want, begin = model(images), time.perf_counter()
    first, between = compiled(images), time.perf_counter()
    ours = compiled(images)
    times = {"eager": model, "compiled": compiled}
    best = {n: min(seconds(lambda f=f: f(images)) for _ in range(20)) for n, f in times.items()}
    screen.say(
        f"the first call ran eagerly, was recorded and compiled, in {between - begin:.2f} s; a "
        f"further one takes {best['compiled'] * 1e3:.1f} ms, eager {best['eager'] * 1e3:.1f} ms"
    )
    screen.check("the recorded call's result is eager's, bit for bit", torch.equal(first, want))
    same = torch.equal(ours.argmax(-1), want.argmax(-1))
    right = (ours.argmax(-1) == labels).double().mean()
    screen.check(f"same predictions on all {len(images)} test images ({right:.1%} right)", same)
    largest = float((ours - want).abs().max())
    screen.check(
        f"logits agree, the largest difference is {largest:.1e}",
        torch.allclose(ours, want, rtol=1.3e-6, atol=1e-5),
    )
    return compiled


def show_kernels(screen: Screen, model: nn.Module, images: Tensor) -> None:
    """One kernel in full, the others in figures; each checked alone and compiled for the target."""
    import tracejit
    from tracejit.check import check_kernels

    offline = tracejit.compile(model, backend="triton", wait=True, strict=True)
    offline(images)
    (entry,) = tracejit.explain(offline).entries
    kernels = entry.program["kernels"]
    shown = next(kernel for kernel in kernels if "layer_norm" in kernel["name"])
    screen.code(entry.kernel_texts[shown["name"]])
    differences: dict[str, list[float]] = {}
    wrong = []
    for checked in check_kernels(model, images):
        differences.setdefault(checked.kernel, []).append(checked.difference)
        wrong += [f"{checked.kernel}: {checked.wrong}"] if checked.wrong else []
    header = ["kernel", "runs", "KiB in", "KiB out", "off by", "registers", "spills"]
    screen.table(header, [kernel_row(kernel, differences) for kernel in kernels])
    launches = sum(kernel["launches"] for kernel in kernels)
    screen.check(f"each of {launches} launches equals eager, given eager's inputs", not wrong)
    for difference in wrong:
        screen.say(difference)
    fit = all(kernel["spills"] == 0 for kernel in kernels)
    screen.check(f"all {len(kernels)} kernels compile for {TARGET} with no spills", fit)


def kernel_row(kernel: dict[str, Any], differences: dict[str, list[float]]) -> list[str]:
    """A kernel in figures; the difference is the largest from eager over its launches."""
    name = kernel["name"]
    return [
        name,
        str(kernel["launches"]),
        f"{kernel['reads'] / 1024:.0f}",
        f"{kernel['writes'] / 1024:.0f}",
        f"{max(differences[name]):.0e}",
        str(kernel["registers"]),
        str(kernel["spills"]),
    ]


def saved(where: Path, model: nn.Module, images: Tensor) -> Path:
    """What another process needs to make the same predictions."""
    path = where / "digits.pt"
    torch.save({"model": model.state_dict(), "images": images, "logits": model(images)}, path)
    return path


def child(peer: str, path: Path) -> dict[str, Any]:
    """In a process of its own: the first calls of one peer, timed."""
    torch.set_num_threads(1)
    found = torch.load(path, weights_only=True)
    model, images = DigitsViT().eval(), found["images"]
    model.load_state_dict(found["model"])
    begin = time.perf_counter()
    compiled = compiled_by(peer, model)
    imports = time.perf_counter() - begin
    with torch.no_grad():
        begin = time.perf_counter()
        logits = compiled(images)
        first = time.perf_counter() - begin
        compiled(images)
        two = time.perf_counter() - begin
        steady = min(seconds(lambda: compiled(images)) for _ in range(10 if first < 60 else 1))
    loaded = [m for m in sys.modules if m.startswith(COMPILER)]
    right = torch.equal(logits.argmax(-1), found["logits"].argmax(-1))
    own = two - 2 * steady
    return {"imports": imports, "first": first, "steady": steady, "own": own} | {
        "right": right,
        "loaded": loaded,
    }


def compiled_by(peer: str, model: nn.Module) -> Callable[[Tensor], Tensor]:
    if peer == "eager":
        return model
    if peer == "torch.compile":
        return torch.compile(model)
    import tracejit

    return tracejit.compile(model, backend=peer, wait=True, strict=True)


def seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def in_another_process(peer: str, path: Path, **environ: str) -> dict[str, Any] | None:
    """What `child` found there; None, after saying why, if it could not run."""
    command = [sys.executable, __file__, "--child", peer, str(path)]
    done = subprocess.run(command, env=os.environ | environ, capture_output=True, text=True)
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    print(f"{peer} could not run here: {done.stderr.strip().splitlines()[-1]}")
    return None


def start_warm(screen: Screen, path: Path) -> None:
    """A second process finds its kernels on disk: no tracing, and no compiler loaded."""
    found = in_another_process("native", path)
    screen.check("a second process makes the same predictions", bool(found and found["right"]))
    if found:
        first, steady = found["first"], found["steady"]
        screen.say(f"its first call took {first * 1e3:.0f} ms, a further one {steady * 1e3:.1f} ms")
    loaded = found["loaded"] if found else ["?"]
    screen.check("… without loading the tracer, the generators or sympy", loaded == [])


def compare_times(screen: Screen, where: Path, path: Path) -> None:
    """First calls of eager, torch.compile and tracejit, each in a fresh process."""
    torchs = {"TORCHINDUCTOR_CACHE_DIR": str(where / "inductor"), "TRITON_CACHE_DIR": str(where)}
    ours = {"TRACEJIT_CACHE_DIR": str(where / "times")}
    peers = [
        ("eager", "eager", {}),
        ("torch.compile, cold", "torch.compile", torchs),
        ("torch.compile, warm", "torch.compile", torchs),
        ("tracejit, cold", "native", ours),
        ("tracejit, warm", "native", ours),
        (f"tracejit for {TARGET}, cold", "triton", ours),
    ]
    rows = []
    for label, peer, environ in peers:
        found = in_another_process(peer, path, **environ)
        if found is None:
            screen.failed += peer != "torch.compile"
            continue
        cells = [f"{found[n]:.3f}" for n in ("imports", "first", "own")]
        rows.append([label, *cells, f"{found['steady'] * 1e3:.1f}"])
        if label.startswith("tracejit"):
            screen.failed += not found["right"]
    screen.table(["", "import s", "first call s", "compiler's own s", "steady ms"], rows)
    screen.say(
        "compiler's own: the first two calls less two steady ones. torch.compile and tracejit make "
        f"code for this CPU; compiled for {TARGET}, calls run eagerly here."
    )


def show_cache(screen: Screen) -> None:
    """The cache, as its own command lists it."""
    command = [sys.executable, "-m", "tracejit", "cache", "ls"]
    done = subprocess.run(command, capture_output=True, text=True)
    screen.say(done.stdout.rstrip() or done.stderr.rstrip())
    screen.check("`tracejit cache ls` lists it", done.returncode == 0)


def demo(where: Path) -> int:
    """All of it, in order; the number of comparisons that failed."""
    torch.manual_seed(0)
    torch.set_num_threads(1)  # so small a model gains nothing from more
    screen = Screen()
    screen.step("Train a small vision transformer on handwritten digits (eagerly)")
    model = DigitsViT()
    train_images, train_labels, images, labels = load_data()
    took = seconds(lambda: train(model, train_images, train_labels))
    screen.say(f"{sum(p.numel() for p in model.parameters()):,} parameters, {took:.1f} s")
    model.eval()
    with torch.no_grad():
        screen.step("Compile it for this CPU, and predict the test set")
        compile_and_compare(screen, model, images, labels)
        screen.step("The same loop nests as Triton kernels")
        show_kernels(screen, model, images)
        path = saved(where, model, images)
    screen.step("What is kept on disk")
    show_cache(screen)
    screen.step("A second process starts warm")
    start_warm(screen, path)
    screen.step("What a first call costs, each in a fresh process")
    compare_times(screen, where, path)
    screen.say("")
    failed = screen.failed
    screen.check("every comparison held" if not failed else f"{failed} did not hold", not failed)
    return screen.failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--child", nargs=2, metavar=("PEER", "FILE"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        peer, path = asked.child
        print(json.dumps(child(peer, Path(path))))
        return 0
    with tempfile.TemporaryDirectory() as where:
        # Read when tracejit is imported, here and in the other processes.
        os.environ["TRACEJIT_CACHE_DIR"] = str(Path(where) / "cache")
        os.environ["TRACEJIT_TARGET"] = TARGET
        return int(demo(Path(where)) > 0)


if __name__ == "__main__":
    raise SystemExit(main())
