"""From a run to a file that other programs load: compact, written, checked, and only then put in its place."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from hedgerow.compaction import Compaction, Size, compact, compact_bytes, dense_bytes, load, module_of
from hedgerow.errors import ModelError, RunError
from hedgerow.files import write_atomically
from hedgerow.server.export.formats import FORMATS, FormatName, writer_of
from hedgerow.server.export.source import Source, model_file, read_source

__all__ = ["Exported", "export_run"]

TOLERANCE = 1e-5
"""Of the largest output: how far a file's outputs may be from the model's, beyond what float32 itself costs."""


@dataclass(frozen=True, slots=True)
class Exported:
    """A file that was written and checked.

    Attributes:
        path: where it is.
        bytes: its length.
        dense_bytes: length of the same file with the dead channels in it; None where it could not be traced.
        before: the dense network; None where it could not be traced.
        after: what is in the file; None where it is the network as it was.
        difference: largest difference of an output to the run's model in float64, as a part of the largest output.
        checked_on: the images of the check.
        notes: what the user should know, a sentence each.
    """

    path: Path
    bytes: int
    dense_bytes: int | None
    before: Size | None
    after: Size | None
    difference: float
    checked_on: str
    notes: tuple[str, ...]


def export_run(
    run: Path,
    *,
    to: FormatName,
    out: Path | None = None,
    compacted: bool = True,
    progress: Callable[[str], None] = lambda text: None,
) -> Exported:
    """Writes the model of a finished run as a file for other programs.

    Args:
        run: the run's folder, or a model file that `hedgerow fetch` wrote.
        to: the format; `check_installed` has said that it can be written.
        out: the file; ``compact`` (or ``dense``) with the format's suffix beside the model where absent.
        compacted: remove dead channels.
        progress: is told each stage.

    Raises:
        RunError: there is no finished run, or the file cannot be written.
        ModelError: the model cannot be built or exported, or the file does not give the model's outputs; nothing is
            written then.
    """
    stored = model_file(run)
    name = ("compact" if compacted else "dense") + FORMATS[to].suffix
    path = stored.with_name(name) if out is None else out
    if path.is_dir():
        raise RunError(f"{path} is a folder; name the file to write, such as {path / name}")
    if path.exists() and path.samefile(stored):
        raise RunError(f"{path} is the model that is exported; name another file")
    progress(f"reading {stored}")
    source = read_source(stored)
    notes: list[str] = []
    progress("looking for dead channels" if compacted else "tracing")
    try:
        found: Compaction | None = compact(source.model, source.input_shape)
    except ModelError as error:
        found = None
        notes.append(f"exported whole: {error}")
    if found is not None and compacted and found.untouched:
        notes.append(f"all channels that {', '.join(found.untouched)} take or give were kept")
    progress(f"writing {to}")
    content = _content(source, found, to=to, compacted=compacted)
    dense = content if found is None or not compacted else _content(source, found, to=to, compacted=False)
    progress(f"checking in {FORMATS[to].runs_in}")
    outputs = _outputs(source, content, to=to)
    difference = _checked(source, outputs)
    write_atomically(path, content)
    return Exported(
        path=path,
        bytes=len(content),
        dense_bytes=None if found is None else len(dense),
        before=None if found is None else found.before,
        after=None if found is None else found.after if compacted else found.before,
        difference=difference,
        checked_on=source.images_text,
        notes=tuple(notes),
    )


def _content(source: Source, found: Compaction | None, *, to: FormatName, compacted: bool) -> bytes:
    program = None if found is None else found.program if compacted else found.whole
    if to == "safetensors":
        if program is None:
            return dense_bytes(source.model.state_dict(), metadata=source.metadata)
        return compact_bytes(program, metadata=source.metadata)
    network = source.model if program is None else module_of(program)
    return writer_of(to).write(network, source.input_shape, source.metadata)


def _outputs(source: Source, content: bytes, *, to: FormatName) -> Tensor:
    if to != "safetensors":
        return writer_of(to).run(content, source.images)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        path.write_bytes(content)
        network = load(path, model=copy.deepcopy(source.model))
    return _run(network, source.images)


@torch.no_grad()
def _run(network: nn.Module, images: Tensor) -> Tensor:
    outputs: Tensor = network(images)
    return outputs


def _checked(source: Source, outputs: Tensor) -> float:
    """The largest difference to the run's model.

    Raises:
        ModelError: it is more than rounding.
    """
    exact = _run(copy.deepcopy(source.model).double(), source.images.double())
    size = exact.abs().max().item() or 1.0
    # A deep network may lose more than the tolerance in float32 by itself; then that is the measure.
    own = (_run(source.model, source.images).double() - exact).abs().max().item() / size
    if outputs.shape != exact.shape:
        raise ModelError(
            f"the file gives outputs of shape {tuple(outputs.shape)} for {tuple(exact.shape)}; report this"
        )
    difference = (outputs.double() - exact).abs().max().item() / size
    if not difference <= TOLERANCE + 4 * own:
        raise ModelError(
            f"the file's outputs differ from the model's by {difference:.1e} of the largest, so it was not written; "
            "try --no-compact, and report this"
        )
    return difference
