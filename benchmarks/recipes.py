"""Sign training against the same weights in float and against dense federated averaging: accuracy, bytes, seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from hedgerow.config import Experiment, load_experiment
from hedgerow.data import Dataset, Samples, load_dataset
from hedgerow.server.progress import PlainObserver, TerminalObserver
from hedgerow.server.report import accuracy_picture
from hedgerow.server.simulation import simulate
from hedgerow.telemetry import RoundRecord, read_records
from hedgerow.units import bytes_text, factor_text, percent_text

__all__ = ["fashion_10k", "run"]

Overrides = Mapping[str, object]

FLOAT: Overrides = {"representation": "weights"}
FROZEN: Overrides = {"signs.step": 0.0}
ONE_BIT: Overrides = {
    "signs.abstain": 0.0,
    "aggregation.gain": 0.3,
    "wire.coder": "plain",
    "wire.down": "fp32",
    "wire.up": "fp32",
}
"""Everybody votes on everything, a bit each, and nothing is entropy-coded: what `hidenseek` was before."""
FEDERATED: Overrides = {
    "data.name": "fashion-mnist",
    "model.name": "conv4",
    "fleet.clients": 100,
    "fleet.cohort": 10,
    "data.partition": "dirichlet",
    "data.alpha": 0.5,
    "rounds": 100,
    "training.epochs": 1,
    "training.batch_size": 32,
    "training.precision": "bf16",
    "evaluation.every": 10,
}
ONE_CLIENT: Overrides = {
    **FEDERATED,
    "data.name": "benchmarks.recipes:fashion_10k",
    "fleet.clients": 1,
    "fleet.cohort": 1,
    "data.partition": "iid",
    "rounds": 10,
}
QUICK: Overrides = {
    "data.name": "digits",
    "model.name": "mlp",
    "fleet.clients": 10,
    "fleet.cohort": 5,
    "rounds": 5,
    "training.batch_size": 8,
    "training.precision": "fp32",
    "evaluation.every": 1,
}
QUICK_ONE: Overrides = {**QUICK, "fleet.clients": 1, "fleet.cohort": 1}


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the table."""

    name: str
    recipe: str
    overrides: Overrides

    at_most: int = 10_000
    """Rounds after which a control has said what it has to say."""

    def experiment(self, base: Overrides) -> Experiment:
        overrides = {**base, **self.overrides}
        overrides["rounds"] = min(int(str(overrides["rounds"])), self.at_most)
        return load_experiment(recipe=self.recipe, overrides=overrides.items())


MANY = (
    Line("fedavg", "fedavg", {}),
    Line("hidenseek-0.05", "hidenseek", {"pruning.density": 0.05}),
    Line("one-bit-0.2", "hidenseek", {"pruning.density": 0.2, **ONE_BIT}),
    Line("one-bit-0.05", "hidenseek", {"pruning.density": 0.05, **ONE_BIT}),
    Line("float-0.05", "hidenseek", {"pruning.density": 0.05, **ONE_BIT, **FLOAT}),
    Line(
        "frozen-0.05",
        "hidenseek",
        {"pruning.density": 0.05, **ONE_BIT, **FROZEN, "signs.norm_learning_rate": 0.0},
        at_most=5,
    ),
    Line("norm-only-0.05", "hidenseek", {"pruning.density": 0.05, **ONE_BIT, **FROZEN}, at_most=10),
)
ONE = (
    # The drift of one client is a mean over one vote: too coarse. Its signs are what it knows.
    Line(
        "one-client-one-bit-0.05",
        "hidenseek",
        {"pruning.density": 0.05, **ONE_BIT, "aggregation.signs": "innovation"},
    ),
    Line("one-client-float-0.05", "hidenseek", {"pruning.density": 0.05, **ONE_BIT, **FLOAT}),
)


def fashion_10k() -> Dataset:
    """The first 10,000 training images of Fashion-MNIST, and its test images."""
    whole = load_dataset("fashion-mnist")
    train = Samples(whole.train.images[:10_000], whole.train.labels[:10_000])
    return Dataset(whole.name, train=train, test=whole.test, classes=whole.classes, mean=whole.mean, std=whole.std)


def run(*, quick: bool, out: Path) -> dict[str, float]:
    """Runs what is not yet there, prints the table, writes the picture, and returns the figures."""
    console = Console()
    bases = [(MANY, QUICK if quick else FEDERATED), (ONE, QUICK_ONE if quick else ONE_CLIENT)]
    results: dict[str, list[RoundRecord]] = {}
    for lines, base in bases:
        for line in lines:
            observer = TerminalObserver(console) if console.is_terminal else PlainObserver(console)
            path = simulate(line.experiment(base), out=out, workers=1 if quick else None, observer=observer)
            results[line.name] = read_records(path / "metrics.jsonl")
    figures = {f"{name}.{key}": value for name, rows in results.items() for key, value in _figures(rows).items()}
    figures |= _ratios(figures)
    _print(console, results, figures)
    pictured = {name: results[name] for name in ("fedavg", "one-bit-0.05", "hidenseek-0.05", "float-0.05")}
    picture = out / ("recipes-quick.png" if quick else "recipes.png")
    accuracy_picture(picture, pictured)
    console.print(f"picture: {picture}")
    return figures


def _figures(records: list[RoundRecord]) -> dict[str, float]:
    played = records[1:]
    up, down = sum(r.bytes_up for r in played), sum(r.bytes_down for r in played)
    replies = sum(r.replies for r in played)
    peaks = [r.measured.client_peak_bytes for r in played if r.measured.client_peak_bytes is not None]
    accuracy = records[-1].accuracy
    assert accuracy is not None
    return {
        "accuracy": accuracy,
        "rounds": records[-1].round,
        "kept": records[-1].kept,
        "bytes_up": up,
        "bytes_down": down,
        "bytes_both": up + down,
        "bits_up_per_kept_weight": 8 * up / (replies * records[-1].kept),
        "bits_both_per_kept_weight": 8 * (up + down) / (replies * records[-1].kept),
        "entropy_share_up": sum(r.entropy_up for r in played) / up,
        "seconds": sum(r.measured.seconds for r in records),
        "client_peak_bytes": max(peaks, default=0),
    }


def _ratios(figures: Mapping[str, float]) -> dict[str, float]:
    def points(better: str, worse: str) -> float:
        return 100 * (figures[f"{better}.accuracy"] - figures[f"{worse}.accuracy"])

    return {
        "gap.points.100_clients": points("float-0.05", "hidenseek-0.05"),
        "gap.points.one_client": points("one-client-float-0.05", "one-client-one-bit-0.05"),
        "ratio.bytes.fedavg_over_hidenseek-0.05": figures["fedavg.bytes_both"] / figures["hidenseek-0.05.bytes_both"],
        "ratio.bytes.fedavg_over_one-bit-0.2": figures["fedavg.bytes_both"] / figures["one-bit-0.2.bytes_both"],
        "ratio.bytes.hidenseek-0.05_over_one-bit-0.05": (
            figures["hidenseek-0.05.bytes_both"] / figures["one-bit-0.05.bytes_both"]
        ),
    }


def _print(console: Console, results: Mapping[str, object], figures: Mapping[str, float]) -> None:
    # Markdown, so that it can stand in a README; wider than most terminals.
    headings = ("run", "rounds", "kept", "accuracy", "up", "down", "both", "bits up", "bits both", "peak", "seconds")
    print("\n| " + " | ".join(headings) + " |\n|---" + "|--:" * (len(headings) - 1) + "|")
    for name in results:
        of = {key.removeprefix(f"{name}."): value for key, value in figures.items() if key.startswith(f"{name}.")}
        cells = (
            f"`{name}`",
            f"{of['rounds']:.0f}",
            f"{of['kept']:,.0f}",
            percent_text(of["accuracy"], decimals=2),
            bytes_text(of["bytes_up"]),
            bytes_text(of["bytes_down"]),
            bytes_text(of["bytes_both"]),
            f"{of['bits_up_per_kept_weight']:.2f}",
            f"{of['bits_both_per_kept_weight']:.2f}",
            bytes_text(of["client_peak_bytes"]),
            f"{of['seconds']:.0f}",
        )
        print("| " + " | ".join(cells) + " |")
    print()
    console.print(
        "bits: a kept weight and reply, everything that travelled included; peak: measured, one client's training"
    )
    console.print(
        f"signs behind float on the same mask: {figures['gap.points.100_clients']:.2f} points with many clients, "
        f"{figures['gap.points.one_client']:.2f} with one; "
        f"fedavg sends {factor_text(figures['ratio.bytes.fedavg_over_hidenseek-0.05'])} the bytes of hidenseek-0.05"
    )
