"""What is fuzzed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Self, TypeVar

__all__ = ["Decoder"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Decoder:
    """One of them.

    Attributes:
        name: in the figures.
        run: decodes and checks. Raises a PayloadError for what is refused.
        seeds: valid strings.
    """

    name: str
    run: Callable[[bytes], None]
    seeds: tuple[bytes, ...]

    @classmethod
    def of_any(
        cls, name: str, things: Sequence[T], run: Callable[[bytes, T], None], seeds: Callable[[T], Iterable[bytes]]
    ) -> Self:
        """One that reads with any of some things: the first byte says which, the rest is what is decoded."""

        def first(data: bytes) -> None:
            run(data[1:], things[(data[0] if data else 0) % len(things)])

        return cls(name, first, tuple(bytes([i]) + seed for i, thing in enumerate(things) for seed in seeds(thing)))
