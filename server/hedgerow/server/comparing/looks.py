"""How each line looks, in plots and beside its name. Colour is never the only difference."""

from __future__ import annotations

__all__ = ["COLOUR_COUNT", "look_of", "swatch"]

COLOUR_COUNT = 8
_SHAPES = {
    "o": '<circle cx="8" cy="8" r="5.5"/>',
    "s": '<path d="M3 3h10v10H3z"/>',
    "^": '<path d="M8 2.5 14 13H2z"/>',
    "D": '<path d="M8 1.5 14.5 8 8 14.5 1.5 8z"/>',
    "v": '<path d="M8 13.5 14 3H2z"/>',
    "P": '<path d="M6 2h4v4h4v4h-4v4H6v-4H2V6h4z"/>',
    "X": '<path d="M5 2 8 5l3-3 3 3-3 3 3 3-3 3-3-3-3 3-3-3 3-3-3-3z"/>',
    "p": '<path d="M8 2 14 6.4 11.7 13.4H4.3L2 6.4z"/>',
}
"""By matplotlib's names of markers."""


def look_of(place: int) -> tuple[int, str]:
    """The colour, from 1 to `COLOUR_COUNT`, and matplotlib's marker of the line in that place, from 0.

    The first 64 lines look different from each other.

    >>> look_of(0), look_of(1), look_of(8)
    ((1, 'o'), (2, 's'), (1, 's'))
    """
    markers = tuple(_SHAPES)
    return place % COLOUR_COUNT + 1, markers[(place + place // COLOUR_COUNT) % len(markers)]


def swatch(place: int) -> str:
    """The marker of a line as a small inline SVG, which is for the eye only."""
    colour, marker = look_of(place)
    return f'<svg class="swatch" viewBox="0 0 16 16" aria-hidden="true" fill="var(--c{colour})">{_SHAPES[marker]}</svg>'
