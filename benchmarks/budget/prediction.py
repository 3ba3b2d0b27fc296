"""How well a training step's memory is predicted, at sizes that nothing was calibrated with.

Each point trains two steps of one batch and measures the second: the network, the optimiser, what torch allocates and
the working memory that native kernels keep. A model's points share one process, which is not this one.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from hedgerow.activations import Kind
from hedgerow.budget.prediction import Calibration, predict
from hedgerow.client.calibrating import calibration_of, small_steps
from hedgerow.client.stepping import Step, steps
from hedgerow.config import Experiment
from hedgerow.ledger import Traced, plan_of, traced
from hedgerow.models import build_model
from hedgerow.native.library import status

__all__ = ["MODELS", "Point", "points", "predictions", "text"]

MODELS = ("mlp", "conv4", "resnet18", "mobilenetv2")
STORAGES: tuple[Kind, ...] = ("exact", "int8", "int4", "topk")
_DENSITIES = (0.05, 0.2, 0.5, 0.01)
_BATCHES = (8, 16, 32)
_SHAPE, _CLASSES = (3, 32, 32), 10
_LEAST = 4_000_000
"""Bytes from which on an error is relative; of less it is a share of this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One way to train, measured and predicted.

    Attributes:
        model: its name.
        kernels: what computed the layers.
        storage: how activations were held.
        density: kept fraction of each layer.
        batch: samples at once.
        recompute: whether blocks ran again.
        measured: bytes at most; 0 until it is.
        predicted: bytes, with calibration.
        computed: bytes, without.
    """

    model: str
    kernels: Literal["native", "dense"]
    storage: Kind
    density: float
    batch: int
    recompute: bool
    measured: int = 0
    predicted: int = 0
    computed: int = 0

    @property
    def error(self) -> float:
        """What the prediction is off by, as a share of what was measured; of 4 MB where it was less than these."""
        return (self.predicted - self.measured) / max(self.measured, _LEAST)

    @property
    def uncalibrated(self) -> float:
        """The same without calibration."""
        return (self.computed - self.measured) / max(self.measured, _LEAST)

    def experiment(self) -> Experiment:
        """Its settings."""
        settings: dict[str, Any] = {
            "model": {"name": self.model},
            "representation": "weights",
            "pruning": {"density": self.density, "saliency": "random", "rule": "uniform"},
            "training": {
                "batch_size": self.batch,
                "kernels": self.kernels,
                "activations": self.storage,
                "recompute": self.recompute,
            },
        }
        return Experiment.model_validate(settings)


def points(*, quick: bool) -> list[Point]:
    """What is tried: each model by each path and storage, at densities and batches that go round from one to the next.

    >>> len(points(quick=True)), min(point.batch for point in points(quick=False))
    (8, 8)
    """
    paths: tuple[Literal["native", "dense"], ...] = ("native", "dense") if status().available else ("dense",)
    found = []
    for model_number, model in enumerate(MODELS[:2] if quick else MODELS):
        for kernels in paths[:1] if quick else paths:
            for number, storage in enumerate(STORAGES):
                for turn in range(1 if quick else 2):
                    place = 2 * number + turn + model_number + (kernels == "dense")
                    found.append(
                        Point(
                            model=model,
                            kernels=kernels,
                            storage=storage,
                            density=_DENSITIES[place % len(_DENSITIES)],
                            batch=_BATCHES[(place + number) % len(_BATCHES)],
                            recompute=bool((turn + number) % 2) if quick else bool(turn),
                        )
                    )
    return found


def predictions(*, quick: bool) -> tuple[dict[str, float], list[Point]]:
    """Measures and predicts every point.

    Returns:
        Figures: `prediction.MODEL.STORAGE.worst` and `.mean`, sizes of errors as shares, and the same of all in
        `prediction.worst`, `prediction.mean` and `prediction.uncalibrated.worst`; and the points.
    """
    asked = points(quick=quick)
    found = [point for model in MODELS for point in _of_model([one for one in asked if one.model == model])]
    return figures_of(found), found


def figures_of(found: Sequence[Point]) -> dict[str, float]:
    """The figures of measured points."""
    groups: dict[str, list[float]] = {}
    for point in found:
        groups.setdefault(f"prediction.{point.model}.{point.storage}", []).append(abs(point.error))
    groups["prediction"] = [abs(point.error) for point in found]
    groups["prediction.uncalibrated"] = [abs(point.uncalibrated) for point in found]
    figures = {f"{name}.worst": max(errors) for name, errors in groups.items() if errors}
    return figures | {f"{name}.mean": sum(errors) / len(errors) for name, errors in groups.items() if errors}


def text(found: Sequence[Point]) -> str:
    """The points as a table in Markdown."""
    lines = ["| model | kernels | storage | density | batch | run again | measured | predicted | error | computed |"]
    lines.append("|---|---|---|--:|--:|---|--:|--:|--:|--:|")
    for p in found:
        cells = (
            p.model,
            p.kernels,
            p.storage,
            f"{p.density:g}",
            str(p.batch),
            "blocks" if p.recompute else "",
            f"{p.measured / 1e6:.2f} MB",
            f"{p.predicted / 1e6:.2f} MB",
            f"{100 * p.error:+.1f} %",
            f"{100 * p.uncalibrated:+.1f} %",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _of_model(asked: Sequence[Point]) -> Iterator[Point]:
    if not asked:
        return
    network = traced(build_model(asked[0].model, input_shape=_SHAPE, classes=_CLASSES, seed=0), _SHAPE)
    # Steps of one density follow each other, as a process makes a mask for each change of it.
    ways = {(p.kernels, p.storage, p.recompute): replace(p, density=min(o.density for o in asked)) for p in asked}
    small = [one for way in ways.values() for one in small_steps(way.experiment())]
    order = sorted(range(len(asked)), key=lambda number: asked[number].density)
    experiments = [*small, *(asked[number].experiment() for number in order)]
    taken = list(steps(experiments, input_shape=_SHAPE, classes=_CLASSES))
    pairs = list(zip(small, taken, strict=False))
    calibrations = {way: calibration_of(network, pairs[2 * n : 2 * n + 2]) for n, way in enumerate(ways)}
    measured = dict(zip(order, taken[len(small) :], strict=True))
    for number, point in enumerate(asked):
        calibration = calibrations[point.kernels, point.storage, point.recompute]
        yield _predicted(point, network, measured[number], calibration)


def _predicted(point: Point, network: Traced, step: Step, calibration: Calibration) -> Point:
    plan = plan_of(point.experiment(), native=point.kernels == "native")
    return replace(
        point,
        measured=step.peak,
        predicted=predict(network, step.kept, plan, calibration).step_bytes,
        computed=predict(network, step.kept, plan).step_bytes,
    )


def _main() -> None:
    began = time.monotonic()
    figures, found = predictions(quick="--quick" in sys.argv)
    sys.stdout.write(text(found) + "\n\n")
    for name, value in sorted(figures.items()):
        sys.stdout.write(f"{name} {100 * value:.2f} %\n")
    sys.stdout.write(f"{time.monotonic() - began:.0f} s\n")


if __name__ == "__main__":
    _main()
