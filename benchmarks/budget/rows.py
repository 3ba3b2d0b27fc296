"""What is printed: a table for each part, and one of the figures that have to be reached."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.budget.limits import MODELS
from benchmarks.budget.lines import CLASSES, FLEETS, LINES, SIZES
from benchmarks.budget.reading import MODELS as READ
from benchmarks.tables import Columns, Figures, number, table
from benchmarks.targets import Target
from hedgerow.units import bytes_text, number_text, percent_text

__all__ = ["tables", "targets"]


def _share(value: float) -> str:
    return percent_text(value, decimals=1)


_POINTS = number(2, " points")
_READING: Columns = {
    f"{phase}_bytes": (words, bytes_text)
    for phase, words in {
        "mask": "read the mask",
        "build": "build the network",
        "version": "read its values",
        "step": "train a step",
        "reply": "reply",
    }.items()
}
_LIMIT: Columns = {
    "survived": ("requests answered", _share),
    "budget_bytes": ("least budget", bytes_text),
    "held_bytes": ("held", bytes_text),
    "held_share": ("most held / budget", number(2)),
}
_ACCURACY: Columns = {
    "accuracy": ("accuracy", lambda value: percent_text(value, decimals=2)),
    "spread": ("±", lambda value: number_text(100 * value, 2)),
    "seeds": ("seeds", number(0)),
    "kept": ("kept", number(0)),
}
_FEDMEF: Columns = {
    **_ACCURACY,
    "peak_bytes": ("measured peak", bytes_text),
    "training_bytes": ("training", bytes_text),
    "growth_bytes": ("search", bytes_text),
    "bytes_both": ("up and down", bytes_text),
    "seconds": ("seconds", number(0)),
}
_CLASSES: Columns = {
    **_ACCURACY,
    "held_bytes": ("held", bytes_text),
    "failures": ("failures", number(0)),
    "seconds": ("seconds", number(0)),
}
_BUDGETS: Columns = {
    "bytes": ("memory", bytes_text),
    "predicted_bytes": ("predicted", bytes_text),
    "level": ("level", number(0)),
}


def tables(figures: Figures, *, data: Sequence[str]) -> Iterator[str]:
    """Markdown of what was measured, but for the points of `prediction`."""
    found = [
        table("reading", _READING, {f"reading.{model}": model for model in READ}, figures),
        table("limits", _LIMIT, {f"limit.{model}": model for model in MODELS}, figures),
        *(table(name, _FEDMEF, {f"fedmef.{name}.{line}": f"`{line}`" for line in LINES}, figures) for name in data),
        *(text for part in FLEETS for text in _fleet_tables(part, figures)),
    ]
    yield from filter(None, found)


def _fleet_tables(part: str, figures: Figures) -> Iterator[str]:
    yield table(f"{part}: class", _BUDGETS, {f"{part}.budget.{one.name}": one.name for one in SIZES}, figures)
    yield table(f"{part}: memory", _CLASSES, {f"{part}.{line}": f"`{line}`" for line in CLASSES}, figures)


def targets(figures: Figures, *, data: Sequence[str], quick: bool) -> Iterator[Target]:
    """What is asked of the figures that there are; of a quick version nothing that depends on its size."""
    for target in [*_limit_targets(), *([] if quick else _long_targets(data))]:
        if target.figure in figures:
            yield target


def _limit_targets() -> Iterator[Target]:
    for model in MODELS:
        title = f"{model} under its limit: requests answered"
        yield Target(title=title, figure=f"limit.{model}.survived", asked=1, text=_share)


def _long_targets(data: Sequence[str]) -> Iterator[Target]:
    yield Target(title="prediction: largest error", figure="prediction.worst", asked=0.1, at_most=True, text=_share)
    for name in data:
        for figure, words, asked, text in (
            ("less_memory", "less memory", 0.285, _share),
            ("points", "more accurate by", 0.0, _POINTS),
        ):
            title = f"{name}: `fedmef` than `rigl-nsconv`: {words}"
            yield Target(title=title, figure=f"fedmef.{name}.{figure}", asked=asked, text=text)
    for part in FLEETS:
        figure = f"{part}.mixed_minus_small"
        yield Target(title=f"{part}: `mixed` - `small`", figure=figure, asked=0, text=_POINTS)
        figure = f"{part}.large_minus_mixed"
        yield Target(title=f"{part}: `large` - `mixed`", figure=figure, asked=1, at_most=True, text=_POINTS)
