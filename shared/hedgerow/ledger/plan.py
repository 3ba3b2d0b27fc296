"""What the settings and the device decide of the memory that training takes."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Plan"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a client trains, as far as memory is concerned.

    Attributes:
        samples: that go through the network at once.
        parts: whether a batch goes through it in several parts.
        native: whether native sparse kernels compute the pruned layers, and what stands between them.
        compact: whether positions of kept weights are held as the library of native kernels has them, which the dense
            path does too where there is one.
        state_bytes: of the optimiser, for each trained value.
        value_bits: in which what norms and activation functions need for the backward pass is held, an element.
        input_bits: the same of what only the gradient of a layer's weights needs.
        standard_only: whether only layers with standardised weights hold their inputs so, and the others as they are.
        rectified_bits: the same of such an input that a ReLU has made, many of which are 0; None: as the others.
        recompute: whether the blocks of the network run again in the backward pass.
        signs: whether every pruned layer has kept positions, even one that is kept whole.
        sampled: whether each pruned layer's weights are made of masks that are drawn, and held as they are then.
        magnitude_bytes: frozen, for each kept weight.
        start_bytes: of what a proximal term keeps training near to, for each trained value.
        threads: that compute; each has working memory of its own.
        grows: None for a training step; else gradients of pruned weights are looked for, as many as this part of each
            layer's kept weights, and nothing is trained.
    """

    samples: int
    parts: bool = False
    native: bool = True
    compact: bool = True
    state_bytes: int = 4
    value_bits: float = 32
    input_bits: float = 32
    standard_only: bool = False
    rectified_bits: float | None = None
    recompute: bool = False
    signs: bool = False
    sampled: bool = False
    magnitude_bytes: int = 0
    start_bytes: int = 0
    threads: int = 1
    grows: float | None = None

    def bits_of_input(self, *, standard: bool) -> float:
        """`input_bits` as they are of a layer with standardised weights, or of another."""
        return self.input_bits if standard or not self.standard_only else 32

    @property
    def exact(self) -> bool:
        """Whether all is held as it is."""
        return self.value_bits == self.input_bits == 32
