"""The formats that a network can be exported to; each is imported only when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal, TypeAlias

from hedgerow.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["FORMATS", "Format", "FormatName", "Writer", "check_installed", "writer_of"]

FormatName: TypeAlias = Literal["safetensors", "onnx", "executorch"]


@dataclass(frozen=True, slots=True)
class Format:
    """Where a format's file goes, and what it needs.

    Attributes:
        suffix: of the file.
        packages: that have to be importable.
        extra: of hedgerow's, that brings them.
        runs_in: what reads the file in the check.
    """

    suffix: str
    packages: tuple[str, ...]
    extra: str
    runs_in: str


FORMATS: Mapping[FormatName, Format] = {
    "safetensors": Format(".safetensors", packages=(), extra="", runs_in="hedgerow.compaction.load"),
    "onnx": Format(".onnx", packages=("onnx", "onnxscript", "onnxruntime"), extra="export", runs_in="onnxruntime"),
    "executorch": Format(".pte", packages=("executorch",), extra="executorch", runs_in="ExecuTorch's runtime"),
}


@dataclass(frozen=True, slots=True)
class Writer:
    """Makes the bytes of a format, and runs them.

    Attributes:
        write: (network in eval mode, (C, H, W), metadata) → the file's bytes.
        run: (those bytes, (N, C, H, W)) → (N, classes), by the format's own runtime.
    """

    write: Callable[[nn.Module, tuple[int, int, int], Mapping[str, object]], bytes]
    run: Callable[[bytes, Tensor], Tensor]


def check_installed(name: FormatName) -> None:
    """Tells whether a format can be written here, before anything is computed.

    Raises:
        ConfigError: a package is missing; the message has the command that installs it.
    """
    needed = FORMATS[name]
    missing = [package for package in needed.packages if find_spec(package) is None]
    if missing:
        raise ConfigError(
            f"--to {name} needs {' and '.join(missing)}, which is not installed: pip install 'hedgerow[{needed.extra}]'"
        )


def writer_of(name: Literal["onnx", "executorch"]) -> Writer:
    """The writer of a format that is not our own; `check_installed` comes first."""
    if name == "onnx":
        from hedgerow.server.export import onnx_format

        return Writer(write=onnx_format.write, run=onnx_format.run)
    from hedgerow.server.export import executorch_format

    return Writer(write=executorch_format.write, run=executorch_format.run)
