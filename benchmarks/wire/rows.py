"""What is printed: tables of the codecs, messages and runs, and one line for each figure that has to be reached."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.tables import Columns, Figures, number, table
from benchmarks.targets import Target
from hedgerow.units import bytes_text, percent_text

__all__ = ["DENSITIES", "FLIP_RATES", "VALUES", "tables", "targets"]

FLIP_RATES = (0.001, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4)
DENSITIES = (0.05, 0.1)
VALUES = ("fp16", "int8", "uniform-0.5", "uniform-1", "uniform-2")
_MASKS = tuple(f"masks.{kind}-{model}" for kind in ("random", "synflow") for model in ("conv4", "resnet18"))
_MESSAGES = {
    "first": "request, with the mask",
    "whole": "request, whole",
    "delta": "request, what changed",
    "reply": "reply",
}

_SHARE, _SPEED = number(4), number(0)
_FLIPS: Columns = {
    "share": ("size / entropy", _SHARE),
    "encode_mb_s": ("encode, MB/s", _SPEED),
    "decode_mb_s": ("decode, MB/s", _SPEED),
    "zstd_share": ("Zstandard 1: size / entropy", _SHARE),
    "zstd_encode_mb_s": ("encode, MB/s", _SPEED),
    "zstd_decode_mb_s": ("decode, MB/s", _SPEED),
}
_MASK: Columns = {
    "bytes": ("size", bytes_text),
    "share": ("size / entropy", _SHARE),
    "encode_mb_s": ("encode, MB/s", number(1)),
    "decode_mb_s": ("decode, MB/s", number(1)),
}
_VALUE: Columns = {
    "bits": ("bits a value", number(2)),
    "share": ("size / entropy", _SHARE),
    "cosine": ("cosine", number(5)),
}
_MESSAGE: Columns = {
    "bytes": ("message, bytes", number(0)),
    "payload_bytes": ("payload, bytes", number(0)),
    "entropy": ("entropy, bytes", number(0)),
    "share": ("message / entropy", number(3)),
    "payload_share": ("payload / entropy", number(3)),
}
_RUN: Columns = {
    "accuracy": ("accuracy", lambda value: percent_text(value, decimals=2)),
    "bytes_up": ("up", bytes_text),
    "bytes_down": ("down", bytes_text),
    "bytes_both": ("both", bytes_text),
    "bits_up": ("bits up", number(3)),
    "bits_votes": ("of votes", number(3)),
    "bits_down": ("bits down", number(3)),
    "deltas": ("deltas", percent_text),
    "up_over_entropy": ("up / entropy", number(3)),
    "down_over_entropy": ("down / entropy", number(3)),
    "seconds": ("seconds", number(0)),
}


def tables(figures: Figures) -> Iterator[str]:
    """Markdown of everything that was measured."""
    yield from filter(None, _tables(figures))


def _tables(figures: Figures) -> Iterator[str]:
    yield table("flips", _FLIPS, {f"flips.{rate:g}": f"{rate:g}" for rate in FLIP_RATES}, figures)
    masks = [f"{name}.{density:g}" for name in _MASKS for density in DENSITIES]
    yield table("mask", _MASK, {name: name.removeprefix("masks.") for name in masks}, figures)
    yield table("change", _VALUE, {f"values.{name}": name for name in VALUES}, figures)
    yield table("message", _MESSAGE, {f"message.{name}": text for name, text in _MESSAGES.items()}, figures)
    runs = sorted({key.rpartition(".")[0] for key in figures if key.startswith("runs.") and key.endswith(".accuracy")})
    yield table("run", _RUN, {name: f"`{name.removeprefix('runs.')}`" for name in runs}, figures)
    votes = {key.split(".")[1] for key in figures if key.startswith("votes.")}
    names = sorted({key.split(".")[2] for key in figures if key.startswith("votes.")})
    columns = {name: (name.replace("_", " "), number(1)) for name in names}
    yield table("aggregation", columns, {f"votes.{name}": name for name in sorted(votes)}, figures)
    fuzzed = {key.removeprefix("fuzz."): value for key, value in figures.items() if key.startswith("fuzz.")}
    lines = (f"| {name} | {value:,.0f} |" for name, value in fuzzed.items())
    yield "\n".join(["| fuzzing | |", "|---|--:|", *lines]) if fuzzed else ""


def targets(figures: Figures, *, quick: bool) -> Iterator[Target]:
    """What is asked; in a quick version only of those figures that do not need the size."""
    for target in [*_codec_targets(), *_fuzz_targets(), *([] if quick else _large_targets())]:
        if target.figure in figures:
            yield target


def _codec_targets() -> Iterator[Target]:
    for rate in FLIP_RATES:
        asked = 1.02 if rate < 0.02 else 1.005
        yield Target(
            title=f"flips at {rate:g}: size / entropy",
            figure=f"flips.{rate:g}.share",
            asked=asked,
            at_most=True,
            text=_SHARE,
        )
    for name in _MASKS:
        for density in DENSITIES:
            figure = f"{name}.{density:g}.share"
            title = f"{name.removeprefix('masks.')} at {density:g}: size / entropy"
            yield Target(title=title, figure=figure, asked=1.01, at_most=True, text=_SHARE)


def _fuzz_targets() -> Iterator[Target]:
    for name in ("crashes", "hangs"):
        yield Target(title=f"fuzzing: {name}", figure=f"fuzz.{name}", asked=0, at_most=True, text=number(0))


def _large_targets() -> Iterator[Target]:
    for rate in FLIP_RATES:
        for way in ("encode", "decode"):
            yield Target(
                title=f"flips at {rate:g}: {way}",
                figure=f"flips.{rate:g}.{way}_mb_s",
                asked=250,
                text=number(0, " MB/s"),
            )
    for name, title in _MESSAGES.items():
        yield Target(
            title=f"Conv-4, {title}: message / entropy",
            figure=f"message.{name}.share",
            asked=1.05,
            at_most=True,
            text=number(3),
        )
    yield Target(
        title="run: bits up a kept weight", figure="runs.coded-0.05.bits_up", asked=0.6, at_most=True, text=number(3)
    )
    yield Target(title="run: points of accuracy against one bit", figure="runs.points-0.05", asked=-0.3, text=number(2))
    yield Target(
        title="run: bytes both ways, of one bit's",
        figure="runs.ratio.bytes_both-0.05",
        asked=0.5,
        at_most=True,
        text=number(3),
    )
    for name, asked in (("votes_weighted", 150), ("votes_decoded", 4)):
        yield Target(
            title=f"{name.replace('_', ' ')}: clients a second, of float masks'",
            figure=f"votes.{name}.over_float_masks",
            asked=asked,
            text=number(1, "×"),
        )
    yield Target(title="fuzzing: inputs", figure="fuzz.inputs", asked=1_000_000, text=number(0))
