"""Memory that calls take: the process's resident pages on the CPU, torch's counters on a GPU."""

from __future__ import annotations

import contextlib
import ctypes
import re
from pathlib import Path

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Resident:
    """Of this process, all that is mapped and touched: libraries and generated code too."""

    def now(self) -> int:
        """Bytes resident now."""
        return _status("VmRSS")

    def restart(self) -> bool:
        """Forget the peak so far; False where the system does not let us."""
        try:
            CLEAR.write_text("5")
        except OSError:
            return False
        return True

    def peak(self) -> int:
        """The most bytes resident at a time since the last restart."""
        return _status("VmHWM")


class Allocated:
    """On the GPU, by torch's allocator."""

    def now(self) -> int:
        import torch

        torch.cuda.synchronize()
        return torch.cuda.memory_allocated()

    def restart(self) -> bool:
        import torch

        torch.cuda.reset_peak_memory_stats()
        return True

    def peak(self) -> int:
        import torch

        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated()


def give_back() -> None:
    """Return what this process has freed to the system, where the C library can."""
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def gauge(device: str) -> Resident | Allocated:
    """What measures the memory of this kind of device."""
    return Allocated() if device == "cuda" else Resident()


def _status(field: str) -> int:
    """Bytes of a field of /proc/self/status; 0 where it is not to be had."""
    try:
        found = re.search(rf"^{field}:\s+(\d+) kB", STATUS.read_text(), re.M)
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0
