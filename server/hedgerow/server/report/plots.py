"""The pictures of one run's report, and `accuracy_picture` that compares several runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from hedgerow.server.report.charts import Bar, Line, bar_chart, line_chart
from hedgerow.server.report.comparison import accuracy_picture
from hedgerow.server.report.summary import best_accuracy
from hedgerow.telemetry.records import RoundRecord
from hedgerow.units import (
    bytes_text,
    clean_text,
    finite,
    number_text,
    percent_text,
    seconds_text,
)

__all__ = ["LayerRow", "Picture", "accuracy_picture", "pictures"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRow:
    """A prunable tensor and the kept fraction of it, as text."""

    layer: str
    density: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A figure of the page; `text` says what the inline SVG shows to those who cannot see it."""

    name: str
    title: str
    text: str
    svg: str
    note: str = ""
    """A line below the figure, for those who see it."""
    legend: tuple[Line, ...] = ()
    layers: tuple[LayerRow, ...] = ()


def pictures(records: Sequence[RoundRecord]) -> list[Picture]:
    """All pictures that the records have numbers for, in the order of the page."""
    made = (
        _accuracy(records),
        _loss(records),
        _traffic(records),
        _layers(records),
        _flips(records),
        _margin(records),
        _memory(records),
        _seconds(records),
    )
    return [picture for picture in made if picture is not None]


def _line(
    records: Sequence[RoundRecord],
    value: Callable[[RoundRecord], float | None],
    *,
    label: str,
    colour: int,
    show: Callable[[float], str],
    dashed: bool = False,
    ring: int | None = None,
) -> Line | None:
    """One curve through the rounds that have the number; None when no round has it."""
    points = [(record.round, y) for record in records if (y := finite(value(record))) is not None]
    if not points:
        return None
    return Line(
        label=label,
        value=show(points[-1][1]),
        colour=colour,
        x=tuple(x for x, _ in points),
        y=tuple(y for _, y in points),
        dashed=dashed,
        ring=ring,
    )


def _picture(
    name: str,
    title: str,
    lines: Iterable[Line | None],
    *,
    tick: Callable[[float], str],
    note: str = "",
    zero: bool = False,
    top: float | None = None,
) -> Picture | None:
    drawn = tuple(line for line in lines if line is not None)
    if not drawn:
        return None
    said = "; ".join(
        f"{line.label}: {tick(line.y[0])} in round {line.x[0]}, {line.value} in round {line.x[-1]}" for line in drawn
    )
    svg = line_chart(name, drawn, tick=tick, zero=zero, top=top)
    return Picture(name=name, title=title, text=f"{said}. {note}".strip(), svg=svg, note=note, legend=drawn)


def _accuracy(records: Sequence[RoundRecord]) -> Picture | None:
    best = best_accuracy(records)
    line = _line(
        records,
        lambda r: r.accuracy,
        label="Test accuracy",
        colour=1,
        show=percent_text,
        ring=best[0] if best else None,
    )
    note = f"Ringed: the best, {percent_text(best[1])} in round {best[0]}." if best else ""
    return _picture("accuracy", "Accuracy", [line], tick=percent_text, note=note, top=1.0)


def _loss(records: Sequence[RoundRecord]) -> Picture | None:
    lines = (
        _line(records, lambda r: r.loss, label="Test", colour=3, show=number_text),
        _line(records, lambda r: r.train_loss, label="Training, on the devices", colour=2, show=number_text),
    )
    return _picture("loss", "Loss (cross-entropy, nats)", lines, tick=lambda value: f"{value:.3g}")


def _traffic(records: Sequence[RoundRecord]) -> Picture | None:
    if not any(record.all_bytes_up or record.all_bytes_down for record in records):
        return None

    def total(value: Callable[[RoundRecord], float], label: str, colour: int, dashed: bool) -> Line | None:
        sums = dict(zip((r.round for r in records), accumulate(map(value, records)), strict=True))
        return _line(records, lambda r: sums[r.round], label=label, colour=colour, show=bytes_text, dashed=dashed)

    lines = (
        total(lambda r: r.all_bytes_down, "Down", 3, False),
        total(lambda r: r.all_entropy_down, "Down, bound", 3, True),
        total(lambda r: r.all_bytes_up, "Up", 2, False),
        total(lambda r: r.all_entropy_up, "Up, bound", 2, True),
    )
    note = "Dashed: the Shannon bound of what the messages had to say."
    return _picture("traffic", "Bytes so far, all clients", lines, tick=bytes_text, note=note, zero=True)


def _layers(records: Sequence[RoundRecord]) -> Picture | None:
    last = records[-1] if records else None
    if last is None or not last.layer_density:
        return None
    known = [(clean_text(name, 120), finite(density)) for name, density in last.layer_density.items()]
    bars = [Bar(label=name, value=density or 0.0, text=percent_text(density)) for name, density in known]
    least, most = min(bars, key=lambda bar: bar.value), max(bars, key=lambda bar: bar.value)
    return Picture(
        name="layers",
        title="Density by layer",
        text=f"Kept fraction of each of {len(bars)} tensors after round {last.round}: "
        f"from {least.text} ({least.label}) to {most.text} ({most.label}); "
        f"dashed: {percent_text(last.density)} of all prunable weights.",
        svg=bar_chart("layers", bars, mark=finite(last.density)),
        layers=tuple(LayerRow(layer=bar.label, density=bar.text) for bar in bars),
    )


def _flips(records: Sequence[RoundRecord]) -> Picture | None:
    lines = (
        _line(records, lambda r: r.client_flip_rate, label="On a client", colour=2, show=percent_text),
        _line(records, lambda r: r.flip_rate, label="In the global network", colour=3, show=percent_text),
    )
    return _picture("flips", "Signs changed in a round", lines, tick=percent_text, zero=True, top=1.0)


def _margin(records: Sequence[RoundRecord]) -> Picture | None:
    line = _line(records, lambda r: r.vote_margin, label="Mean margin", colour=4, show=lambda v: number_text(v, 3))
    note = "0: the votes are split; 1: they are unanimous."
    return _picture("margin", "Vote margin", [line], tick=lambda v: f"{v:.3g}", note=note, zero=True, top=1.0)


def _memory(records: Sequence[RoundRecord]) -> Picture | None:
    def phase(name: str, label: str, colour: int) -> Line | None:
        def value(record: RoundRecord) -> float | None:
            phases = record.measured.client_phase_bytes
            return None if phases is None else float(getattr(phases, name))

        return _line(records, value, label=label, colour=colour, show=bytes_text)

    def computed(record: RoundRecord) -> float | None:
        ledger = record.measured.client_ledger_bytes
        return None if ledger is None else ledger.peak

    lines = [phase("forward", "Forward", 2), phase("backward", "Backward", 3), phase("update", "Update", 4)]
    if lines == [None, None, None]:  # of an older version, or where devices plan for their memory
        peak = _line(
            records, lambda r: r.measured.client_peak_bytes, label="Largest of the cohort", colour=3, show=bytes_text
        )
        held = _line(
            records, lambda r: r.measured.client_held_bytes, label="Held for a request", colour=2, show=bytes_text
        )
        lines = [peak, held]
    lines.append(_line(records, computed, label="Computed peak", colour=1, show=bytes_text, dashed=True))
    note = "Measured: what torch held at most for one client’s training, the largest of the cohort."
    if lines[0] is None:
        note = "Held: what a client’s process took at most while it answered, the largest of the cohort."
    return _picture("memory", "Client peak memory", lines, tick=bytes_text, note=note, zero=True)


def _seconds(records: Sequence[RoundRecord]) -> Picture | None:
    lines = (
        _line(records, lambda r: r.measured.seconds, label="Whole round", colour=4, show=seconds_text),
        _line(
            records,
            lambda r: r.measured.evaluation_seconds,
            label="Evaluation",
            colour=4,
            show=seconds_text,
            dashed=True,
        ),
    )
    return _picture("seconds", "Seconds per round", lines, tick=lambda v: f"{v:.3g} s", zero=True)
