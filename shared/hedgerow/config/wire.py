"""What travels, and what is hidden of it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from hedgerow.config.values import Fraction, NotNegative, Positive, Settings

__all__ = [
    "PrivacySettings",
    "WireSettings",
]


class WireSettings(Settings):
    """How what travels is coded. What a number costs is decided here; what it says, elsewhere."""

    coder: Literal["entropy", "plain"] = "entropy"
    """`entropy`: range coders, with the statistics of each layer and of what both ends know; `plain`: packed bits,
    bytes under Zstandard and floats as they are."""
    history: Annotated[int, Field(ge=0, le=1000)] = 32
    """Versions that the coordinator remembers: a device that acknowledged one of them is sent what changed since. 0:
    everybody is sent the whole each time."""
    down: Literal["fp32", "fp16", "bf16", "uniform"] = "fp32"
    """Floats in requests: what is never pruned, and the kept weights where they are floats. `uniform`: kept weights as
    multiples of a step, entropy-coded, of which the coordinator remembers what rounding left; the others as `bf16`.
    Differences from an older version are sent of all but `fp32`."""
    down_step: Positive = 0.5
    """Of `down = "uniform"`: the quantiser's step as a fraction of the root mean square of each tensor's kept weights;
    0.5 takes about 3.1 bits a weight, 0.25 about 4.1."""
    up: Literal["fp32", "fp16", "bf16", "int8", "uniform"] = "fp32"
    """Floats in replies: the values themselves, or with `int8` and `uniform` what training changed. `int8`: blocks of
    8-bit integers with a scale each; `uniform`: multiples of a step, entropy-coded."""
    step: Positive = 1.0
    """Of `up = "uniform"`: the quantiser's step as a fraction of the root mean square of each tensor's change."""
    error_feedback: bool = True
    """Of `up` = `int8` and `uniform`: a client keeps what rounding left over, and adds it to its next change."""
    drop: Fraction = 0.0
    """Of `int8` and `uniform`: fraction of the kept weights' changes that are not sent, drawn anew by each client in
    each round from a seed that travels; the others are divided by 1 - drop (DARE, Yu et al. 2023)."""


class PrivacySettings(Settings):
    """Noise that a client adds before anything leaves it. Both guarantees are local: they need no trust in anybody."""

    vote_epsilon: Annotated[float, Field(gt=0, le=16, allow_inf_nan=False)] | None = None
    """Randomised response: each vote says the truth with probability e^ε / (e^ε + k - 1) among k possible votes, which
    protects one vote by ε. None: votes are true."""
    clip: Positive | None = None
    """Largest L2 norm of what a client changed in a round, of the floats that are never pruned and, where they are
    floats, of the kept weights each; larger changes are scaled down. None: as they are."""
    noise: NotNegative = 0.0
    """Standard deviation of the Gaussian noise on each clipped change, as a multiple of `clip`."""
    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    """Of the (ε, δ) that is reported."""

    @model_validator(mode="after")
    def _noise_is_bounded(self) -> PrivacySettings:
        if self.noise and self.clip is None:
            raise ValueError(f"privacy.noise is {self.noise}, which says nothing without privacy.clip; set both")
        return self
