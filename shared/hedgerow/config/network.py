"""What is trained: the model, and what its kept weights are."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from hedgerow.config.values import Count, Fraction, NotNegative, Positive, Settings, UnitPositive

__all__ = [
    "ModelSettings",
    "SignSettings",
    "SupermaskSettings",
    "WeightSettings",
]


class ModelSettings(Settings):
    """The dense network that is pruned."""

    name: str = "conv4"
    """A built-in model (see `hedgerow recipes --models`), or your own `package.module:function`."""
    norm: Literal["batch", "nsconv", "none"] = "batch"
    """What keeps activations in bounds: batch norms; `nsconv`: no layer of its own, each output's kept weights have
    mean 0 and a trained size instead, so that nothing depends on the batch; or nothing."""
    statistics: Literal["kept", "all"] = "kept"
    """Of `nsconv`: whether that mean and size are of the kept weights, or of all, pruned zeros included."""
    gain: Positive = 1.0
    """Of `nsconv`: the size that each output's weights start with. 1.714 makes up for what ReLU takes away in chains of
    layers; residual networks do with 1."""

    @model_validator(mode="after")
    def _standardised_weights_are_there(self) -> ModelSettings:
        if self.norm != "nsconv":
            for name, value in {"statistics": self.statistics, "gain": self.gain}.items():
                if value != type(self).model_fields[name].default:
                    raise ValueError(
                        f"model.{name} is {value!r}, but model.norm is {self.norm!r}, which standardises no weights; "
                        'leave it out, or set model.norm to "nsconv"'
                    )
        elif ":" in self.name:
            raise ValueError(
                f'model.norm is "nsconv", which does nothing to a model of your own such as {self.name!r}; leave it out'
            )
        return self


class SignSettings(Settings):
    """The representation `signs`: frozen magnitudes, one trained sign a kept weight (HideNseek)."""

    magnitude: Literal["constant", "dense", "random"] = "constant"
    """`constant`: √(2 / kept fan-in) in a layer; `dense`: √(2 / fan-in), as of a dense layer: before a batch norm that
    makes no difference to signs, but a finish in float moves such weights by more with each of its steps; `random`: the
    absolute value of each weight at initialization."""
    initial_vote: UnitPositive = 0.2
    """Size of every θ before the first round; small = signs are easy to flip at first."""
    step: NotNegative = 0.26
    """How far the scores, which start at θ in [-1, 1], move in one round if its local steps were independent: each is
    step / √(local steps), so that a client with much data does not drown its neighbours. 0 freezes the signs."""
    gradient: Literal["identity", "tanh"] = "identity"
    """Straight-through estimator: the gradient of sign(s) is taken as 1, or as 1 - tanh²(s)."""
    norm_learning_rate: NotNegative = 0.3
    """SGD step size of biases and of the norm layers' scale and shift; 0 freezes them."""
    drop: Literal["theta", "margin", "both"] = "theta"
    """Which signs an adjustment prunes: those of the smallest |θ|, which remembers all rounds; those whose mean vote in
    this round is the closest; or those whose larger of both is the smallest."""
    abstain: Fraction = 0.0
    """Fraction of the kept weights on which a client does not vote, with `aggregation.signs = "drift"`."""
    voters: Literal["random", "largest"] = "random"
    """On which it votes then. `random`: drawn anew by each client in each round, from a seed of 4 bytes that travels; θ
    moves by the mean over those who voted. `largest`: those of each layer whose scores moved most; votes are ternary,
    which costs the less the more abstain, and θ moves by the mean over all."""


class WeightSettings(Settings):
    """The representation `weights`: the kept weights themselves, in float, by SGD."""

    learning_rate: NotNegative = 0.03
    momentum: Fraction = 0.9
    weight_decay: NotNegative = 0.0


class SupermaskSettings(Settings):
    """The representation `supermask`: frozen weights, and a trained probability to keep each (FedPM)."""

    learning_rate: NotNegative = 0.1
    """Adam's, for the scores, whose sigmoids the probabilities are."""
    reset: Count = 1
    """Rounds after which the coordinator forgets the masks that it was sent; between, θ is the mean over their rounds.
    The paper has as many as it takes to ask each client once; the authors' program has 1."""
    norm_learning_rate: NotNegative = 0.0
    """SGD step size of biases and of the norm layers' scale and shift; 0 freezes them, as in the paper."""
