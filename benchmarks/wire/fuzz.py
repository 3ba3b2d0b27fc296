"""Damaged bytes for every decoder: a typed error or a valid value, in bounded time and memory.

Three fuzzers in processes of their own: one that mutates and keeps what reaches new lines; the same for the decoders'
Python, without native kernels; and libFuzzer through `atheris` where that is installed (`pip install atheris`).
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

__all__ = ["measured"]

_TRIES = 3
_LARGEST = ("peak_bytes", "resident_growth")


@dataclass(frozen=True, slots=True)
class _Fuzzer:
    name: str
    engine: str
    inputs: int
    seed: int
    native: bool = True


def measured(*, quick: bool, out: Path) -> dict[str, float]:
    """Figures of all fuzzers together; what went wrong is kept in `out`."""
    began, console = time.monotonic(), Console()
    folder = out / "wire-fuzz"
    shutil.rmtree(folder, ignore_errors=True)
    fuzzers = list(_fuzzers(quick=quick))
    with ThreadPoolExecutor(max_workers=min(len(fuzzers), os.cpu_count() or 1)) as pool:
        found = list(pool.map(lambda fuzzer: _run(fuzzer, folder, console), fuzzers))
    names = sorted({"crashes", "hangs", "valid", "refused", "inputs"}.union(*found))
    figures: dict[str, float] = {
        f"fuzz.{name}": (max if name in _LARGEST else sum)(one.get(name, 0) for one in found) for name in names
    }
    figures |= {f"fuzz.inputs.{fuzzer.name}": one.get("inputs", 0) for fuzzer, one in zip(fuzzers, found, strict=True)}
    figures["fuzz.seconds"] = time.monotonic() - began
    if figures["fuzz.crashes"] or figures["fuzz.hangs"]:
        console.print(f"inputs that something is wrong with are in {folder}")
    return figures


def _fuzzers(*, quick: bool) -> Iterator[_Fuzzer]:
    scale = 1 if quick else 300
    guided = importlib.util.find_spec("atheris") is not None
    # Tracing lines and allocations costs a process of its own some memory an input, which its limit would count.
    parts = 1 if quick else 10
    for number in range(parts):
        yield _Fuzzer(f"own-{number}", "own", scale * (2400 if guided else 4000) // parts, 1000 * number + 1)
    yield _Fuzzer("twins", "own", scale * 400, 2, native=False)
    if guided:
        yield _Fuzzer("atheris", "atheris", scale * 1600, 3)


def _run(fuzzer: _Fuzzer, folder: Path, console: Console) -> Mapping[str, float]:
    counts: Counter[str] = Counter()
    for number in range(_TRIES):
        place = folder / f"{fuzzer.name}-{number}"
        place.mkdir(parents=True)
        figures = place / "figures.json"
        _child(replace(fuzzer, seed=fuzzer.seed + 100 * number), place)
        if figures.exists():
            counts.update(json.loads(figures.read_text()))
            shutil.rmtree(place / "corpus", ignore_errors=True)
            if any(place.glob("*.input")):
                console.print((place / "log").read_text(errors="replace")[-2000:])
            break
        counts["crashes"] += 1
        console.print(f"{fuzzer.name} died; its last lines: {(place / 'log').read_text(errors='replace')[-500:]}")
    return counts


def _child(fuzzer: _Fuzzer, place: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.wire.fuzz_child"]
    arguments = [fuzzer.engine, str(fuzzer.inputs), str(fuzzer.seed), str(place)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"} | ({} if fuzzer.native else {"HEDGEROW_NATIVE": "off"})
    # A hundredth of a second each is many times what they take.
    seconds = 120 + fuzzer.inputs / 100
    with (
        (place / "log").open("wb") as log,
        subprocess.Popen([*command, *arguments], stdout=log, stderr=subprocess.STDOUT, env=environment) as child,
    ):
        try:
            child.wait(seconds)
        except subprocess.TimeoutExpired:
            child.kill()
            log.write(b"\nno figures after %d s\n" % seconds)
