"""Where names stand in a picture: beside their points, and where they would cover something, not at all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = ["Box", "Wanted", "placed"]


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle, of any unit; y grows upwards."""

    left: float
    bottom: float
    right: float
    top: float

    def meets(self, other: Box) -> bool:
        """Whether they overlap.

        >>> Box(0, 0, 2, 2).meets(Box(1, 1, 3, 3)), Box(0, 0, 1, 1).meets(Box(1, 0, 2, 1))
        (True, False)
        """
        return (
            self.left < other.right and other.left < self.right and self.bottom < other.top and other.bottom < self.top
        )

    def inside(self, other: Box) -> bool:
        """Whether no part of it is outside the other."""
        return (
            self.left >= other.left
            and self.right <= other.right
            and self.bottom >= other.bottom
            and self.top <= other.top
        )


@dataclass(frozen=True, slots=True)
class Wanted:
    """A name of this size that wants to stand beside the point (x, y)."""

    x: float
    y: float
    width: float
    height: float


def placed(wanted: Sequence[Wanted], *, within: Box, taken: Iterable[Box] = (), gap: float) -> list[Box | None]:
    """A place for each name, one after the other: right of its point, left, above, below, or between those. None where
    each covers something.

    Args:
        wanted: the most important first.
        within: where names may stand.
        taken: what no name may cover.
        gap: between a point and its name.
    """
    covered = list(taken)
    places: list[Box | None] = []
    for one in wanted:
        found = next(
            (box for box in _around(one, gap) if box.inside(within) and not any(map(box.meets, covered))), None
        )
        places.append(found)
        covered += [] if found is None else [found]
    return places


def _around(one: Wanted, gap: float) -> Iterable[Box]:
    half = one.width / 2, one.height / 2
    # Centres of the name, as (x, y) in half sizes from the point; beside it before above it.
    for across, up in ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1)):
        # Diagonal names come nearer, as only a corner of theirs faces the point.
        near = gap if not (across and up) else 0.5 * gap
        x, y = one.x + across * (half[0] + near), one.y + up * (half[1] + near)
        yield Box(x - half[0], y - half[1], x + half[0], y + half[1])
