"""What one round leaves behind: a line of `metrics.jsonl`.

Everything outside ``measured`` depends on the configuration and the seed alone, so two runs of the same experiment on
one machine write it bit by bit the same. ``measured`` holds what a clock or the kernel said.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from hedgerow.errors import FailureKind

__all__ = [
    "AdjustmentRecord",
    "CandidateRecord",
    "Failure",
    "LevelRecord",
    "Measured",
    "PhaseBytes",
    "PlanRecord",
    "RecalibrationRecord",
    "RoundRecord",
    "SectionBytes",
    "SelectionRecord",
    "read_records",
]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Failure(_Record):
    """A client that was asked and did not deliver."""

    client: str
    reason: str
    kind: FailureKind = "device"


class SectionBytes(_Record):
    """All sections of one kind and codec that travelled in one direction."""

    bytes: int
    """Length of their encoded symbols, without envelopes."""
    entropy: float
    """Shannon bound of what they had to say, in bytes."""


class PhaseBytes(_Record):
    """Bytes that one client's training held at most in each phase: network and optimisers' state included."""

    forward: int
    """Running the network; activations are kept for the backward pass."""
    backward: int
    """Making the gradients; activations go."""
    update: int
    """The optimiser's step."""
    growth: int = 0
    """After training, looking for gradients of pruned weights; 0 in rounds that do not adjust the mask."""

    @property
    def peak(self) -> int:
        """The largest of them."""
        return max(self.forward, self.backward, self.update, self.growth)


class Measured(_Record):
    """What differs from one execution to the next."""

    seconds: float
    """Wall-clock seconds of the whole round, evaluation included."""
    evaluation_seconds: float
    """The part of `seconds` that the coordinator's evaluation took."""
    client_seconds: float
    """Sum of the seconds that the cohort's clients trained."""
    client_peak_bytes: int | None
    """Largest measured peak of what torch held for one client's training, in bytes: network, optimisers' state, and the
    most that one step allocates. None where no client measured it, as where devices plan for their memory."""
    client_phase_bytes: PhaseBytes | None = None
    """The same by phase, each the largest of any client."""
    client_ledger_bytes: PhaseBytes | None = None
    """What `hedgerow.ledger` computes for the same from the model, the mask and the settings. Nothing here was
    measured, but which kernels it is about was."""
    client_held_bytes: int | None = None
    """Largest measured peak of a client's process while it answered, beyond what it held before its first request, in
    bytes: reading, training, looking for gradients. None where nobody measured it."""
    native_share: float | None = None
    """Fraction of the kept weights that native sparse kernels computed with, the mean over the clients that said."""
    coordinator_peak_bytes: int | None
    """Peak resident memory of the coordinator's process so far, in bytes."""


class CandidateRecord(_Record):
    """One pruned network of the pool that the first mask was chosen from."""

    name: str
    """As the configuration says how it was pruned, such as `synflow/global`."""
    loss: float | None
    """Mean cross-entropy on the devices' samples, weighted by their numbers, in nats; None where it is not finite."""
    kept: int
    """Number of kept weights."""
    layer_density: dict[str, float]
    """Kept fraction of each prunable tensor, by name."""


class SelectionRecord(_Record):
    """How the devices chose the mask that training begins with."""

    candidates: tuple[CandidateRecord, ...] = Field(min_length=1)
    winner: int
    """Place of the chosen one in `candidates`, from 0."""
    replies: tuple[int, int]
    """Devices whose statistics were pooled, and devices whose losses were."""
    failures: tuple[Failure, ...] = ()
    bytes_up: int
    """Length of all messages from clients in both steps, as encoded, envelope included."""
    bytes_down: int
    """Length of all messages to clients in both steps, as encoded, envelope included."""

    @model_validator(mode="after")
    def _check_winner(self) -> Self:
        if not 0 <= self.winner < len(self.candidates):
            raise ValueError("the winner has to be one of the candidates")
        return self


class AdjustmentRecord(_Record):
    """A change of the mask at the end of a round: the least important weights were pruned, others grew."""

    block: int
    """0 holds the output of the network, the last the input."""
    pruned: dict[str, int]
    """Number of weights that were pruned, by tensor."""
    grown: dict[str, int]
    """Number of weights that grew, by tensor; in an exchange as many as were pruned, in each or in all together."""

    @property
    def weights(self) -> int:
        """Number of weights that were pruned in all tensors."""
        return sum(self.pruned.values())

    @property
    def exchange(self) -> bool:
        """Whether as many grew as were pruned, in each tensor."""
        return self.grown == self.pruned

    @property
    def balanced(self) -> bool:
        """Whether as many grew as were pruned, in all tensors together."""
        return sum(self.grown.values()) == self.weights


class LevelRecord(_Record):
    """What devices trained of one part of the network in a round."""

    level: int
    """0 is the whole; each further one is inside the one before."""
    kept: int
    """Number of weights that it kept in this round."""
    replies: int
    """Devices whose reply was folded."""
    examples: int
    """Training samples behind those."""


class PlanRecord(_Record):
    """Devices said, before their first round, which part of the network they have memory for."""

    levels: dict[int, int]
    """How many chose each level."""
    refused: int
    """How many have too little memory for each part; they are not asked again until the coordinator starts anew."""
    least_bytes: int | None = None
    """What would do for the one of those that lacks least, as it said; None where there are none."""
    budgets: dict[int, int] = {}
    """The least memory of those that chose each level, in bytes, as they said."""
    predicted: dict[int, int] = {}
    """The most memory that one of those that chose each level will use, in bytes, as they computed it."""
    failures: tuple[Failure, ...] = ()
    bytes_up: int
    """Length of all messages from clients, as encoded, envelope included."""
    bytes_down: int
    """Length of all messages to clients, as encoded, envelope included."""


class RecalibrationRecord(_Record):
    """Devices measured the statistics of batch-norm layers anew before an evaluation."""

    replies: int
    """Devices whose statistics were pooled."""
    bytes_up: int
    """Length of all messages from clients, as encoded, envelope included."""
    bytes_down: int
    """Length of all messages to clients, as encoded, envelope included."""


class RoundRecord(_Record):
    """One round. Round 0 is the state before any training."""

    round: int
    accuracy: float | None = None
    """Fraction of the test samples that the global network classifies rightly; None in rounds without evaluation."""
    loss: float | None = None
    """Mean cross-entropy on the test samples, in nats; None in rounds without evaluation."""
    train_loss: float | None = None
    """Mean cross-entropy over the cohort's local steps, weighted by their numbers of samples, in nats."""
    density: float
    """Kept fraction of all prunable weights."""
    layer_density: dict[str, float]
    """Kept fraction of each prunable tensor, by name."""
    kept: int
    """Number of kept weights."""
    cohort: int
    """Clients asked."""
    replies: int
    """Clients whose reply was folded."""
    late: int = 0
    """Clients asked whose reply was not in when the round ended."""
    examples: int
    """Training samples behind the folded replies."""
    failures: tuple[Failure, ...] = ()
    bytes_up: int
    """Length of all messages from clients, as encoded, envelope included."""
    bytes_down: int
    """Length of all messages to clients that replied or failed, as encoded, envelope included."""
    entropy_up: float
    """Shannon bound of what `bytes_up` had to say, in bytes: see `hedgerow.codec.entropy`."""
    entropy_down: float
    """Shannon bound of what `bytes_down` had to say, in bytes."""
    sections_up: dict[str, SectionBytes] = {}
    """What the folded replies held, by kind and codec, such as `signs/bits`."""
    sections_down: dict[str, SectionBytes] = {}
    """What the requests of `bytes_down` held, by kind and codec, such as `votes/bytes_zstd`."""
    updated: int = 0
    """Clients that were sent what changed since a version that they held; the others were sent the whole."""
    mask_churn: float = 0.0
    """Fraction of the kept positions that the mask before this round did not keep."""
    flip_rate: float | None = None
    """Fraction of the kept signs that this round changed in the global network; None without signs."""
    client_flip_rate: float | None = None
    """Mean fraction of the kept signs that a client changed against the broadcast; None where replies
    do not tell."""
    vote_margin: float | None = None
    """Mean of \\|θ\\| over the kept weights: 0 = undecided, 1 = as sure as can be; None without signs."""
    selection: SelectionRecord | None = None
    """How the mask was chosen; only round 0 can have it. Its bytes and replies are not among those of the round."""
    adjustment: AdjustmentRecord | None = None
    """What this round pruned and grew; None in rounds that leave the mask."""
    levels: tuple[LevelRecord, ...] = ()
    """Where devices train parts of the network: what came of each. All else is said of the largest part that was ever
    trained, which is the network that a run delivers."""
    plans: PlanRecord | None = None
    """What devices said of their memory before this round; None where nobody was asked. Its bytes are not among those
    of the round."""
    recalibration: RecalibrationRecord | None = None
    """What it took to renew the statistics before this round's evaluation; not among the round's own bytes."""
    measured: Measured

    @property
    def all_bytes_up(self) -> int:
        """`bytes_up`, with those of the selection, of the plans and of the recalibration."""
        return self.bytes_up + sum(step.bytes_up for step in self._beside())

    @property
    def all_bytes_down(self) -> int:
        """`bytes_down`, with those of the selection, of the plans and of the recalibration."""
        return self.bytes_down + sum(step.bytes_down for step in self._beside())

    @property
    def all_entropy_up(self) -> float:
        """`entropy_up`, with the bytes of what is beside the round, which have no bound of their own."""
        return self.entropy_up + self.all_bytes_up - self.bytes_up

    @property
    def all_entropy_down(self) -> float:
        """`entropy_down`, with the bytes of what is beside the round, which have no bound of their own."""
        return self.entropy_down + self.all_bytes_down - self.bytes_down

    def _beside(self) -> list[SelectionRecord | PlanRecord | RecalibrationRecord]:
        return [step for step in (self.selection, self.plans, self.recalibration) if step is not None]


def read_records(path: Path) -> list[RoundRecord]:
    """Reads `metrics.jsonl`; a last line that was cut off by a kill is left out."""
    records: list[RoundRecord] = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if not line.endswith("\n"):
            break
        records.append(RoundRecord.model_validate(json.loads(line)))
    return records
