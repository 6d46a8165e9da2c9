"""Puts the code of a relocatable object file into memory, without a linker and without LLVM, whose
library takes longer to load than everything else that a warm process does.

Only what LLVM writes for x86-64 is understood (position-independent, small code model); for all
else `Unknown` is raised, and LLVM's own loader takes over. Formats: "System V Application Binary
Interface" (ELF-64) and its "AMD64 Architecture Processor Supplement", table 4.9.
"""

from __future__ import annotations

import ctypes
import mmap
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

ALLOCATED, WRITTEN, EXECUTED = 2, 1, 4  # flags of a section
NOBITS, RELA, SYMTAB = 8, 4, 2  # types
UNDEFINED, RESERVED = 0, 0xFF00  # section numbers of symbols
ABS64, PC32, PLT32 = 1, 2, 4  # kinds of relocation
TO_CELL = (9, 41, 42)  # GOTPCREL, GOTPCRELX, REX_GOTPCRELX
X86_64, RELOCATABLE = 62, 1
JUMP = b"\xff\x25\x02\0\0\0\0\0"  # jmp [rip + 2], then two bytes of nothing and the address
STUB = len(JUMP) + 8
READ, EXECUTE = 1, 4  # of mprotect(2)
Resolve = Callable[[str], int]


class Unknown(Exception):
    """The file has something that is not understood here."""


@dataclass
class Section:
    """A section's header, and where it was put (-1: nowhere)."""

    name: str
    kind: int
    flags: int
    offset: int
    size: int
    link: int
    info: int
    align: int
    at: int = -1


@dataclass(frozen=True)
class Symbol:
    name: str
    section: int
    value: int


@dataclass
class Image:
    """Code in memory, for as long as this lives. `addresses`: of the file's own functions."""

    memory: mmap.mmap
    addresses: dict[str, int]


def load(code: bytes, resolve: Resolve) -> Image:
    """Load it. `resolve` gives the address of a symbol that the file does not define. Raises
    Unknown, OSError if the system gives no such memory, and what `resolve` raises."""
    try:
        return _Loader(code, resolve).load()
    except (struct.error, IndexError, ValueError) as problem:
        raise Unknown(f"not an object file: {problem}") from problem


class _Loader:
    def __init__(self, code: bytes, resolve: Resolve) -> None:
        self.code, self.resolve = code, resolve
        kind, machine = struct.unpack_from("<HH", code, 16)
        if code[:6] != b"\x7fELF\x02\x01" or (kind, machine) != (RELOCATABLE, X86_64):
            raise Unknown("not a relocatable file for x86-64")
        self.sections = self._sections()
        self.symbols = self._symbols()
        self.stubs: dict[str, int] = {}  # where an external function is jumped to
        self.cells: dict[int, int] = {}  # where the address of a symbol (by number) is kept

    def _sections(self) -> list[Section]:
        (start,) = struct.unpack_from("<Q", self.code, 40)
        size, count, names = struct.unpack_from("<HHH", self.code, 58)
        heads = [
            struct.unpack_from("<IIQQQQIIQQ", self.code, start + k * size) for k in range(count)
        ]
        text = heads[names][4]
        return [
            Section(self._string(text + name), kind, flags, offset, size, link, info, max(align, 1))
            for name, kind, flags, _, offset, size, link, info, align, _ in heads
        ]

    def _string(self, at: int) -> str:
        return self.code[at : self.code.index(b"\0", at)].decode()

    def _symbols(self) -> list[Symbol]:
        (table,) = (s for s in self.sections if s.kind == SYMTAB)
        text, found = self.sections[table.link].offset, []
        for at in range(table.offset, table.offset + table.size, 24):
            name, _, _, section, value, _ = struct.unpack_from("<IBBHQQ", self.code, at)
            found.append(Symbol(self._string(text + name), section, value))
        return found

    def _relocations(self) -> Iterator[tuple[Section, int, int, int, int]]:
        """(section, offset, kind, symbol's number, addend)"""
        for table in self.sections:
            if table.kind == RELA and self.sections[table.info].at >= 0:
                for at in range(table.offset, table.offset + table.size, 24):
                    offset, info, addend = struct.unpack_from("<QQq", self.code, at)
                    yield self.sections[table.info], offset, info & 0xFFFFFFFF, info >> 32, addend

    def load(self) -> Image:
        bounds = self._lay_out()
        size = bounds[-1]
        memory = mmap.mmap(-1, max(size, 1), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        for section in self.sections:
            if section.at >= 0 and section.kind != NOBITS:
                data = self.code[section.offset : section.offset + section.size]
                memory[section.at : section.at + section.size] = data
        for name, at in self.stubs.items():
            memory[at : at + STUB] = JUMP + struct.pack("<Q", self.resolve(name))
        for number, at in self.cells.items():
            memory[at : at + 8] = struct.pack("<Q", self._address(number, start))
        for each in self._relocations():
            self._relocate(memory, start, *each)
        self._protect(start, bounds)
        found = {
            s.name: start + self.sections[s.section].at + s.value
            for s in self.symbols
            if s.name and UNDEFINED < s.section < RESERVED and self.sections[s.section].at >= 0
        }
        return Image(memory, found)

    def _lay_out(self) -> tuple[int, int, int]:
        """Decide where everything goes: code and stubs, constants and cells, what is written; the
        ends of the three parts, in whole pages."""
        end, ends = 0, []
        for flags in (EXECUTED, 0, WRITTEN):
            for section in self.sections:
                mine = section.flags & (EXECUTED | WRITTEN) == flags
                if section.flags & ALLOCATED and mine and not section.name.startswith(".eh_frame"):
                    section.at = -(-end // section.align) * section.align
                    end = section.at + section.size
            if flags == EXECUTED:
                end = self._add_stubs(end)
            elif flags == 0:
                end = self._add_cells(end)
            end = -(-end // mmap.PAGESIZE) * mmap.PAGESIZE
            ends.append(end)
        return ends[0], ends[1], ends[2]

    def _add_stubs(self, end: int) -> int:
        end = -(-end // STUB) * STUB
        for _, _, kind, number, _ in self._relocations():
            symbol = self.symbols[number]
            if kind == PLT32 and symbol.section == UNDEFINED and symbol.name not in self.stubs:
                self.stubs[symbol.name] = end
                end += STUB
        return end

    def _add_cells(self, end: int) -> int:
        end = -(-end // 8) * 8
        for _, _, kind, number, _ in self._relocations():
            if kind in TO_CELL and number not in self.cells:
                self.cells[number] = end
                end += 8
        return end

    def _address(self, number: int, start: int) -> int:
        symbol = self.symbols[number]
        if symbol.section == UNDEFINED:
            return self.resolve(symbol.name)
        if symbol.section >= RESERVED or self.sections[symbol.section].at < 0:
            raise Unknown(f"{symbol.name or 'a symbol'} lies in no section that is loaded")
        return start + self.sections[symbol.section].at + symbol.value

    def _relocate(
        self,
        memory: mmap.mmap,
        start: int,
        section: Section,
        offset: int,
        kind: int,
        number: int,
        addend: int,
    ) -> None:
        at = section.at + offset
        if kind == ABS64:
            value = self._address(number, start) + addend
            memory[at : at + 8] = struct.pack("<Q", value & (1 << 64) - 1)
            return
        if kind == PLT32 and self.symbols[number].name in self.stubs:
            target = start + self.stubs[self.symbols[number].name]
        elif kind in (PLT32, PC32):
            target = self._address(number, start)
        elif kind in TO_CELL:
            target = start + self.cells[number]
        else:
            raise Unknown(f"relocation {kind}")
        distance = target + addend - (start + at)
        if not -(1 << 31) <= distance < 1 << 31:
            raise Unknown(f"{self.symbols[number].name} is too far away")
        memory[at : at + 4] = struct.pack("<i", distance)

    def _protect(self, start: int, bounds: tuple[int, int, int]) -> None:
        """Code is not written any more, constants neither, and nothing else is executed."""
        protect = ctypes.CDLL(None, use_errno=True).mprotect
        protect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        for first, last, rights in (
            (0, bounds[0], READ | EXECUTE),
            (bounds[0], bounds[1], READ),
        ):
            if last > first and protect(start + first, last - first, rights):
                raise OSError(ctypes.get_errno(), "mprotect")
