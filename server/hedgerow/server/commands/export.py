"""`hedgerow export`: a run's model for other programs, without its dead channels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hedgerow.server.export.formats import FORMATS, FormatName, check_installed
from hedgerow.units import bytes_text, count_text, percent_text

if TYPE_CHECKING:
    from hedgerow.server.export.exporting import Exported

__all__ = ["export"]


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run's folder, or a model that was fetched.")],
    to: Annotated[FormatName, typer.Option(help="Format of the file.")] = "safetensors",
    out: Annotated[
        Path | None, typer.Option(help="File to write; beside the model when absent: compact.onnx, for example.")
    ] = None,
    no_compact: Annotated[
        bool, typer.Option("--no-compact", help="Keep the channels that the mask left dead.")
    ] = False,
) -> None:
    """Writes a run's model for other programs: smaller, dense, with the same outputs.

    RUN is the folder of a finished run, or a model that `hedgerow fetch` wrote. Channels that the mask left dead are
    removed, and what they contributed moves into biases. The file is loaded and its outputs are compared with the
    model's before it is put in its place. ONNX takes any batch, ExecuTorch one image at a time; safetensors is read by
    hedgerow.compaction.load. ONNX needs the extra `export`, ExecuTorch the extra `executorch`.
    """
    check_installed(to)
    # torch takes seconds to import; `--help` and a missing package must not wait for it.
    from hedgerow.server.export.exporting import export_run

    done = export_run(
        run, to=to, out=out, compacted=not no_compact, progress=lambda text: typer.echo(f"{text} …", err=True)
    )
    typer.echo(_summary(done, runs_in=FORMATS[to].runs_in))


def _summary(done: Exported, *, runs_in: str) -> str:
    lines = [
        f"{done.path}: {bytes_text(done.bytes)}, the model's outputs to {done.difference:.0e} in {runs_in} "
        f"({done.checked_on})"
    ]
    before, after = done.before, done.after
    if before is not None and after is not None and done.dense_bytes is not None:
        rows = [_row("file", done.dense_bytes, done.bytes, text=bytes_text)]
        rows += [
            _row("parameters", before.parameters, after.parameters),
            _row("multiply-adds", before.macs, after.macs),
            _row("channels", before.channels, after.channels),
        ]
        lines.append(f"  {'':<14}{'dense':>14}{'exported':>14}{'left':>9}")
        lines += rows
    lines += [f"  note: {note}" for note in done.notes]
    return "\n".join(lines)


def _row(name: str, before: int, after: int, *, text: Callable[[float], str] = count_text) -> str:
    return f"  {name:<14}{text(before):>14}{text(after):>14}{percent_text(after / max(before, 1)):>9}"
