"""What is printed: a line for each run, what was chosen, and one for each figure that has to be reached."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from benchmarks.selection.compared import CHOICE, PAIRS, Choice
from benchmarks.selection.lines import CHOSEN, LINES, POOL
from benchmarks.tables import Columns, Figures, number, table
from benchmarks.targets import Target
from hedgerow.units import bytes_text, number_text, percent_text

__all__ = ["case_tables", "checks_tables", "targets"]


def _error(value: float) -> str:
    return f"{value:.1e}"


_POINTS = number(2, " points")
_COLUMNS: Columns = {
    "accuracy": ("accuracy", lambda value: percent_text(value, decimals=2)),
    "spread": ("±", lambda value: number_text(100 * value, 2)),
    "seeds": ("seeds", number(0)),
    "kept": ("kept", number(0)),
    "bytes_up": ("up", bytes_text),
    "bytes_down": ("down", bytes_text),
    "bytes_both": ("both", bytes_text),
    "selection_bytes_up": ("of it to choose: up", bytes_text),
    "selection_bytes_down": ("down", bytes_text),
    "upload_share": ("up / floats", number(3)),
    "adjustments": ("adjustments", number(0)),
    "exchanged": ("exchanged", number(0)),
    "seconds": ("seconds", number(0)),
}
_PAIR: Columns = {
    "points": ("points", number(2)),
    "spread": ("±", number(2)),
    "least": ("least", number(2)),
}
_CHECKS: Columns = {
    "exact.pooling.error": ("pooled statistics: largest relative error", _error),
    "exact.pooling.averaged_error": ("… if variances were averaged", _error),
    "exact.pooling.samples": ("… samples", number(0)),
    "exact.pooling.channels": ("… channels", number(0)),
    "exact.topk.tensors": ("streaming top-K: tensors", number(0)),
    "exact.topk.mismatches": ("… in which it differs", number(0)),
}
_GROWTH: Columns = {
    "weights": ("weights", number(0)),
    "dense_bytes": ("dense gradient", bytes_text),
    "plain_bytes": ("pass alone", bytes_text),
    "whole_bytes": ("with the search", bytes_text),
    "search_bytes": ("search alone", bytes_text),
}


def case_tables(case: str, figures: Figures, chosen: Iterable[Choice]) -> Iterator[str]:
    """Markdown of one data set and density: all lines, differences, and what devices chose."""
    yield table(case, _COLUMNS, {f"{case}.{line}": f"`{line}`" for line in LINES}, figures)
    pairs = {f"{case}.{one}_over_{other}": f"`{one}` - `{other}`" for one, other in PAIRS}
    if any(f"{name}.points" in figures for name in pairs):
        yield table(f"{case}: differences", _PAIR, pairs, figures)
    rows = [
        f"| `{c.line}` | {c.seed} | {c.name} | {number_text(c.loss)} | {'' if c.rank is None else c.rank} |"
        for c in chosen
    ]
    if rows:
        yield "\n".join(["| line | seed | chosen | loss | rank by accuracy |", "|---|--:|---|--:|--:|", *rows])


def checks_tables(figures: Figures) -> Iterator[str]:
    """Markdown of what was checked without training."""
    rows = [f"| {words} | {text(figures[name])} |" for name, (words, text) in _CHECKS.items() if name in figures]
    if rows:
        yield "\n".join(["| exactness | |", "|---|--:|", *rows])
    sizes = {f"memory.growth.{size}": f"{size} layer" for size in ("small", "large")}
    if "memory.growth.largest" in figures:
        yield table(f"search for {figures['memory.growth.largest']:,.0f} gradients", _GROWTH, sizes, figures)


def targets(figures: Figures, *, cases: Sequence[str], quick: bool) -> Iterator[Target]:
    """What is asked of the figures that there are; of a quick version nothing that depends on its size."""
    for target in [*([] if quick else _case_targets(cases)), *_exact_targets()]:
        if target.figure in figures:
            yield target


def _case_targets(cases: Sequence[str]) -> Iterator[Target]:
    for case in cases:
        for line in POOL:
            title, figure = f"{case}: `fedtiny` - `{line}`", f"{case}.fedtiny_over_{line}.points"
            yield Target(title=title, figure=figure, asked=0, text=_POINTS)
        for line in (*CHOSEN, CHOICE):
            title, figure = f"{case}: `{line}` - mean of the pool", f"{case}.{line}_over_pool.points"
            yield Target(title=title, figure=figure, asked=0, text=_POINTS)
        for line in LINES:
            title, figure = f"{case}, `{line}`: bytes up to choose / floats", f"{case}.{line}.upload_share"
            yield Target(title=title, figure=figure, asked=1.05, at_most=True, text=number(3))


def _exact_targets() -> Iterator[Target]:
    yield Target(
        title="pooled statistics: largest relative error",
        figure="exact.pooling.error",
        asked=1e-5,
        at_most=True,
        text=_error,
    )
    yield Target(
        title="streaming top-K: tensors in which it differs",
        figure="exact.topk.mismatches",
        asked=0,
        at_most=True,
        text=number(0),
    )
