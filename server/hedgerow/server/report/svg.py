"""Matplotlib figures as SVG elements that live inside an HTML page and take their colours from its style sheet."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from xml.etree import ElementTree

import matplotlib.style
from matplotlib.figure import Figure

__all__ = ["GRID", "INK", "MORE_SERIES", "MUTED", "PAPER", "SERIES", "drawing", "inline_svg"]

# Matplotlib knows no CSS variables: each role is drawn in a colour that nothing else uses and replaced afterwards.
INK, MUTED, GRID, PAPER = "#010203", "#010204", "#010205", "#010206"
SERIES = ("#010211", "#010212", "#010213", "#010214")
MORE_SERIES = ("#010215", "#010216", "#010217", "#010218")
"""For pages with more lines, whose style says which colours they are."""
_VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    GRID: "var(--grid)",
    PAPER: "var(--card)",
    **{colour: f"var(--c{number})" for number, colour in enumerate((*SERIES, *MORE_SERIES), start=1)},
}

_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "hedgerow",
    "text.parse_math": False,  # a layer's name may hold dollar signs
    "font.family": ["DejaVu Sans"],  # ships with matplotlib, so the layout is the same everywhere
    "font.size": 10.5,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": GRID,
    "axes.linewidth": 1.0,
    "axes.axisbelow": True,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "lines.solid_capstyle": "round",
}


@contextmanager
def drawing(**changes: object) -> Iterator[None]:
    """Matplotlib's own defaults and the house style, whatever the user's matplotlibrc says; `changes` go on top."""
    with matplotlib.style.context(["default", {**_STYLE, **changes}]), warnings.catch_warnings():
        # Only the layout uses matplotlib's font; the reader's fonts may well have the glyph.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def inline_svg(figure: Figure, name: str) -> str:
    """The figure as one `<svg>` element without namespaces, metadata or fixed size.

    `name` goes before every id, so that two figures of one page cannot clash, and names the elements that hold the
    picture's title and description (`NAME-title`, `NAME-text`), which the page writes.
    """
    text = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(text, format="svg", transparent=True, metadata=nothing)
    root = ElementTree.fromstring(text.getvalue())
    _drop_style_sheets(root)
    used = set(re.findall(r"(?:url\(|href=\")#([\w.-]+)", text.getvalue()))
    for element in root.iter():
        element.tag = _local(element.tag)
        attributes = {_local(key): value for key, value in element.attrib.items()}
        if attributes.get("id") not in used:
            attributes.pop("id", None)
        element.attrib.clear()
        element.attrib.update({key: _rewrite(key, value, name) for key, value in attributes.items()})
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.attrib.update({"role": "img", "aria-labelledby": f"{name}-title", "aria-describedby": f"{name}-text"})
    return ElementTree.tostring(root, encoding="unicode")


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]


def _drop_style_sheets(root: ElementTree.Element) -> None:
    # A <style> inside an inline SVG applies to the whole page; the page's own sheet holds what it said.
    for parent in root.iter():
        for child in [c for c in parent if _local(c.tag) == "style"]:
            parent.remove(child)


def _rewrite(key: str, value: str, name: str) -> str:
    if key == "id":
        return f"{name}-{value}"
    if key == "href":
        return f"#{name}-{value.removeprefix('#')}"
    if key == "clip-path":
        return value.replace("url(#", f"url(#{name}-")
    if key == "style":
        value = re.sub(r"font-family:[^;]*;?\s*", "", value)  # the page's font stack applies
        return re.sub(r"#[0-9a-f]{6}", lambda found: _VARIABLES.get(found[0], found[0]), value)
    return value
