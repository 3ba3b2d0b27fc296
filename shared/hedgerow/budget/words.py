"""A choice in words: what was chosen, what each step saves, and what would do where nothing fits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from hedgerow.budget.deciding import Decider
from hedgerow.budget.plans import Candidate, DevicePlan, Kernels, Refusal
from hedgerow.budget.space import sizes_of_parts
from hedgerow.config import Experiment
from hedgerow.ledger import Ledger
from hedgerow.units import size_text

__all__ = ["candidate_text", "ladder_lines", "plan_lines", "plan_record", "refusal_text"]

_STEPS = ("kernels", "recompute", "micro_batch", "activations", "momentum", "level")
"""In the order in which they are told; what costs no accuracy is first."""
_WORTH_SAYING = 1.15
"""Estimates of time are not better than that."""
_PARTS = {0.5: "half", 0.25: "a quarter", 0.125: "an eighth"}


def candidate_text(candidate: Candidate, experiment: Experiment) -> str:
    """A way to train, in a few words.

    >>> candidate_text(Candidate.of(Experiment()), Experiment())
    'all kept weights, exact activations, 16 samples at once, fastest kernels'
    """
    words = [_level(candidate, experiment), _storage(candidate, experiment), f"{candidate.micro_batch} samples at once"]
    if candidate.recompute:
        words.append("blocks run again")
    if Candidate.of(experiment).momentum:
        words.append("momentum" if candidate.momentum else "no momentum")
    return ", ".join([*words, "fastest kernels" if candidate.kernels == "auto" else f"{candidate.kernels} kernels"])


def plan_lines(plan: DevicePlan, decider: Decider) -> list[str]:
    """What was chosen and why, a line each."""
    chosen, asked, experiment = plan.chosen, plan.asked, decider.experiment
    fits = f"fits {size_text(plan.budget)}: {candidate_text(chosen, experiment)}"
    works = {
        "the training step": decider.step(chosen).step_bytes,
        "looking for what grows": decider.growth_bytes(chosen),
        "reading the mask": decider.reading_bytes(chosen),
    }
    work, request = max(works, key=lambda name: works[name]), size_text(decider.request_bytes(chosen))
    lines = [
        fits,
        f"  predicted  {size_text(plan.predicted)}: {work} {size_text(works[work])}, the request {request}",
        f"  of a step  {_parts(decider.ledger(chosen))}",
    ]
    if chosen != asked:
        lines.append(f"as asked it would take {size_text(plan.asked_bytes)}, of a step {_parts(decider.ledger(asked))}")
        told = [
            (
                _change(step, chosen, experiment),
                _signed(decider.predict(after) - decider.predict(before)),
                f"{_price(step, experiment)}{_longer(decider.cost(after)[1] / decider.cost(before)[1])}",
            )
            for step, before, after in _walk(plan)
        ]
        widths = [max(len(row[column]) for row in told) for column in (0, 1)]
        lines += [f"  {what:<{widths[0]}}  {saved:>{widths[1]}}  {price}" for what, saved, price in told]
    spare = [
        f"{_change(step, candidate, experiment)} ({_signed(size)})" for step, candidate, size in _spare(plan, decider)
    ]
    if spare:
        lines.append(f"not needed: {', '.join(spare)}")
    return lines


def refusal_text(refusal: Refusal, experiment: Experiment, *, advice: str) -> str:
    """Why there is no plan, and what would do.

    Args:
        refusal: what was found.
        experiment: what was to be trained.
        advice: what to do about it, with {least} where the size belongs.
    """
    least = size_text(refusal.least)
    return (
        f"memory: {size_text(refusal.budget)} are too few for {experiment.model.name}; {least} would do with "
        f"{candidate_text(refusal.smallest, experiment)}; {advice.format(least=least.replace(' ', ''))}"
    )


def ladder_lines(decider: Decider, *, chosen: Candidate | None = None) -> list[str]:
    """Every way to train that takes less than all that cost less: memory, points of accuracy, time, and what it is."""
    asked, *others = decider.candidates
    rows, least = [asked], decider.predict(asked)
    for candidate in sorted(others, key=lambda c: (*decider.cost(c), decider.predict(c))):
        if decider.predict(candidate) < least:
            least = decider.predict(candidate)
            rows.append(candidate)
    return [
        f"{'>' if candidate == chosen else ' '} {size_text(decider.predict(candidate)):>8}"
        f"  {decider.cost(candidate)[0]:5.2f} points  time × {decider.cost(candidate)[1]:.2f}"
        f"  {candidate_text(candidate, decider.experiment)}"
        for candidate in rows
    ]


def plan_record(plan: DevicePlan | Refusal, decider: Decider) -> dict[str, Any]:
    """The same for JSON; bytes and samples are whole numbers."""
    if isinstance(plan, Refusal):
        return {
            "fits": False,
            "budget_bytes": plan.budget,
            "least_bytes": plan.least,
            "calibrated": decider.step(plan.smallest).calibrated,
            "smallest": _record(plan.smallest, decider),
        }
    return {
        "fits": True,
        "budget_bytes": plan.budget,
        "predicted_bytes": plan.predicted,
        "asked_bytes": plan.asked_bytes,
        "penalty": plan.penalty,
        "chosen": _record(plan.chosen, decider),
        "asked": _record(plan.asked, decider),
        "calibrated": decider.step(plan.chosen).calibrated,
        "request_bytes": decider.request_bytes(plan.chosen),
        "phases": _phases(decider.ledger(plan.chosen)),
    }


def _record(candidate: Candidate, decider: Decider) -> dict[str, Any]:
    penalty, time = decider.cost(candidate)
    return {
        "level": candidate.level,
        "kept": decider.kept(candidate.level),
        "kernels": candidate.kernels,
        "activations": candidate.activations,
        "micro_batch": candidate.micro_batch,
        "recompute": candidate.recompute,
        "momentum": candidate.momentum,
        "predicted_bytes": decider.predict(candidate),
        "penalty": penalty,
        "time": time,
    }


def _walk(plan: DevicePlan) -> Iterator[tuple[str, Candidate, Candidate]]:
    """From what was asked to what was chosen, a step at a time: its name, and how one trains before and after it."""
    now = plan.asked
    for step in _STEPS:
        after = replace(now, **{step: getattr(plan.chosen, step)})
        if after != now:
            yield step, now, after
            now = after


def _spare(plan: DevicePlan, decider: Decider) -> Iterator[tuple[str, Candidate, int]]:
    """Steps that were not taken, and what each would save beyond what was chosen."""
    chosen = plan.chosen
    further: dict[str, Any] = {"recompute": True, "momentum": False}
    sizes = sizes_of_parts(chosen.micro_batch)
    if len(sizes) > 1:
        further["micro_batch"] = sizes[1]
    if chosen.activations in ("exact", "int8"):
        further["activations"] = "int8" if chosen.activations == "exact" else "int4"
    further["level"] = chosen.level + 1
    known = set(decider.candidates)
    for step in _STEPS:
        if step not in further or getattr(plan.asked, step) != getattr(chosen, step):
            continue
        # Measuring kernels is for the settings' own way alone.
        kernels: Kernels = "native" if chosen.kernels == "auto" else chosen.kernels
        candidate = replace(replace(chosen, kernels=kernels), **{step: further[step]})
        if candidate not in known:
            candidate = replace(candidate, kernels="dense")
        if candidate in known and candidate != chosen and (size := decider.predict(candidate) - plan.predicted) < 0:
            yield step, candidate, size


def _change(step: str, to: Candidate, experiment: Experiment) -> str:
    match step:
        case "kernels":
            return f"{to.kernels} kernels, without a trial"
        case "recompute":
            return "blocks run again"
        case "micro_batch":
            return f"parts of {to.micro_batch}"
        case "activations":
            return _storage(to, experiment)
        case "momentum":
            return "no momentum"
        case _:
            return _level(to, experiment)


def _price(step: str, experiment: Experiment) -> str:
    match step:
        case "kernels":
            return "the same result but for rounding"
        case "recompute":
            return "the same result"
        case "micro_batch" if experiment.model.norm != "batch":
            return "the same result but for rounding"
        case "micro_batch":
            return "batch norms see the statistics of each part"
        case "activations":
            return "noisier gradients"
        case "momentum":
            return "plain steps"
        case _:
            return "a smaller network"


def _longer(times: float) -> str:
    return f", about {times:.1f} times as long" if times >= _WORTH_SAYING else ""


def _level(candidate: Candidate, experiment: Experiment) -> str:
    if candidate.level == 0:
        return "all kept weights"
    fraction = experiment.budget.levels[candidate.level]
    return f"{_PARTS.get(fraction, f'{fraction:g}')} of the kept weights"


def _storage(candidate: Candidate, experiment: Experiment) -> str:
    if candidate.activations == "topk":
        return f"the largest {experiment.training.keep_ratio:g} of activations"
    return f"{candidate.activations} activations"


def _phases(found: Ledger) -> dict[str, int]:
    return {"forward": found.forward, "backward": found.backward, "update": found.update, "lasting": found.lasting}


def _parts(found: Ledger) -> str:
    what = {
        "activations": sum(found.activations.values()),
        "weights and where they are": found.weights + found.indices + found.floats,
        "gradients": found.gradients,
        "optimiser": found.optimiser,
        "start of the round": found.start,
        "work of one layer": found.transient,
    }
    return ", ".join(f"{name} {size_text(size)}" for name, size in what.items() if size >= 50_000)


def _signed(size: float) -> str:
    return f"{'−' if size < 0 else '+'}{size_text(abs(size))}"
