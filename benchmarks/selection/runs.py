"""The trainings, one after the other, and what each comes to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from benchmarks.selection.lines import Run
from benchmarks.selection.wanted import Wanted
from benchmarks.trainings import Found, Records, data_sets, found_of
from hedgerow.assembly import dataset_of, model_of
from hedgerow.config import Experiment
from hedgerow.recalibration import norm_channels
from hedgerow.telemetry import SelectionRecord

__all__ = ["Case", "figures_of", "trained", "upload_share"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What lines are compared on."""

    data: str
    density: float

    @property
    def name(self) -> str:
        """As figures begin."""
        return f"{self.data}.{self.density:g}"

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.data}, density {self.density:g}"


def trained(wanted: Wanted, *, quick: bool, out: Path, console: Console) -> Iterator[tuple[Case, Found, int]]:
    """Trains what is not in `out`.

    Yields:
        A case, what its runs left behind, and how many channels the batch norms of its network have together.
    """
    for data, settings in data_sets(wanted.data if wanted.lines else (), out=out, console=console):
        for density in wanted.densities:
            experiments = {
                seed: {
                    line: Run(line=line, density=density, seed=seed).experiment(settings, quick=quick)
                    for line in wanted.lines
                }
                for seed in wanted.seeds
            }
            title = f"{data}, density {density:g}"
            found = found_of(experiments, title=title, quick=quick, out=out, console=console)
            any_run = experiments[wanted.seeds[0]][wanted.lines[0]]
            yield Case(data=data, density=density), found, _channels(any_run)


def figures_of(records: Records, *, channels: int) -> dict[str, float]:
    """What one run comes to."""
    played, accuracy = records[1:], records[-1].accuracy
    assert accuracy is not None
    selection = records[0].selection
    # What is asked beside training is not among the rounds' own bytes.
    beside = [one for one in (selection, *(r.recalibration for r in played)) if one is not None]
    up = sum(r.bytes_up for r in played) + sum(one.bytes_up for one in beside)
    down = sum(r.bytes_down for r in played) + sum(one.bytes_down for one in beside)
    adjustments = [r.adjustment for r in played if r.adjustment is not None]
    figures: dict[str, float] = {
        "accuracy": accuracy,
        "rounds": records[-1].round,
        "kept": records[-1].kept,
        "bytes_up": up,
        "bytes_down": down,
        "bytes_both": up + down,
        "adjustments": len(adjustments),
        "exchanged": sum(found.weights for found in adjustments),
        "failures": sum(len(r.failures) for r in records) + (0 if selection is None else len(selection.failures)),
        "seconds": sum(r.measured.seconds for r in records),
    }
    if selection is not None:
        figures |= {
            "selection_bytes_up": selection.bytes_up,
            "selection_bytes_down": selection.bytes_down,
            "upload_share": upload_share(selection, channels=channels),
        }
    return figures


def upload_share(selection: SelectionRecord, *, channels: int) -> float:
    """Bytes that came from devices, over 4 · C · (2 · channels + 1) for each of them: C networks' means, variances and
    losses in float32. (A device that only sent statistics has no losses to send.)
    """
    statistics, losses = selection.replies
    return selection.bytes_up / (4 * len(selection.candidates) * (2 * channels * statistics + losses))


def _channels(experiment: Experiment) -> int:
    return sum(norm.channels for norm in norm_channels(model_of(experiment, dataset_of(experiment))))
