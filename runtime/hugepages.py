"""Large fresh memory on huge pages: the first write to a page costs a fault, and one page of 2 MiB
costs far less than 512 of 4 KiB (`madvise(2)
<https://man7.org/linux/man-pages/man2/madvise.2.html>`_, MADV_HUGEPAGE).
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import sys
from collections.abc import Callable

import torch

# The C library gives as much or more a mapping of its own, fresh each time.
FROM = 32 << 20  # bytes


def on_huge_pages(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor, whose memory was allocated just now and not written. Where the system has no such
    pages, or does not give them, nothing changes."""
    advise = _advise()
    if advise is not None:
        first = tensor.data_ptr()
        start = -(-first // mmap.PAGESIZE) * mmap.PAGESIZE
        advise(start, max(first + tensor.untyped_storage().nbytes() - start, 0), mmap.MADV_HUGEPAGE)
    return tensor


@functools.cache
def _advise() -> Callable[[int, int, int], int] | None:
    """The C library's `madvise`; None where it knows no huge pages."""
    if sys.platform != "linux" or not hasattr(mmap, "MADV_HUGEPAGE"):
        return None
    found = ctypes.CDLL(None).madvise
    found.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return found
