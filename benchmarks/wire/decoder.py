"""What is fuzzed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Decoder"]


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
