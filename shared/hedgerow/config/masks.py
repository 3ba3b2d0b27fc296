"""Which weights are kept: the first mask, the choice among several, and how it changes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from hedgerow.config.pool import PoolEntry
from hedgerow.config.values import Count, Fraction, NotNegative, Positive, Settings, UnitPositive

__all__ = [
    "AdjustmentSettings",
    "ExtrusionSettings",
    "PruningSettings",
    "SelectionSettings",
]


class PruningSettings(Settings):
    """The mask that the coordinator makes at initialization, without data unless `saliency` is `snip`."""

    density: UnitPositive = 0.05
    """Kept fraction of all prunable weights; 1 = dense."""
    saliency: Literal["synflow", "magnitude", "random", "lamp", "snip"] = "synflow"
    """What scores the weights. `snip` looks at `selection.public_samples`, all of them as one batch."""
    rule: Literal["global", "uniform", "erk", "igq"] = "global"
    iterations: Count = 100
    """Steps of SynFlow's exponential schedule."""


class SelectionSettings(Settings):
    """A choice among candidate masks by the devices, before the first round (FedTiny)."""

    candidates: Annotated[int, Field(ge=0, le=64)] = 0
    """How many masks there are to choose from; 0: none, the mask is that of [pruning]."""
    # Not strict, as TOML has lists only.
    pool: Annotated[tuple[str, ...], Field(strict=False)] = (
        "synflow/global",
        "random/erk",
        "random/igq",
        "lamp/global",
        "magnitude/erk",
        "random/uniform",
        "magnitude/igq",
        "random/erk~",
        "random/igq~",
    )
    """How they are made, in turn: saliency/rule, with ~ where the rule's densities are jittered. After the last, the
    first again, from another draw of weights and numbers."""
    jitter: Fraction = 0.5
    """Of ~: each layer's density is multiplied by 1 + U(-jitter, jitter), and then brought to the overall one."""
    public_samples: Annotated[int, Field(ge=0)] = 0
    """Training samples that the coordinator has for itself: no client of a simulation gets them, and test samples they
    never are. With some, the candidates are magnitude masks, jittered, of a dense network trained on them, as in the
    paper, and training starts from its weights. Without candidates, they are what the saliency `snip` looks at."""
    public_epochs: Count = 5
    """Of that training."""
    fraction: UnitPositive = 0.1
    """Of its samples that a device looks at; at least one batch."""
    trial_steps: Annotated[int, Field(ge=0)] = 0
    """Steps, of sizes that fall to 0, that a device trains each candidate on others of its samples before it says the
    loss. 0: none, as in the paper; the loss of an untrained network says little."""

    @property
    def entries(self) -> tuple[PoolEntry, ...]:
        """What `pool` says."""
        return tuple(map(PoolEntry.of, self.pool))

    @field_validator("pool")
    @classmethod
    def _pool_can_be_made(cls, pool: tuple[str, ...]) -> tuple[str, ...]:
        if not pool:
            raise ValueError("selection.pool is empty; name one way to make a mask at least, such as 'random/erk'")
        for text in pool:
            PoolEntry.of(text)
        return pool

    @model_validator(mode="after")
    def _public_samples_make_candidates(self) -> SelectionSettings:
        if self.public_samples and self.candidates > 1 and not self.jitter:
            raise ValueError(
                "selection.jitter is 0, but with selection.public_samples it alone tells candidates apart; set it "
                "above 0"
            )
        return self


class AdjustmentSettings(Settings):
    """Pruning and growing while training: in some rounds weights go, and others come."""

    every: Annotated[int, Field(ge=0)] = 0
    """Rounds between two adjustments; 0: the mask stays."""
    until: Count | None = None
    """The last round that may adjust; half of all rounds when absent."""
    rate: UnitPositive = 0.3
    """Fraction of a tensor's kept weights that goes in the first adjustment, and comes; falls to 0 by `until`, as half
    a cosine."""
    blocks: Annotated[int, Field(ge=1)] = 1
    """Blocks that the tensors are divided into. Each adjustment is of one of them, from the output to the input and
    then again; with 1 of all tensors."""
    batch_size: Annotated[int, Field(ge=2)] | None = None
    """Samples whose gradient tells a device what to grow; when absent as many as go through the network at once in
    training."""
    gradient: Literal["trained", "sent"] = "trained"
    """The weights that this gradient is found at: those that a device trained, as in the paper, or those that it was
    sent, which are the same for all devices."""
    relative: bool = False
    """Compare gradients in units of what the batch norm after a layer divides each channel by. Plain ones are the
    larger, the less a channel varies, so that a few channels take most of what grows."""
    density: Literal["constant", "cubic"] = "constant"
    """`constant`: as many weights grow as are pruned; `cubic`: weights are only pruned, of all tensors in each
    adjustment, so that the density falls from `start_density` to that of [pruning] by a cubic schedule (GMP)."""
    start_density: UnitPositive | None = None
    """Of `cubic`: the density before the first round; 1 = dense."""
    by: Literal["coordinator", "devices"] = "coordinator"
    """Who decides what goes and comes. `coordinator`: it alone, by all gradients; `devices`: each for itself in the
    midst of its training, with a mask of its own from then on. The coordinator averages each weight over those who hold
    it, and keeps the largest (FedDST)."""
    after: Fraction = 0.5
    """Of `devices`: the fraction of a round's steps before a device adjusts."""
    criterion: Literal["magnitude", "gradient"] = "magnitude"
    """What decides which weights go. `magnitude`: of each tensor the smallest, of signs the least decided, while as
    many others come by their gradients; `gradient`: gradients decide both, across all tensors. Those of the largest
    g² / t are kept, with g the devices' mean gradient of a weight, pruned or not, and t its multiply-accumulates
    (PruneFL). `rate` bounds what comes of each tensor and what goes, which is of its smallest weights. Densities of
    layers change then."""

    def last(self, rounds: int) -> int:
        """The last round that may adjust, of a run of so many."""
        return rounds // 2 if self.until is None else self.until


class ExtrusionSettings(Settings):
    """Before weights are pruned, training presses them towards 0, so that the others learn what they know (FedMef)."""

    penalty: NotNegative = 0.0
    """λ of the marked weights, which an adjustment is going to prune; 0: nothing is pressed."""
    form: Literal["squared", "norm"] = "squared"
    """What is added to the loss: λ·‖w‖² of all marked weights, or λ·‖w‖ of those of each tensor."""
    steps: Count | None = None
    """The last steps of a round that adjusts, so many, press. None: all of them."""
    seconds: Positive | None = None
    """All steps press, and a device's training ends when so many seconds are over. The result then depends on how fast
    devices are, and no run can be repeated bit by bit."""

    @model_validator(mode="after")
    def _budget_is_one(self) -> ExtrusionSettings:
        if self.steps is not None and self.seconds is not None:
            raise ValueError(
                f"extrusion.steps is {self.steps} and extrusion.seconds is {self.seconds:g}, but there is one budget; "
                "leave one of them out"
            )
        if self.penalty == 0 and (self.steps is not None or self.seconds is not None):
            raise ValueError(
                "extrusion.steps and extrusion.seconds say how long weights are pressed, but extrusion.penalty is 0, "
                "so none is; set it, or leave them out"
            )
        return self
