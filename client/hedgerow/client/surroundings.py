"""What there is on this machine that decides how hedgerow runs here, for `hedgerow doctor`."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hedgerow.client.joining.machine import memory_bytes
from hedgerow.machine import cores
from hedgerow.native.build import compiler
from hedgerow.native.library import Status, status
from hedgerow.units import bytes_text

__all__ = ["Surroundings", "extras_of", "surroundings"]

_INSTRUCTION_SETS = {"v4": "AVX-512", "v3": "AVX2", "base": "the oldest instructions of this processor's kind"}
_TOOLS = ("promtool", "prometheus")
_REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)\s*(\[(?P<extras>[^]]*)\])?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """All that `hedgerow doctor` says.

    Attributes:
        kernels: the native kernels, or why there are none.
        compiler: the command that would build them; None without one.
        hedgerow: version.
        python: version.
        torch: version.
        threads: that torch computes with.
        processor: its name and kind.
        cores: that this process may use.
        memory: bytes that may be used now.
        extras: for each extra of the distribution, the packages of it that are missing; empty = it is complete.
        tools: other programs, and where they are; None = not found.
        paths: the folder of what was measured to choose between sparse and dense layers; None where it cannot be.
        measured: how many measurements are in it.
    """

    kernels: Status
    compiler: str | None
    hedgerow: str
    python: str
    torch: str
    threads: int
    processor: str
    cores: int
    memory: int
    extras: Mapping[str, Sequence[str]]
    tools: Mapping[str, str | None]
    paths: Path | None
    measured: int

    def as_record(self) -> dict[str, Any]:
        """Everything, for JSON."""
        record = asdict(self)
        record["kernels"]["path"] = str(self.kernels.path)
        return {**record, "paths": None if self.paths is None else str(self.paths)}

    def lines(self) -> list[str]:
        """Everything, for people."""
        found = {
            "kernels": self._kernels(),
            "library": str(self.kernels.path) if self.kernels.available else None,
            "compiler": self.compiler or "none; g++ or clang++ builds the native kernels",
            "hedgerow": f"{self.hedgerow}, Python {self.python}",
            "torch": f"{self.torch}, {_count(self.threads, 'thread')}",
            "processor": f"{self.processor}, {_count(self.cores, 'core')}",
            "memory": f"{bytes_text(self.memory)} may be used",
            **{f"extra {name}": _extra(name, missing) for name, missing in self.extras.items()},
            **{name: where or "not found" for name, where in self.tools.items()},
            "measured": f"{_count(self.measured, 'choice')} of sparse or dense layers in {self.paths or 'no folder'}",
        }
        width = max(map(len, found))
        return [f"{name:<{width}}  {text}" for name, text in found.items() if text is not None]

    def _kernels(self) -> str:
        kernels = self.kernels
        if not kernels.available:
            return f"torch only, without native kernels: {kernels.reason}"
        return f"native, {kernels.isa} ({_INSTRUCTION_SETS[kernels.isa]}), made by {kernels.compiler}: {kernels.reason}"


def surroundings() -> Surroundings:
    """Looks; imports torch."""
    import torch

    from hedgerow.sparse.path_cache import cache_folder

    command, paths = compiler(), cache_folder()
    return Surroundings(
        kernels=status(),
        compiler=None if command is None else shlex.join(command),
        hedgerow=importlib.metadata.version("hedgerow"),
        python=platform.python_version(),
        torch=torch.__version__,
        threads=torch.get_num_threads(),
        processor=f"{_processor_name()} ({platform.machine()})",
        cores=cores(),
        memory=memory_bytes(),
        extras=extras_of("hedgerow"),
        tools={name: shutil.which(name) for name in _TOOLS},
        paths=paths,
        measured=len(list(paths.glob("*.json"))) if paths is not None and paths.is_dir() else 0,
    )


def extras_of(distribution: str) -> dict[str, list[str]]:
    """For each extra, the packages that it names and that are not installed, whatever their version."""
    metadata = importlib.metadata.metadata(distribution)
    missing: dict[str, list[str]] = {name: [] for name in metadata.get_all("Provides-Extra") or []}
    for requirement in importlib.metadata.requires(distribution) or []:
        extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)['\"]", requirement)
        package = _REQUIREMENT.match(requirement)
        if extra is None or package is None:
            continue
        name, inner = package["name"], package["extras"] or ""
        if not _is_installed(name):
            missing.setdefault(extra[1], []).append(name)
        elif inner:
            found = extras_of(name)
            missing.setdefault(extra[1], []).extend(n for part in inner.split(",") for n in found.get(part.strip(), []))
    return {name: sorted(set(packages)) for name, packages in missing.items()}


def _is_installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _processor_name() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    match = re.search(r"^(?:model name|Model|Hardware)\s*:\s*(.+)$", text, re.MULTILINE)
    return match[1].strip() if match else platform.processor() or "unknown processor"


def _extra(name: str, missing: Sequence[str]) -> str:
    return f"missing {', '.join(missing)}; pip install 'hedgerow[{name}]'" if missing else "installed"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
