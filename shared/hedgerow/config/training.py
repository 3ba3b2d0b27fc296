"""How it is trained: on a client, over clients, and how it is looked at."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from hedgerow.config.values import Count, Fraction, NotNegative, Positive, Settings, UnitPositive

__all__ = [
    "AggregationSettings",
    "EvaluationSettings",
    "FinishSettings",
    "TrainingSettings",
]


class TrainingSettings(Settings):
    """What a client does in one round."""

    epochs: Count = 2
    steps: Count | None = None
    """The most optimiser steps a client takes in one round, however many samples it has. None: all of its epochs."""
    batch_size: Annotated[int, Field(ge=2)] = 16
    schedule: Literal["constant", "cosine"] = "cosine"
    """How the step sizes fall over the rounds; with `finish.rounds` over those of signs, and again over those."""
    hold: Fraction = 0.0
    """Fraction of the rounds before `cosine` begins to fall."""
    final_step: Annotated[float, Field(ge=0, le=1)] = 0.02
    """Where `cosine` ends, as a fraction of the first step size."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """`bf16`: autocast and channels-last, about 3 times as fast where the processor has bf16 units."""
    kernels: Literal["auto", "native", "dense"] = "auto"
    """What computes a pruned layer. `auto`: for each layer, what a short measurement on the device says is faster;
    `native`: kernels that touch kept weights only, wherever they can; `dense`: torch, with the kept weights scattered
    into a dense one for the time of the layer. `hedgerow doctor` says which there are."""
    micro_batch: Annotated[int, Field(ge=2)] | None = None
    """The most samples that go through the network at once; the gradients of a batch are summed over its parts. Less
    memory, and the same step but for batch norm, which then sees the statistics of each part. The whole batch when
    absent, or where that is smaller."""
    activations: Literal["exact", "int8", "int4", "topk"] = "exact"
    """How what the backward pass needs is kept: as it is, rounded stochastically to 8 or 4 bits, or `topk`: the largest
    `keep_ratio` of what convolutions and linear layers need for the gradient of their weights."""
    keep_ratio: UnitPositive = 0.3
    """Of `topk`: the fraction that is kept."""
    topk_layers: Literal["all", "standardised"] = "all"
    """Of `topk`: the layers that store so; `standardised`: those of `model.norm` = `nsconv` only, whose activations are
    around 0, so that small ones matter little."""
    proximal: NotNegative = 0.0
    """μ of a term μ/2·‖w - wₜ‖² beside the loss, which keeps floats near what the round began with (FedProx); 0: no
    such term."""
    recompute: bool = False
    """Keep only what goes into each block of the network, and run the block again in the backward pass: less memory,
    the same result, about a third more time."""

    @property
    def at_once(self) -> int:
        """Samples of a full batch that go through the network at once.

        >>> [TrainingSettings(batch_size=size, micro_batch=16).at_once for size in (8, 32)]
        [8, 16]
        """
        return self.batch_size if self.micro_batch is None else min(self.micro_batch, self.batch_size)


class FinishSettings(Settings):
    """The last rounds of an experiment of `signs` in float: the weights that the signs stand for, on their mask, which
    changes as long as [adjustment] says."""

    rounds: Annotated[int, Field(ge=0)] = 0
    """How many rounds these are; 0: none. They train as `representation = "weights"` does, by [weights], and the
    schedule of step sizes, which ends with the rounds of signs, begins anew."""
    share: Fraction = 0.0
    """The same as a fraction of all rounds, rounded down, in place of `rounds`; nothing where `representation` is
    `weights`, so that this alone may be changed."""
    down: Literal["fp32", "fp16", "bf16", "uniform"] | None = None
    """`wire.down` of these rounds; the same when absent."""
    up: Literal["fp32", "fp16", "bf16", "int8", "uniform"] | None = None
    """`wire.up` of these rounds; the same when absent."""

    @model_validator(mode="after")
    def _there_are_rounds(self) -> FinishSettings:
        if self.rounds and self.share:
            raise ValueError(
                f"finish.rounds is {self.rounds} and finish.share is {self.share}, which are two ways to say it; "
                "set one of them to 0"
            )
        for name, value in {"down": self.down, "up": self.up}.items():
            if value is not None and not self.rounds and not self.share:
                raise ValueError(
                    f"finish.{name} is {value!r}, but finish.rounds and finish.share are 0, so nothing travels so; set "
                    f"one of them, or leave {name} out"
                )
        return self


class AggregationSettings(Settings):
    """What the coordinator makes of the replies."""

    signs: Literal["drift", "innovation", "mean", "vote"] = "drift"
    """What clients vote on, and what becomes of it. `drift`: whether training moved a score up or down; θ moves by the
    mean vote, for which a cohort has to have several clients. In the others clients vote with the signs of their
    scores. `innovation`: θ moves by what the mean vote says beyond what θ predicts; `mean`: θ is the mean vote; `vote`:
    only its sign is kept and broadcast."""
    levels: Annotated[int, Field(ge=2, le=255)] = 16
    """Levels of θ in the broadcast, uniform over [-1, 1]; `vote` has only signs. Of supermasks uniform over [0, 1]."""
    gain: UnitPositive = 0.3
    """Of `drift`: θ ← θ + gain · (step size of the round / of the first) · mean vote; of `innovation`, where 0.5 did
    better: θ ← θ + gain · (mean vote - erf(θ / (√2 · spread)))."""
    spread: Positive = 0.2
    """Of `innovation`: standard deviation that clients' scores are taken to have around θ after training."""
    memory: Fraction = 0.0
    """Of `mean` and `vote`: θ ← memory · θ + (1 - memory) · mean vote."""
    statistics: UnitPositive = 1.0
    """How much of batch norms' running means and variances a round replaces by the mean of its replies; of round t at
    least 10 / t, as first weights move fast. Below 1 they are of the samples of several cohorts, where the labels of
    one are uneven."""
    min_replies: Count = 1
    """The quorum: a round with fewer usable replies changes nothing. A simulation ends with an error then,
    a coordinator plays the round again."""


class EvaluationSettings(Settings):
    """When the coordinator evaluates on the test samples."""

    every: Count = 1
    """Evaluate each so many rounds; the last round always is."""
    batch_size: Count = 64
    recalibrate: bool | Literal["last"] = False
    """Ask the round's clients for the batch-norm statistics of the network before it is evaluated; it keeps them.
    `last`: of the network that training ends with alone, as each time costs about what a round's requests do."""
    fraction: UnitPositive = 0.1
    """Of its samples that a client looks at for them; at least one batch."""
