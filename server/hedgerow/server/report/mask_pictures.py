"""How the mask was chosen, and how it changed: pictures and rows of text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hedgerow.server.report.mask_charts import NAMED, Dot, LayerLine, Row, dot_chart, exchange_chart, layer_chart
from hedgerow.server.report.plots import Picture
from hedgerow.telemetry.records import CandidateRecord, RoundRecord, SelectionRecord
from hedgerow.units import bytes_text, clean_text, finite, number_text, percent_text

__all__ = [
    "CandidateRow",
    "ExchangeRow",
    "Selected",
    "exchange_rows",
    "mask_pictures",
    "mask_text",
    "selected",
]

_NAME = 80
STRIP = 20.0
"""Height of a strip; a bar and the gap beside it are `PITCH` wide."""
PITCH = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateRow:
    """A candidate: texts, and its layers' densities as the heights of small bars."""

    name: str
    loss: str
    kept: str
    strip: tuple[str, ...]
    """Heights of up to `STRIP`, on a logarithmic scale that all candidates share."""
    text: str
    """What the strip shows."""
    chosen: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Selected:
    """The section about the selection."""

    picture: Picture
    rows: tuple[CandidateRow, ...]
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExchangeRow:
    """A tensor: densities at first and last, and how many weights were pruned."""

    layer: str
    first: str
    last: str
    times: str
    weights: str


def selected(records: Sequence[RoundRecord]) -> Selected | None:
    """How the mask was chosen, the least loss first; None where it was not."""
    selection = next((record.selection for record in records if record.selection is not None), None)
    if selection is None:
        return None
    losses = [finite(candidate.loss) for candidate in selection.candidates]
    order = sorted(range(len(losses)), key=lambda at: math.inf if (loss := losses[at]) is None else loss)
    candidates = [(selection.candidates[at], at == selection.winner) for at in order]
    dots = [
        Dot(
            label=clean_text(candidate.name, _NAME),
            value=finite(candidate.loss),
            text=number_text(candidate.loss, 3),
            chosen=chosen,
        )
        for candidate, chosen in candidates
    ]
    winner = selection.candidates[selection.winner]
    said = (
        f"Loss of {len(dots)} candidates on the devices. Chosen: {clean_text(winner.name, _NAME)} "
        f"with {number_text(winner.loss, 3)}; the others: "
        + ", ".join(f"{dot.label} {dot.text}" for dot in dots if not dot.chosen)
    )
    picture = Picture(
        name="selection", title="Loss of each candidate", text=f"{said}.", svg=dot_chart("selection", dots)
    )
    least = min((d for c in selection.candidates for d in _densities(c).values() if d > 0), default=1.0)
    return Selected(
        picture=picture,
        rows=tuple(_row(candidate, least, chosen=chosen) for candidate, chosen in candidates),
        text=_selection_text(selection),
    )


def mask_pictures(records: Sequence[RoundRecord]) -> list[Picture]:
    """How the mask changed over the rounds; nothing where it did not."""
    drawn = _drawn(records)
    if not drawn:
        return []
    changed = [record for record in drawn if record.adjustment is not None and record.adjustment.weights]
    pictures = [_density_picture(drawn)]
    return [*pictures, _exchange_picture(changed, last=drawn[-1].round)] if changed else pictures


def mask_text(records: Sequence[RoundRecord]) -> str:
    """One sentence about all adjustments; empty without any."""
    adjusted = [record.adjustment for record in records if record.adjustment is not None]
    if not adjusted:
        return ""
    weights = sum(adjustment.weights for adjustment in adjusted)
    times = "1 adjustment" if len(adjusted) == 1 else f"{len(adjusted):,} adjustments"
    if all(adjustment.exchange for adjustment in adjusted):
        return (
            f"{times} exchanged {weights:,} weights: so many were pruned, and as many others grew in the same tensors."
        )
    grown = sum(sum(adjustment.grown.values()) for adjustment in adjusted)
    return f"{times} pruned {weights:,} weights, and {grown:,} others grew."


def exchange_rows(records: Sequence[RoundRecord]) -> list[ExchangeRow]:
    """One row a tensor; nothing where the mask did not change."""
    drawn = _drawn(records)
    if not drawn:
        return []
    first, last = drawn[0].layer_density, drawn[-1].layer_density
    adjusted = [record.adjustment.pruned for record in records if record.adjustment is not None]
    return [
        ExchangeRow(
            layer=clean_text(name, 120),
            first=percent_text(first.get(name)),
            last=percent_text(density),
            times=f"{sum(1 for pruned in adjusted if pruned.get(name)):,}",
            weights=f"{sum(pruned.get(name, 0) for pruned in adjusted):,}",
        )
        for name, density in last.items()
    ]


def _row(candidate: CandidateRecord, least: float, *, chosen: bool) -> CandidateRow:
    densities = _densities(candidate)
    low = min(densities, key=densities.__getitem__, default="")
    high = max(densities, key=densities.__getitem__, default="")
    return CandidateRow(
        name=clean_text(candidate.name, _NAME),
        loss=number_text(candidate.loss),
        kept=f"{candidate.kept:,}",
        strip=tuple(f"{_height(density, least):.1f}" for density in densities.values()),
        text=f"Kept of each tensor: from {percent_text(densities.get(low))} ({low}) "
        f"to {percent_text(densities.get(high))} ({high})",
        chosen=chosen,
    )


def _densities(candidate: CandidateRecord) -> dict[str, float]:
    return {clean_text(name, _NAME): finite(density) or 0.0 for name, density in candidate.layer_density.items()}


def _height(density: float, least: float) -> float:
    """1 to `STRIP`, by the logarithm; 0 where nothing is kept."""
    if density <= 0:
        return 0.0
    share = 1.0 if least >= 1 else 1 - math.log(min(density, 1.0)) / math.log(least)
    return 1.0 + (STRIP - 1.0) * share


def _selection_text(selection: SelectionRecord) -> str:
    statistics, losses = selection.replies
    return (
        f"Statistics of batch-norm came from {_devices(statistics)}, losses from {_devices(losses)}; "
        f"that took {bytes_text(selection.bytes_up)} up and {bytes_text(selection.bytes_down)} down."
    )


def _devices(count: int) -> str:
    return "1 device" if count == 1 else f"{count:,} devices"


def _drawn(records: Sequence[RoundRecord]) -> list[RoundRecord]:
    """The rounds whose densities are known; none where the mask never changed."""
    drawn = [record for record in records if record.layer_density]
    changed = any(r.adjustment is not None or r.layer_density != drawn[0].layer_density for r in drawn)
    return drawn if changed else []


def _density_picture(drawn: Sequence[RoundRecord]) -> Picture:
    last = drawn[-1]
    lines = [
        LayerLine(
            label=_short(name),
            x=tuple(r.round for r in drawn if name in r.layer_density),
            y=tuple(finite(r.layer_density[name]) or 0.0 for r in drawn if name in r.layer_density),
            pruned=tuple(r.round for r in drawn if r.adjustment is not None and r.adjustment.pruned.get(name)),
        )
        for name in last.layer_density
    ]
    overall = LayerLine(
        label="all",
        x=tuple(r.round for r in drawn),
        y=tuple(finite(r.density) or 0.0 for r in drawn),
        pruned=(),
    )
    ends = "; ".join(f"{line.label}: {percent_text(line.y[0])}, {percent_text(line.y[-1])}" for line in lines)
    dotted = any(line.pruned for line in lines)
    done = "exchanged" if _exchanges(drawn) else "pruned"
    note = "Dashed: all prunable weights." + (f" Dots: weights of the tensor were {done}." if dotted else "")
    if len(lines) > NAMED:
        note += f" Named: {NAMED} of {len(lines)} tensors; the table has all."
    return Picture(
        name="densities",
        title="Density of each layer",
        text=f"Kept fraction of each tensor in round {drawn[0].round} and in round {last.round}: {ends}. {note}",
        svg=layer_chart("densities", lines, overall=overall),
        note=note,
    )


def _exchanges(records: Sequence[RoundRecord]) -> bool:
    return all(record.adjustment is None or record.adjustment.exchange for record in records)


def _exchange_picture(changed: Sequence[RoundRecord], *, last: int) -> Picture:
    blocks: dict[int, list[tuple[int, Mapping[str, int]]]] = {}
    for record in changed:
        assert record.adjustment is not None
        blocks.setdefault(record.adjustment.block, []).append((record.round, record.adjustment.pruned))
    rows = [
        Row(
            label=_block(list(dict.fromkeys(_short(name) for _, found in blocks[block] for name in found))),
            x=tuple(round for round, _ in blocks[block]),
            counts=tuple(sum(found.values()) for _, found in blocks[block]),
        )
        for block in sorted(blocks)
    ]
    said = "; ".join(f"{_one_line(row.label)}: {_counts(row)}" for row in rows)
    several, exchanges = len(rows) > 1, _exchanges(changed)
    title = "Weights exchanged" if exchanges else "Weights pruned"
    return Picture(
        name="exchanged",
        title=f"{title}, by block" if several else title,
        text=f"Weights that were pruned{' while as many others grew' if exchanges else ''}. {said}.",
        svg=exchange_chart("exchanged", rows, last=last),
        note="From the output of the network to its input; all rows have one scale." if several else "",
    )


def _counts(row: Row) -> str:
    return ", ".join(f"{count:,} in round {round}" for round, count in zip(row.x, row.counts, strict=True))


def _one_line(label: str) -> str:
    return label.replace("\n", " ")


def _block(names: Sequence[str]) -> str:
    return "\n".join(names) if len(names) <= 2 else f"{names[0]}\nto {names[-1]}"


def _short(name: str) -> str:
    return clean_text(name.removesuffix(".weight"), _NAME)
