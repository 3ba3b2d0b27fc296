"""Compiles `_kernels.so` from `src/` with whatever C++ compiler there is.

`python -m hedgerow.native.build` does so, with `--if-needed` only when the sources are not those of the library.

It uses the standard library only, because the build of the distribution loads it by its path, before anything is
installed. Each source is compiled once for each instruction set; `dispatch.cpp` picks one when the library is loaded.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

__all__ = ["LIBRARY", "SOURCES", "BuildError", "abi_of", "build", "compiler", "digest_of", "is_current"]

_HERE = Path(__file__).resolve().parent
LIBRARY = _HERE / "_kernels.so"
SOURCES = _HERE / "src"

_LANGUAGE = ("-std=c++17", "-fPIC", "-pthread", "-fvisibility=hidden", "-fno-exceptions", "-fno-rtti")
# NaN and infinity have to stay visible, so -ffast-math is out.
_MATHS = ("-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast")
_FLAGS = (*_LANGUAGE, *_MATHS, "-Wall", "-Wextra", "-Wno-psabi")
_V3 = ("-mavx2", "-mfma", "-mbmi", "-mbmi2", "-mf16c", "-mlzcnt", "-mmovbe", "-mpopcnt")
_V4 = (*_V3, "-mavx512f", "-mavx512bw", "-mavx512cd", "-mavx512dq", "-mavx512vl", "-mprefer-vector-width=512")
_VARIANTS = {"v4": _V4, "v3": _V3, "base": ()} if platform.machine() in {"x86_64", "AMD64"} else {"base": ()}
_ONCE = "dispatch.cpp"


class BuildError(Exception):
    """The library cannot be built; the message says why."""


def compiler() -> list[str] | None:
    """The command of the C++ compiler: $CXX, else the first of c++, g++, clang++ on the PATH; None without one."""
    if chosen := shlex.split(os.environ.get("CXX", "")):
        return chosen if shutil.which(chosen[0]) else None
    return next(([path] for name in ("c++", "g++", "clang++") if (path := shutil.which(name))), None)


def abi_of(sources: Path = SOURCES) -> str:
    """Digest of the kernels' signatures: a library with another one must not be called."""
    return hashlib.sha256((sources / "kernels.h").read_bytes()).hexdigest()[:16]


def digest_of(sources: Path = SOURCES) -> str:
    """Digest of all sources, flags and the kind of machine: a library with another one is out of date."""
    digest = hashlib.sha256(repr((sys.platform, platform.machine(), _FLAGS, _VARIANTS)).encode())
    for path in _files(sources):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def is_current(target: Path = LIBRARY, *, sources: Path = SOURCES) -> bool:
    """Whether there is a library, built from these very sources. It is read, not loaded."""
    try:
        return b"hedgerow-digest:" + digest_of(sources).encode() + b"\0" in target.read_bytes()
    except OSError:
        return False


def build(target: Path = LIBRARY, *, sources: Path = SOURCES) -> Path:
    """Compiles and links, then puts the library at `target` in one step.

    Raises:
        BuildError: no compiler, or it refuses.
        OSError: a folder that cannot be written to.
    """
    command = compiler()
    if command is None:
        raise BuildError(
            "no C++ compiler was found, so there are no native kernels; install g++ or clang++, or name one in CXX"
        )
    version = (_run([*command, "--version"]).splitlines() or ["unknown compiler"])[0]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        variants = [isa for isa, flags in _VARIANTS.items() if isa == "base" or _accepts(command, flags, folder)]
        every = "".join(f" X({isa})" for isa in variants)
        facts = {"ABI": abi_of(sources), "DIGEST": digest_of(sources), "COMPILER": version.replace('"', "")}
        once = [f'-DHEDGEROW_{name}="{value}"' for name, value in facts.items()]
        jobs = [[*once, f"-DHEDGEROW_VARIANTS(X)={every}", str(sources / _ONCE), "-o", str(folder / "dispatch.o")]]
        jobs += [
            [f"-DHEDGEROW_ISA={isa}", *_VARIANTS[isa], str(path), "-o", str(folder / f"{path.stem}.{isa}.o")]
            for isa in variants
            for path in _files(sources)
            if path.suffix == ".cpp" and path.name != _ONCE
        ]
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            list(pool.map(lambda job: _run([*command, *_FLAGS, "-c", *job]), jobs))
        made = folder / target.name
        _link(command, sorted(str(path) for path in folder.glob("*.o")), made)
        partial = target.with_name(f".{target.name}.{os.getpid()}")
        shutil.copy(made, partial)
        # Whoever has the old library open keeps it.
        partial.replace(target)
    return target


def _files(sources: Path) -> list[Path]:
    return sorted(path for path in sources.iterdir() if path.suffix in {".cpp", ".h"})


def _accepts(command: list[str], flags: tuple[str, ...], folder: Path) -> bool:
    empty = folder / "empty.cpp"
    empty.touch()
    probe = [*command, *flags, "-c", str(empty), "-o", os.devnull]
    return subprocess.run(probe, capture_output=True, check=False).returncode == 0


def _link(command: list[str], objects: list[str], target: Path) -> None:
    link = [*command, "-shared", "-pthread", *objects, "-o", str(target)]
    try:
        # Then it needs nothing of this compiler's where it runs.
        _run([*link, "-static-libgcc", "-static-libstdc++"])
    except BuildError:
        _run(link)


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise BuildError(f"{command[0]} cannot be run: {error}") from None
    if done.returncode:
        raise BuildError(f"{shlex.join(command)} failed:\n{done.stderr.strip()}")
    if done.stderr:
        print(done.stderr, file=sys.stderr)
    return done.stdout


def main(arguments: list[str]) -> int:
    """Builds the library and says where it is; with `--if-needed` a failure is said, and is none."""
    if_needed = arguments == ["--if-needed"]
    if if_needed and is_current():
        return 0
    try:
        print(f"hedgerow: built {build()}")
    except (BuildError, OSError) as error:
        print(f"hedgerow: {error}", file=sys.stderr)
        return 0 if if_needed else 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
