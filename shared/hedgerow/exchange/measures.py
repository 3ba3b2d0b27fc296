"""What a client counted and measured while it trained, as the one section that carries it."""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass, fields

import numpy as np

from hedgerow.codec import Section, Sections, counts_section, read_counts
from hedgerow.errors import PayloadError

__all__ = ["Measures"]

_MOST_EXAMPLES = 2**24
"""Of one client: sums of 4,096 of them stay below 2³⁶, and a float32 holds each exactly."""
_LARGEST = 2.0**53


@dataclass(frozen=True, slots=True, kw_only=True)
class Measures:
    """In the order in which it travels, each as a float32.

    Attributes:
        examples: samples that the client holds; its weight in every mean.
        loss: mean cross-entropy over its steps, in nats.
        seconds: that training took.
        forward_bytes: measured peak in the phase of a step, as for the next two; 0 where it was not measured.
        backward_bytes: see above.
        update_bytes: see above.
        native_share: fraction of the kept weights that native kernels computed with.
        growth_bytes: measured peak while it looked for gradients of pruned weights; 0 where nobody asked.
        held_bytes: measured peak of the whole request, beyond what the process held before its first; 0 where it was
            not measured.
    """

    examples: int
    loss: float
    seconds: float
    forward_bytes: float
    backward_bytes: float
    update_bytes: float
    native_share: float
    growth_bytes: float = 0.0
    held_bytes: float = 0.0

    def section(self) -> Section:
        """The encoded values."""
        return counts_section(np.array(astuple(self), dtype=np.float32))

    @classmethod
    def read(cls, sections: Sections) -> Measures:
        """Inverse of `section`.

        Raises:
            PayloadError: it is missing, or a value is out of bounds.
        """
        names = [field.name for field in fields(cls)]
        values = dict(zip(names, map(float, read_counts(sections, len(names))), strict=True))
        for name, value in values.items():
            if not 0 <= value <= _LARGEST:
                raise PayloadError(f"{name!r} is {value:g}; a finite number of at least 0 is needed", kind="metrics")
        if not 1 <= values["examples"] <= _MOST_EXAMPLES or values["examples"] % 1:
            raise PayloadError(
                f"'examples' is {values['examples']:g}; it has to be 1 to {_MOST_EXAMPLES}", kind="metrics"
            )
        if values["native_share"] > 1:
            raise PayloadError(f"'native_share' is {values['native_share']:g}; it has to be 0 to 1", kind="metrics")
        examples = int(values.pop("examples"))
        assert math.isfinite(values["loss"])
        return cls(examples=examples, **values)
