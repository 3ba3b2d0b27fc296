"""What the benchmark measures, each as its figures."""

from __future__ import annotations

import statistics

from benchmarks.sparse.alone import drifts, limited, measured
from benchmarks.sparse.gradients import gradient_errors
from benchmarks.sparse.memory import Peak, held_bytes, peak_of
from benchmarks.sparse.networks import Case, Trainer, dense_trainer, mask_of, model_of, sparse_trainer
from benchmarks.sparse.timing import in_turns
from hedgerow.sparse import PathChoice

__all__ = ["channels_last", "dense_peak", "drift", "gradients", "limit", "memory_mode", "signs", "step"]

_LIMIT_SHARE = 0.3

Figures = dict[str, float]


def step(case: Case, *, turns: int, dense: Peak) -> tuple[Figures, PathChoice | None]:
    """A step of ours beside a dense one, whose peak is `dense`; and the paths that ours takes."""
    reference, ours, peak = _trainers(case)
    pair = in_turns(reference.step, ours.step, turns=turns)
    figures = {
        "dense_ms": 1e3 * pair.first,
        "ours_ms": 1e3 * pair.second,
        "ratio": pair.ratio,
        "spread": pair.spread,
        "dense_bytes": dense.total,
        "ours_bytes": peak.total,
        "lasting_bytes": peak.lasting,
        "memory_ratio": dense.total / peak.total,
        "native_share": 0.0 if ours.paths is None else ours.paths.native_share,
    }
    return {f"{case.name}.{name}": value for name, value in figures.items()}, ours.paths


def dense_peak(case: Case) -> Peak:
    """What the dense copy needs at most."""
    before = held_bytes()
    model = model_of(case)
    dense = dense_trainer(model, mask_of(case, model))
    dense.step()
    dense.step()
    return peak_of(dense, before=before)


def channels_last(case: Case, *, turns: int) -> Figures:
    """The dense copy in torch's two layouts."""
    dense, other = (
        dense_trainer(built, mask_of(case, built), channels_last=last)
        for built, last in ((model_of(case), False), (model_of(case), True))
    )
    return {f"channels_last.{case.model}.ratio": in_turns(dense.step, other.step, turns=turns).ratio}


def signs(case: Case, *, turns: int) -> Figures:
    """A step of sign scores beside one of weights, and beside a dense one."""
    _, floats, _ = _trainers(case)
    dense, signed, _ = _trainers(case, signs=True)
    return {
        f"signs.{case.model}.share": in_turns(signed.step, floats.step, turns=2 * turns).ratio,
        f"signs.{case.model}.ratio": in_turns(dense.step, signed.step, turns=turns).ratio,
    }


def memory_mode(case: Case, *, turns: int) -> Figures:
    """Peaks of dense and of memory mode, each in a process of its own, and how fast it is."""
    dense, lean = measured("dense", case), measured("lean", case)
    figures: Figures = {}
    for name, found in (("dense", dense), ("ours", lean)):
        figures |= {
            f"memory.{name}_bytes": found.peak.total,
            f"memory.{name}_lasting_bytes": found.peak.lasting,
            f"memory.{name}_resident_bytes": found.resident,
        }
    model = model_of(case)
    mask = mask_of(case, model)
    ours = sparse_trainer(model, mask, lean=True)
    return {
        **figures,
        "memory.ratio": dense.peak.total / lean.peak.total,
        "memory.resident_ratio": dense.resident / lean.resident,
        # 1 byte in place of 4 for each weight's mask.
        "memory.bool_masks_ratio": (dense.peak.total - 3 * mask.size) / lean.peak.total,
        "memory.speed": in_turns(dense_trainer(model, mask).step, ours.step, turns=turns).ratio,
    }


def limit(case: Case, *, at_least: float) -> Figures:
    """What dense needs, at least so many bytes, and who trains with 30 % of it."""
    # What is resident at most is not quite enough, since what is reserved counts.
    needs = at_least
    while not limited("dense", case, limit_bytes=int(needs)).trained:
        needs *= 1.05
    bytes_ = int(_LIMIT_SHARE * needs)
    return {
        "limit.dense_needs_bytes": needs,
        "limit.bytes": bytes_,
        "limit.dense_trained": int(limited("dense", case, limit_bytes=bytes_).trained),
        "limit.ours_trained": int(limited("lean", case, limit_bytes=bytes_).trained),
    }


def gradients(case: Case) -> Figures:
    """Errors against float64, of weights and of signs."""
    figures: Figures = {}
    for kind in ("floats", "signs"):
        errors = gradient_errors(case, signs=kind == "signs")
        figures |= {
            f"gradients.{case.model}.{kind}.ours": errors.ours,
            f"gradients.{case.model}.{kind}.dense": errors.dense,
        }
    return figures


def drift(case: Case, *, steps: int, seeds: int) -> Figures:
    """How far losses drift from the dense ones, as geometric means over the seeds."""
    found = drifts(case, steps=steps, seeds=seeds)
    ours = _mean([one.ours for one in found])
    two = _mean([one.threads[0] for one in found])
    most = _mean([max(one.threads) for one in found])
    return {
        "drift.ours": ours,
        "drift.two_threads": two,
        "drift.threads": most,
        "drift.share": ours / most,
        "drift.seeds": seeds,
        "drift.loss": statistics.mean(one.last for one in found),
    }


def _mean(values: list[float]) -> float:
    # Never 0, which has no geometric mean: it is less than what float32 tells apart in a loss.
    return statistics.geometric_mean([max(1e-8, value) for value in values])


def _trainers(case: Case, *, signs: bool = False) -> tuple[Trainer, Trainer, Peak]:
    """The dense trainer, ours, and what ours needs at most."""
    model = model_of(case)
    mask = mask_of(case, model)
    before = held_bytes()
    ours = sparse_trainer(model, mask, signs=signs)
    ours.step()
    ours.step()
    peak = peak_of(ours, before=before)
    return dense_trainer(model, mask), ours, peak
