"""What a training step takes at most: computed from shapes, and put right by what this machine was measured to take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hedgerow.ledger import Ledger, Plan, Traced, ledger_of

__all__ = ["Calibration", "Prediction", "Probe", "predict", "prediction_of"]

_PHASES = ("forward", "backward", "update")


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One measured step.

    Attributes:
        samples: that went through the network at once.
        computed: what the ledger says of it.
        phases: bytes that it took at most in `forward`, `backward` and `update`, without `Ledger.scratch`.
    """

    samples: int
    computed: Ledger
    phases: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What steps take beyond what is computed: fixed + each · N bytes for N samples at once, in each phase.

    Of two steps a line is made only where the larger one is further off. What is less for more samples is of small
    steps only: then the larger one's is taken for all.

    Attributes:
        fixed: bytes, by phase.
        each: bytes a sample, by phase.
    """

    fixed: Mapping[str, float] = field(default_factory=dict)
    each: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, probes: Sequence[Probe]) -> Calibration:
        """What two steps of different sizes say."""
        first, second = sorted(probes, key=lambda probe: probe.samples)
        assert first.samples < second.samples, "two sizes make a line"
        fixed, each = {}, {}
        for name in _PHASES:
            low, high = (probe.phases[name] - probe.computed.phases[name] for probe in (first, second))
            grows = abs(high) > abs(low) and low * high >= 0
            each[name] = (high - low) / (second.samples - first.samples) if grows else 0.0
            fixed[name] = high - each[name] * second.samples
        return cls(fixed=fixed, each=each)

    def of_phase(self, name: str, samples: int) -> int:
        """Bytes that a phase takes beyond what is computed; negative where it takes less."""
        return round(self.fixed.get(name, 0.0) + self.each.get(name, 0.0) * samples)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What a training step takes.

    Attributes:
        step_bytes: bytes at most, of the network, the optimiser, the working memory and all that comes and goes.
        phases: bytes at most in `forward`, `backward` and `update`, working memory of kernels included.
        lasting: bytes between two steps.
        calibrated: whether this machine was measured for it.
    """

    step_bytes: int
    phases: Mapping[str, int]
    lasting: int
    calibrated: bool


def predict(network: Traced, kept: Mapping[str, int], plan: Plan, calibration: Calibration | None = None) -> Prediction:
    """Says what a step takes at most; the same arguments always give the same prediction.

    Args:
        network: what `hedgerow.ledger.traced` found.
        kept: how many weights of each prunable tensor are kept.
        plan: how it is trained; `hedgerow.ledger.plan_of` makes it of settings.
        calibration: what was measured for this network with such a plan; nothing is put right when None.

    >>> from torch import nn
    >>> from hedgerow.ledger import traced
    >>> network = traced(nn.Sequential(nn.Linear(4, 3)), (4,))
    >>> found = predict(network, {"0.weight": 12}, Plan(samples=2, native=False, state_bytes=0))
    >>> found.lasting, found.phases["update"], found.calibrated
    (60, 120, False)
    """
    return prediction_of(ledger_of(network, kept, plan), samples=plan.samples, calibration=calibration)


def prediction_of(computed: Ledger, *, samples: int, calibration: Calibration | None = None) -> Prediction:
    """The same of a ledger that there is already.

    Args:
        computed: what a step takes by its shapes.
        samples: that go through the network at once in it.
        calibration: see `predict`.
    """
    phases = {}
    for name, size in computed.phases.items():
        more = 0 if calibration is None else calibration.of_phase(name, samples)
        # Whatever was measured, a step does not take less than what lasts.
        phases[name] = max(computed.lasting, size + more) + computed.scratch
    return Prediction(
        step_bytes=max(phases.values()),
        phases=phases,
        lasting=computed.lasting + computed.scratch,
        calibrated=calibration is not None,
    )
