"""The native library: found beside this module, checked, and opened once a process.

`HEDGEROW_NATIVE=off` turns it off; `HEDGEROW_ISA` names the instruction set to use instead of the best one.
"""

from __future__ import annotations

import ctypes
import functools
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hedgerow.native.build import LIBRARY, SOURCES, abi_of, digest_of

__all__ = ["FLOATS", "INTEGER", "POINTER", "THREADS", "Kernel", "Status", "status"]

POINTER = ctypes.c_void_p
"""The type of a kernel's argument, as the three below: `tensor.data_ptr()`, or None."""
FLOATS = ctypes.c_float
INTEGER = ctypes.c_int64
THREADS = ctypes.c_int


_REBUILD = "run python -m hedgerow.native.build"


@dataclass(frozen=True, slots=True)
class Status:
    """Whether the native kernels are used here, and why.

    Attributes:
        available: whether kernels can be called.
        reason: one sentence; says what to do when they cannot.
        isa: the instruction set in use: v4 (AVX-512), v3 (AVX2) or base; "" when not available.
        compiler: what made the library; "" when not available.
        path: where the library is, or would be.
        digest: of the sources that it was made from; "" when not available.
    """

    available: bool
    reason: str
    isa: str = ""
    compiler: str = ""
    path: Path = LIBRARY
    digest: str = ""


def status() -> Status:
    """What is in use; the same for the whole life of the process."""
    return _opened()[0]


class Kernel:
    """A kernel of the library by its name in `kernels.h`; looked up when it is called first.

    Calls need `status().available`, release the interpreter's lock, and check nothing: wrong arguments crash.
    """

    def __init__(self, name: str, *arguments: type[Any]) -> None:
        self.name = name
        self._type = ctypes.CFUNCTYPE(None, *arguments)
        self._bound: Any = None

    def __call__(self, *arguments: float | None) -> None:
        """Runs it; tensors are passed as `tensor.data_ptr()` and have to stay alive meanwhile."""
        if self._bound is None:
            found, library = _opened()
            assert library is not None, found.reason
            address = library.hedgerow_kernel(found.isa.encode(), self.name.encode())
            assert address, f"kernels.h has no {self.name}"
            self._bound = self._type(address)
        self._bound(*arguments)


@functools.cache
def _opened() -> tuple[Status, ctypes.CDLL | None]:
    if os.environ.get("HEDGEROW_NATIVE", "").lower() in {"off", "0", "no"}:
        return Status(False, "HEDGEROW_NATIVE turns the native kernels off; unset it to use them"), None
    if not LIBRARY.exists():
        return Status(
            False, f"the library was not built; install a C++ compiler (g++ or clang++), then {_REBUILD}"
        ), None
    try:
        _refuse_truncated(LIBRARY)
        library = ctypes.CDLL(str(LIBRARY))
        _typed(library)
        abi, digest, compiler = (
            function().decode()
            for function in (library.hedgerow_abi, library.hedgerow_digest, library.hedgerow_compiler)
        )
        same_abi, same_sources = abi == abi_of(SOURCES), digest == digest_of(SOURCES)
    except (OSError, AttributeError) as error:
        return Status(False, f"the library cannot be opened ({error}); {_REBUILD}"), None
    if not same_abi:
        return Status(False, f"the library was built from other sources; {_REBUILD}"), None
    usable = _usable(library)
    wanted = os.environ.get("HEDGEROW_ISA") or usable[0]
    if wanted not in usable:
        here = ", ".join(usable)
        return Status(False, f"HEDGEROW_ISA={wanted} cannot be used here; this library and processor do {here}"), None
    reason = "the library is loaded" if same_sources else f"the library is loaded, but its sources changed; {_REBUILD}"
    return Status(True, reason, wanted, compiler, LIBRARY, digest), library


def _refuse_truncated(path: Path) -> None:
    """Opening half a library would end the process with a signal; an ELF file's last part is the table of sections."""
    with path.open("rb") as file:
        header = file.read(64)
    if header[:5] != b"\x7fELF\x02" or len(header) < 64:
        return
    order = "<" if header[5] == 1 else ">"
    (start,) = struct.unpack_from(f"{order}Q", header, 0x28)
    size, count = struct.unpack_from(f"{order}HH", header, 0x3A)
    if path.stat().st_size < start + size * count:
        raise OSError("a part of the file is missing")


def _typed(library: ctypes.CDLL) -> None:
    for name in ("hedgerow_abi", "hedgerow_digest", "hedgerow_compiler"):
        getattr(library, name).restype = ctypes.c_char_p
    library.hedgerow_isa.argtypes, library.hedgerow_isa.restype = [ctypes.c_int], ctypes.c_char_p
    library.hedgerow_kernel.argtypes = [ctypes.c_char_p, ctypes.c_char_p]
    library.hedgerow_kernel.restype = ctypes.c_void_p


def _usable(library: ctypes.CDLL) -> list[str]:
    found: list[str] = []
    k = 0
    while (isa := library.hedgerow_isa(k)) is not None:
        found += [isa.decode()] if isa else []
        k += 1
    return found
