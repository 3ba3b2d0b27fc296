"""The configuration of an experiment: typed, frozen, complete.

An experiment is a value on orthogonal axes (data × partition × model × saliency × density rule × representation ×
training × aggregation). A recipe is a TOML file that sets some of them; see `hedgerow.config.load`.
"""

from __future__ import annotations

import hashlib
import json
from fractions import Fraction as Exact
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from hedgerow.config.pool import PoolEntry
from hedgerow.units import parse_bytes

__all__ = [
    "AdjustmentSettings",
    "AggregationSettings",
    "BudgetSettings",
    "DataSettings",
    "DeviceClass",
    "EvaluationSettings",
    "Experiment",
    "ExtrusionSettings",
    "FleetSettings",
    "ModelSettings",
    "PrivacySettings",
    "PruningSettings",
    "SelectionSettings",
    "SignSettings",
    "SupermaskSettings",
    "TrainingSettings",
    "WeightSettings",
    "WireSettings",
]

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
UnitPositive = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, validate_default=True)


class DataSettings(_Settings):
    """Which samples, and how a simulation divides them among its clients."""

    name: str = "digits"
    """`digits`, `fashion-mnist`, `folder`, `idx`, `npz`, or your own `package.module:function`."""
    path: str | None = None
    """File or folder that `name` reads; the default place of the data set when absent."""
    partition: Literal["iid", "dirichlet", "shards"] = "dirichlet"
    alpha: Positive = 0.5
    """Concentration of `dirichlet`: small = each client sees few classes."""
    shards: Count = 2
    """Label-sorted shards a client gets with `shards`."""
    min_samples: Count = 10
    """`dirichlet` is drawn again until every client has at least this many samples."""


class DeviceClass(_Settings):
    """Some of a simulation's clients, which have so much memory."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")]
    share: UnitPositive
    """Fraction of the clients."""
    memory: str
    """That such a client may use for training, beside what Python and torch take: `"96MB"`, `"1GiB"`."""

    @field_validator("memory")
    @classmethod
    def _memory_is_a_size(cls, memory: str) -> str:
        parse_bytes(memory)
        return memory

    @property
    def memory_bytes(self) -> int:
        """`memory` as a number."""
        return parse_bytes(self.memory)


class FleetSettings(_Settings):
    """How many clients there are and how many of them a round asks."""

    clients: Count = 20
    cohort: Count = 10
    """Usable replies that end a round; so many clients are asked, drawn without replacement from (seed, round)."""
    oversampling: NotNegative = 0.0
    """Clients asked beyond `cohort`, as a fraction of it, so that a round need not wait for its slowest."""
    deadline: Positive | None = None
    """Seconds after which a round ends once `aggregation.min_replies` usable replies are in; never when absent."""
    # Not strict, as TOML has lists only.
    devices: Annotated[tuple[DeviceClass, ...], Field(strict=False, max_length=64)] = ()
    """Classes of a simulation's clients, by memory: `{name, share, memory}` each."""

    @property
    def device_counts(self) -> tuple[int, ...]:
        """How many clients each class has: the nearest whole numbers that add up (largest remainders).

        >>> half = DeviceClass(name="small", share=0.5, memory="8MB")
        >>> other = DeviceClass(name="large", share=0.5, memory="64MB")
        >>> FleetSettings(clients=5, cohort=5, devices=(half, other)).device_counts
        (3, 2)
        """
        shares = [Exact(str(device.share)) for device in self.devices]
        quotas = [self.clients * share / sum(shares) for share in shares]
        counts = [int(quota) for quota in quotas]
        # Of equal remainders the class that is named first gets more; sorting is stable.
        order = sorted(range(len(quotas)), key=lambda place: counts[place] - quotas[place])
        for place in order[: self.clients - sum(counts)] if order else ():
            counts[place] += 1
        return tuple(counts)

    @model_validator(mode="after")
    def _classes_are_of_all(self) -> FleetSettings:
        names = [device.name for device in self.devices]
        if len(set(names)) != len(names):
            raise ValueError(f"fleet.devices names a class twice among {', '.join(names)}; give each its own name")
        total = sum(device.share for device in self.devices)
        if self.devices and abs(total - 1) > 1e-6:
            raise ValueError(f"the shares of fleet.devices add up to {total:g}; make them add up to 1")
        for name, count in zip(names, self.device_counts, strict=True):
            if count == 0:
                raise ValueError(
                    f"class {name!r} of fleet.devices has no client among {self.clients}; raise its share, or "
                    "fleet.clients"
                )
        return self

    @model_validator(mode="after")
    def _cohort_fits(self) -> FleetSettings:
        if self.cohort > self.clients:
            raise ValueError(f"fleet.cohort is {self.cohort}, but fleet.clients is only {self.clients}")
        return self


class ModelSettings(_Settings):
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


class PruningSettings(_Settings):
    """The mask that the coordinator makes at initialization, without data unless `saliency` is `snip`."""

    density: UnitPositive = 0.05
    """Kept fraction of all prunable weights; 1 = dense."""
    saliency: Literal["synflow", "magnitude", "random", "lamp", "snip"] = "synflow"
    """What scores the weights. `snip` looks at `selection.public_samples`, all of them as one batch."""
    rule: Literal["global", "uniform", "erk", "igq"] = "global"
    iterations: Count = 100
    """Steps of SynFlow's exponential schedule."""


class SelectionSettings(_Settings):
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


class AdjustmentSettings(_Settings):
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
    (PruneFL). `rate` bounds what comes of each tensor, and what goes of all. Densities of layers change then."""

    def last(self, rounds: int) -> int:
        """The last round that may adjust, of a run of so many."""
        return rounds // 2 if self.until is None else self.until


class ExtrusionSettings(_Settings):
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


class SignSettings(_Settings):
    """The representation `signs`: frozen magnitudes, one trained sign a kept weight (HideNseek)."""

    magnitude: Literal["constant", "random"] = "constant"
    """`constant`: √(2 / kept fan-in) in a layer; `random`: the absolute value of each weight at initialization."""
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


class WeightSettings(_Settings):
    """The representation `weights`: the kept weights themselves, in float, by SGD."""

    learning_rate: NotNegative = 0.03
    momentum: Fraction = 0.9
    weight_decay: NotNegative = 0.0


class SupermaskSettings(_Settings):
    """The representation `supermask`: frozen weights, and a trained probability to keep each (FedPM)."""

    learning_rate: NotNegative = 0.1
    """Adam's, for the scores, whose sigmoids the probabilities are."""
    reset: Count = 1
    """Rounds after which the coordinator forgets the masks that it was sent; between, θ is the mean over their rounds.
    The paper has as many as it takes to ask each client once; the authors' program has 1."""
    norm_learning_rate: NotNegative = 0.0
    """SGD step size of biases and of the norm layers' scale and shift; 0 freezes them, as in the paper."""


class TrainingSettings(_Settings):
    """What a client does in one round."""

    epochs: Count = 2
    steps: Count | None = None
    """The most optimiser steps a client takes in one round, however many samples it has. None: all of its epochs."""
    batch_size: Annotated[int, Field(ge=2)] = 16
    schedule: Literal["constant", "cosine"] = "cosine"
    """How the step sizes fall over the rounds."""
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
    """Samples that go through the network at once; the gradients of a batch are summed over its parts. Less memory, and
    the same step but for batch norm, which then sees the statistics of each part. The whole batch when absent."""
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

    @model_validator(mode="after")
    def _parts_fit(self) -> TrainingSettings:
        if self.micro_batch is not None and self.micro_batch > self.batch_size:
            raise ValueError(
                f"training.micro_batch is {self.micro_batch}, but training.batch_size is only {self.batch_size}"
            )
        return self


class AggregationSettings(_Settings):
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
    min_replies: Count = 1
    """The quorum: a round with fewer usable replies changes nothing. A simulation ends with an error then,
    a coordinator plays the round again."""


class WireSettings(_Settings):
    """How what travels is coded. What a number costs is decided here; what it says, elsewhere."""

    coder: Literal["entropy", "plain"] = "entropy"
    """`entropy`: range coders, with the statistics of each layer and of what both ends know; `plain`: packed bits,
    bytes under Zstandard and floats as they are."""
    history: Annotated[int, Field(ge=0, le=1000)] = 32
    """Versions that the coordinator remembers: a device that acknowledged one of them is sent what changed since. 0:
    everybody is sent the whole each time."""
    down: Literal["fp32", "fp16", "bf16"] = "fp32"
    """Floats in requests: what is never pruned, and the kept weights where they are floats. Differences from an older
    version are sent of the half precisions only."""
    up: Literal["fp32", "fp16", "bf16", "int8", "uniform"] = "fp32"
    """Floats in replies: the values themselves, or with `int8` and `uniform` what training changed. `int8`: blocks of
    8-bit integers with a scale each; `uniform`: multiples of a step, entropy-coded."""
    step: Positive = 1.0
    """Of `uniform`: the quantiser's step as a fraction of the root mean square of each tensor's change."""
    error_feedback: bool = True
    """Of `int8` and `uniform`: a client keeps what rounding left over, and adds it to its next change."""
    drop: Fraction = 0.0
    """Of `int8` and `uniform`: fraction of the kept weights' changes that are not sent, drawn anew by each client in
    each round from a seed that travels; the others are divided by 1 - drop (DARE, Yu et al. 2023)."""


class PrivacySettings(_Settings):
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


class BudgetSettings(_Settings):
    """Training inside the memory that a device has."""

    plan: bool = False
    """Whether devices choose how they train by the memory that they have: `training` says how they would like to, and
    they depart from it where that does not fit, by what costs the least accuracy."""
    # Not strict, as TOML has lists only.
    levels: Annotated[tuple[float, ...], Field(strict=False, min_length=1, max_length=8)] = (1.0,)
    """Parts of the kept weights that devices may train, as fractions of them: all, and then smaller ones, each inside
    the one before. A device with too little memory for one trains the next."""
    nest: Literal["salient", "random"] = "salient"
    """Which weights a smaller part has: those of the largest scores, or drawn ones."""
    norms: Literal["private", "shared"] = "private"
    """Whether each part of the network has running means and variances of its own."""
    hard: bool = False
    """Let the system refuse a device what goes beyond its memory while it answers, so that a mistaken prediction fails
    the request and takes nothing from others on the machine. Linux only; elsewhere nothing is refused."""

    @field_validator("levels")
    @classmethod
    def _levels_descend(cls, levels: tuple[float, ...]) -> tuple[float, ...]:
        if levels[0] != 1 or not levels[-1] > 0:
            raise ValueError(f"budget.levels is {list(levels)}; begin with 1, which is the whole, and stay above 0")
        for one, next_one in pairwise(levels):
            if next_one > 0.8 * one * (1 + 1e-9):
                raise ValueError(
                    f"budget.levels has {next_one:g} after {one:g}; make each at most 0.8 of the one before"
                )
        return levels


class EvaluationSettings(_Settings):
    """When the coordinator evaluates on the test samples."""

    every: Count = 1
    """Evaluate each so many rounds; the last round always is."""
    batch_size: Count = 64
    recalibrate: bool = False
    """Ask the round's clients for the batch-norm statistics of the network before it is evaluated; it keeps them."""
    fraction: UnitPositive = 0.1
    """Of its samples that a client looks at for them; at least one batch."""


class Experiment(_Settings):
    """Everything that decides a run's result."""

    recipe: str = "hidenseek"
    """The name of the preset that this came from; a label, not part of the identity."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    rounds: Count = 30
    representation: Literal["signs", "weights", "supermask"] = "signs"
    data: DataSettings = DataSettings()
    fleet: FleetSettings = FleetSettings()
    model: ModelSettings = ModelSettings()
    pruning: PruningSettings = PruningSettings()
    selection: SelectionSettings = SelectionSettings()
    adjustment: AdjustmentSettings = AdjustmentSettings()
    extrusion: ExtrusionSettings = ExtrusionSettings()
    signs: SignSettings = SignSettings()
    weights: WeightSettings = WeightSettings()
    supermask: SupermaskSettings = SupermaskSettings()
    training: TrainingSettings = TrainingSettings()
    aggregation: AggregationSettings = AggregationSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    wire: WireSettings = WireSettings()
    privacy: PrivacySettings = PrivacySettings()
    budget: BudgetSettings = BudgetSettings()

    @model_validator(mode="after")
    def _budgets_are_planned_for(self) -> Experiment:
        budget = self.budget
        asking = {
            "fleet.devices says how much memory clients have": bool(self.fleet.devices),
            f"budget.levels has {len(budget.levels)} parts of the network": len(budget.levels) > 1,
            "budget.hard limits memory": budget.hard,
        }
        for what in [what for what, asked in asking.items() if asked and not budget.plan]:
            raise ValueError(
                f"{what}, but budget.plan is false, so nobody plans for it; set it to true, or leave that out"
            )
        if budget.hard and self.training.kernels == "auto":
            raise ValueError(
                'budget.hard limits memory, but training.kernels is "auto", and to measure which are faster takes more '
                'than to train; set it to "native" or "dense"'
            )
        return self

    @model_validator(mode="after")
    def _replies_fit(self) -> Experiment:
        needed, asked = self.aggregation.min_replies, self.fleet.cohort
        if needed > asked:
            raise ValueError(f"aggregation.min_replies is {needed}, but fleet.cohort is only {asked}")
        return self

    @model_validator(mode="after")
    def _votes_fit(self) -> Experiment:
        if self.signs.abstain and self.aggregation.signs != "drift":
            raise ValueError(
                f"signs.abstain is {self.signs.abstain}, but only drifts can abstain; set it to 0, or "
                f'aggregation.signs to "drift" instead of {self.aggregation.signs!r}'
            )
        return self

    @model_validator(mode="after")
    def _proximal_fits(self) -> Experiment:
        if self.training.proximal and self.representation != "weights":
            raise ValueError(
                f"training.proximal is {self.training.proximal:g}, but representation is {self.representation!r}, "
                'whose scores are no weights to stay near; set it to 0, or representation to "weights"'
            )
        return self

    @model_validator(mode="after")
    def _supermasks_fit(self) -> Experiment:
        if self.representation != "supermask":
            return self
        asking = {
            f"adjustment.every is {self.adjustment.every}": self.adjustment.every > 0,
            f"selection.candidates is {self.selection.candidates}": self.selection.candidates > 0,
            f"budget.levels has {len(self.budget.levels)} parts": len(self.budget.levels) > 1,
        }
        for what in [what for what, asked in asking.items() if asked]:
            raise ValueError(
                f'representation is "supermask", which learns itself what to keep, but {what}; leave that out, or set '
                'representation to "signs" or "weights"'
            )
        return self

    @model_validator(mode="after")
    def _norms_fit(self) -> Experiment:
        norm, training = self.model.norm, self.training
        if training.topk_layers == "standardised" and (norm != "nsconv" or training.activations != "topk"):
            raise ValueError(
                f'training.topk_layers is "standardised", but model.norm is {norm!r} and training.activations is '
                f'{training.activations!r}; set these to "nsconv" and "topk", or topk_layers to "all"'
            )
        asking = {
            "selection.candidates": self.selection.candidates > 0,
            "evaluation.recalibrate": self.evaluation.recalibrate,
        }
        for name in [name for name, asks in asking.items() if asks and norm == "nsconv"]:
            raise ValueError(
                f'{name} asks devices for batch-norm statistics, which there are none of with model.norm = "nsconv"; '
                'leave it out, or set model.norm to "batch"'
            )
        return self

    @model_validator(mode="after")
    def _candidates_differ(self) -> Experiment:
        if self.selection.candidates and self.first_density == 1:
            name = "pruning.density" if self.adjustment.density == "constant" else "adjustment.start_density"
            raise ValueError(
                f"selection.candidates is {self.selection.candidates}, but with {name} 1 all masks are one; "
                "set it to 0, or prune"
            )
        return self

    @model_validator(mode="after")
    def _public_samples_have_a_use(self) -> Experiment:
        selection, looks = self.selection, self.pruning.saliency == "snip" and not self.selection.candidates
        if looks and selection.public_samples < 2:
            raise ValueError(
                'pruning.saliency is "snip", which looks at samples that the coordinator has for itself, but '
                f"selection.public_samples is {selection.public_samples}; set it to the size of one batch, such as 128"
            )
        if selection.public_samples and not selection.candidates and not looks:
            raise ValueError(
                f"selection.public_samples is {selection.public_samples}, but selection.candidates is 0, so nothing is "
                "made of them; set both"
            )
        return self

    @model_validator(mode="after")
    def _adjustments_can_be_made(self) -> Experiment:
        every, last = self.adjustment.every, self.adjustment.last(self.rounds)
        if every and self.pruning.density == 1:
            raise ValueError(
                f"adjustment.every is {every}, but with pruning.density 1 no weight is pruned that could grow; set it "
                "to 0, or prune"
            )
        if every > last:
            raise ValueError(
                f"adjustment.every is {every}, but round {last} is the last that may adjust, so none does; set every "
                f"to {last} or less, or until to {every} or more"
            )
        asks = every > 0 and self.adjustment.density == "constant"
        if asks and (self.privacy.noise or self.privacy.vote_epsilon is not None):
            raise ValueError(
                f"adjustment.every is {every}, but the gradients that it asks for are sent without noise, which would "
                "break what privacy.noise and privacy.vote_epsilon promise; set it to 0, or do without those"
            )
        return self

    @model_validator(mode="after")
    def _density_falls(self) -> Experiment:
        adjustment, end = self.adjustment, self.pruning.density
        every, start = adjustment.every, adjustment.start_density
        if adjustment.density == "constant":
            if start is not None:
                raise ValueError(
                    f'adjustment.start_density is {start:g}, but adjustment.density is "constant", so it would not '
                    'fall; leave it out, or set adjustment.density to "cubic"'
                )
            return self
        if start is None or start <= end:
            raise ValueError(
                f'adjustment.density is "cubic", but adjustment.start_density is {start}; set it to a density above '
                f"pruning.density, which is {end:g}"
            )
        if every == 0 or adjustment.last(self.rounds) < 2 * every:
            raise ValueError(
                f'adjustment.density is "cubic", but with adjustment.every {every} and until '
                f"{adjustment.last(self.rounds)} fewer than two rounds adjust; set every to 1 or more, and until to at "
                "least twice that"
            )
        if adjustment.blocks != 1:
            raise ValueError(
                f'adjustment.density is "cubic", which prunes all tensors in each adjustment, but adjustment.blocks is '
                f"{adjustment.blocks}; leave it out"
            )
        return self

    @model_validator(mode="after")
    def _marks_are_pruned(self) -> Experiment:
        penalty, adjustment = self.extrusion.penalty, self.adjustment
        if penalty == 0:
            return self
        if adjustment.every == 0:
            raise ValueError(
                f"extrusion.penalty is {penalty:g}, but adjustment.every is 0, so no weight is going to be pruned; set "
                "every, or the penalty to 0"
            )
        if self.representation == "signs":
            raise ValueError(
                f'extrusion.penalty is {penalty:g}, but representation is "signs", whose sizes are frozen; set the '
                'penalty to 0, or representation to "weights"'
            )
        if adjustment.density == "cubic" and self.pruning.rule == "global":
            raise ValueError(
                f'extrusion.penalty is {penalty:g}, but by adjustment.density "cubic" and pruning.rule "global" nobody '
                'knows before a round which tensors lose weights; set the rule to "uniform" or "erk", or the penalty '
                "to 0"
            )
        return self

    @model_validator(mode="after")
    def _devices_can_adjust(self) -> Experiment:
        adjustment = self.adjustment
        if adjustment.by == "coordinator":
            if adjustment.after != AdjustmentSettings().after:
                raise ValueError(
                    f'adjustment.after is {adjustment.after:g}, but adjustment.by is "coordinator", which adjusts '
                    'between rounds; leave it out, or set adjustment.by to "devices"'
                )
            return self
        if self.representation == "signs":
            raise ValueError(
                'adjustment.by is "devices", but representation is "signs", whose votes are about one mask; set '
                'representation to "weights", or adjustment.by to "coordinator"'
            )
        asking = {
            f'adjustment.density is "{adjustment.density}", in which only the coordinator knows how many go': (
                adjustment.density != "constant"
            ),
            'adjustment.gradient is "sent", of weights that a device no longer has': adjustment.gradient == "sent",
            f"extrusion.penalty is {self.extrusion.penalty:g}, for weights that are known before the round": (
                self.extrusion.penalty > 0
            ),
            f"budget.levels has {len(self.budget.levels)} parts, each with one mask": len(self.budget.levels) > 1,
        }
        for what in [what for what, asked in asking.items() if asked]:
            raise ValueError(f'adjustment.by is "devices", but {what}; leave that out, or set it to "coordinator"')
        if adjustment.every == 0:
            raise ValueError(
                'adjustment.by is "devices", but adjustment.every is 0, so nobody adjusts; set every, or leave it out'
            )
        return self

    @model_validator(mode="after")
    def _gradients_can_decide(self) -> Experiment:
        adjustment = self.adjustment
        if adjustment.criterion == "magnitude":
            return self
        if adjustment.every == 0:
            raise ValueError(
                'adjustment.criterion is "gradient", but adjustment.every is 0, so nothing is decided; set every, or '
                "leave it out"
            )
        asking = {
            'representation is "signs", whose gradients are of another size than those of what is pruned': (
                self.representation == "signs"
            ),
            'adjustment.by is "devices", which adjust by their own gradients alone': adjustment.by == "devices",
            f'adjustment.density is "{adjustment.density}", in which weights only go': adjustment.density != "constant",
            f"adjustment.blocks is {adjustment.blocks}, but all tensors are compared": adjustment.blocks != 1,
            "adjustment.relative is true, in units that kept weights have none of": adjustment.relative,
            f"extrusion.penalty is {self.extrusion.penalty:g}, for weights that are known before the round": (
                self.extrusion.penalty > 0
            ),
            f"budget.levels has {len(self.budget.levels)} parts, and who trains one knows only its gradients": (
                len(self.budget.levels) > 1
            ),
        }
        for what in [what for what, asked in asking.items() if asked]:
            raise ValueError(
                f'adjustment.criterion is "gradient", but {what}; leave that out, or set it to "magnitude"'
            )
        return self

    @property
    def first_density(self) -> float:
        """The density of the mask before the first round."""
        start = self.adjustment.start_density
        return self.pruning.density if start is None else start

    @model_validator(mode="after")
    def _noise_covers_what_is_said(self) -> Experiment:
        noisy = self.privacy.vote_epsilon is not None or self.privacy.noise > 0
        asking = {
            "selection.candidates": self.selection.candidates > 0,
            "evaluation.recalibrate": self.evaluation.recalibrate,
        }
        for name in [name for name, asks in asking.items() if asks and noisy]:
            raise ValueError(
                f"{name} makes devices say statistics of their samples without noise, which would break what "
                "privacy.noise and privacy.vote_epsilon promise; leave it out, or do without those"
            )
        return self

    def digest(self) -> str:
        """12 hexadecimal digits that name this experiment.

        Values equal to the defaults are left out, so a new field with a default never renames old runs.

        >>> Experiment().digest() == Experiment(recipe="mine").digest()
        True
        >>> Experiment().digest() == Experiment(seed=1).digest()
        False
        """
        identity = self.model_dump(mode="json", exclude_defaults=True, exclude={"recipe"})
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
