"""Kernels compiled together: processes that start at once on one cache compile each kernel once.

A process claims the kernels that are not stored (runtime.claims), compiles those it got as one
batch, stores each as soon as it is made, and lets go; for the others it waits, holding nothing,
until they are stored. Nobody waits longer than PATIENCE. Without claims, or where the cache cannot
be written, every process compiles for itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

from tracejit.runtime import log
from tracejit.runtime.cache import Cache, Kernel, environment
from tracejit.runtime.claims import FOLDER, Claims, NoClaims, is_held
from tracejit.runtime.kernel import Binary, KernelSource
from tracejit.runtime.words import plural
from tracejit.runtime.worker import Leaving, worker

PATIENCE = 60.0  # seconds that the kernels of other processes are waited for
_POLL = 0.02
# What has become of a kernel that another process claimed. FREE: its holder died, and left the
# file of the claim. GIVEN_UP: its holder could not compile or store it.
STORED, HELD, FREE, GIVEN_UP = "stored", "held", "free", "given up"

Make = Callable[[Sequence[KernelSource]], Iterable[Binary]]


def binaries(
    cache: Cache, numerics: str, sources: Sequence[KernelSource], make: Make
) -> list[Binary]:
    """The binary of each source: stored ones, those that other processes are compiling now, and the
    rest compiled by `make` and stored at once. Raises what `make` raises, and Leaving."""
    batch = _Batch(cache, numerics, sources, make)
    batch.look(batch.keys)
    end = time.monotonic() + PATIENCE
    while batch.missing() and time.monotonic() < end:
        try:
            batch.compile_claimed()
        except NoClaims:
            break
        given_up = batch.wait(end)
        batch.look(batch.missing())
        batch.compile([key for key in given_up if key not in batch.found])
    batch.compile(batch.missing())
    return [batch.found[key] for key in batch.order]


class _Batch:
    """The kernels of one program on their way to binaries."""

    def __init__(
        self, cache: Cache, numerics: str, sources: Sequence[KernelSource], make: Make
    ) -> None:
        self.cache, self.numerics, self.make = cache, numerics, make
        self.order = [cache.kernel_key(source, numerics) for source in sources]
        self.keys = dict(zip(self.order, sources, strict=True))
        self.found: dict[str, Binary] = {}

    def missing(self) -> list[str]:
        return [key for key in self.keys if key not in self.found]

    def look(self, keys: Iterable[str]) -> None:
        """Read those that are stored."""
        for key in keys:
            kernel = self.cache.read_kernel(key)
            known = kernel is not None and kernel.source == self.keys[key]
            if kernel is not None and known and kernel.binary is not None:
                self.found[key] = kernel.binary
                self.cache.store.touch("kernels", key)

    def compile_claimed(self) -> None:
        """Claim what is missing, and compile and store what could be claimed."""
        store = self.cache.store
        if not store.writable():
            raise NoClaims
        with Claims(store.directory) as claims:
            mine = claims.take(self.missing())
            self.look(mine)  # another process may have stored it since
            self.compile([key for key in self.missing() if key in mine])

    def compile(self, keys: Sequence[str]) -> None:
        """Compile; store and log each as soon as it is made."""
        made: Iterable[Binary] = self.make([self.keys[key] for key in keys]) if keys else ()
        for key, binary in zip(keys, made, strict=True):
            source = self.keys[key]
            where = environment(source.target, self.numerics)
            self.cache.write_kernel(Kernel(key, source, binary), where)
            self.found[key] = binary
            took = f"{binary.seconds * 1e3:.0f} ms"
            log.say(log.CACHE, f"kernel {source.name} {key[:12]} compiled in {took}")

    def wait(self, end: float) -> list[str]:
        """Wait until each missing kernel is stored or its claim is free; those that nobody will
        store. Raises Leaving when this process exits."""
        waiting, given_up = self.missing(), []
        if waiting:
            what = plural(len(waiting), "kernel")
            log.say(log.CACHE, f"waiting for {what} that another process compiles")
        while waiting and time.monotonic() < end:
            state = self.state(waiting[-1])
            if state == HELD:
                if worker.closing:
                    raise Leaving
                time.sleep(_POLL)
                continue
            key = waiting.pop()
            if state == GIVEN_UP:
                given_up.append(key)
        return given_up

    def state(self, key: str) -> str:
        """Of a kernel that another process claimed."""
        store = self.cache.store
        try:
            claim = HELD if is_held(store.directory / FOLDER / key) else FREE
        except OSError:  # removed, which its holder does after it has stored the kernel
            claim = GIVEN_UP
        return STORED if store.has("kernels", key) else claim
