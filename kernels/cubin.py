"""What a compiled kernel says of itself: registers, stack, shared memory and its parameters, read from the cubin's ELF.

Needs no driver, no device and no CUDA toolkit. The attribute codes are those that `cuobjdump -elf` names EIATTR_*.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

_FRAME_SIZE, _PARAMETER, _REGISTERS, _PARAMETER_V2 = 0x11, 0x17, 0x2F, 0x45
_PAYLOAD_FOLLOWS = 4


@dataclass(frozen=True)
class KernelInfo:
    """One kernel of a cubin.

    Attributes:
        name: its symbol.
        registers: a thread.
        stack_bytes: a thread's local memory: spills and arrays that registers cannot index.
        static_shared_bytes: shared memory a block that the cubin fixes (on sm_90 and later 1,024 of it are reserved).
        parameters: (position, offset, size) of each parameter, in bytes.
        code_bytes: of machine code.
    """

    name: str
    registers: int
    stack_bytes: int
    static_shared_bytes: int
    parameters: tuple[tuple[int, int, int], ...]
    code_bytes: int


def read_cubin(cubin: bytes, name: str) -> KernelInfo:
    """The kernel `name` of a cubin.

    Raises:
        ValueError: not a 64-bit ELF, or no kernel of that name in it.
    """
    if cubin[:5] != b"\x7fELF\x02":
        raise ValueError(f"read_cubin: expected a 64-bit ELF, got bytes that start with {cubin[:5]!r}")
    sections = _sections(cubin)
    if f".text.{name}" not in sections:
        raise ValueError(f"read_cubin: expected kernel {name!r} among the sections {', '.join(sections)}")

    def content(section: str) -> bytes:
        header = sections.get(section)
        return cubin[header[4] : header[4] + header[5]] if header else b""

    symbols = _symbol_names(content(".symtab"), content(".strtab"))
    # Registers stand in the top byte of the code section's sh_info unless the attribute is there.
    registers, stack = sections[f".text.{name}"][7] >> 24, 0
    for code, payload in _attributes(content(".nv.info")):
        if code in (_REGISTERS, _FRAME_SIZE) and symbols[struct.unpack_from("<I", payload)[0]] == name:
            value = struct.unpack_from("<I", payload, 4)[0]
            registers, stack = (value, stack) if code == _REGISTERS else (registers, value)
    parameters = []
    for code, payload in _attributes(content(f".nv.info.{name}")):
        if code in (_PARAMETER, _PARAMETER_V2):
            _, position, offset, flags = struct.unpack_from("<IHHI", payload)
            parameters.append((position, offset, (flags >> 18) & 0x3FFF))
        elif code == _REGISTERS:
            registers = struct.unpack_from("<I", payload, 4)[0]
    shared = sections.get(f".nv.shared.{name}")
    return KernelInfo(
        name, registers, stack, shared[5] if shared else 0, tuple(sorted(parameters)), sections[f".text.{name}"][5]
    )


def read_code(cubin: bytes, name: str) -> bytes:
    """The machine code of the kernel `name` of a cubin, whose existence `read_cubin` has checked."""
    header = _sections(cubin)[f".text.{name}"]
    return cubin[header[4] : header[4] + header[5]]


def _sections(cubin: bytes) -> dict[str, tuple]:
    """Section headers by name; fields 4, 5 and 7 are offset, size and sh_info."""
    (table,) = struct.unpack_from("<Q", cubin, 0x28)
    size, count, names = struct.unpack_from("<HHH", cubin, 0x3A)
    headers = [struct.unpack_from("<IIQQQQIIQQ", cubin, table + i * size) for i in range(count)]
    base = headers[names][4]
    return {_string(cubin, base + header[0]): header for header in headers}


def _symbol_names(symbols: bytes, strings: bytes) -> list[str]:
    return [_string(strings, struct.unpack_from("<I", symbols, at)[0]) for at in range(0, len(symbols), 24)]


def _string(data: bytes, start: int) -> str:
    return data[start : data.index(b"\0", start)].decode()


def _attributes(data: bytes):
    """(code, payload) of the attributes in an .nv.info section; those whose value is in the header have none."""
    at = 0
    while at + 4 <= len(data):
        form, code, length = data[at], data[at + 1], struct.unpack_from("<H", data, at + 2)[0]
        at += 4
        if form == _PAYLOAD_FOLLOWS:
            yield code, data[at : at + length]
            at += (length + 3) & ~3
