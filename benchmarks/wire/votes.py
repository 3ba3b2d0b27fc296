"""Clients a second that a coordinator aggregates on one core: bit-sliced counters beside averaging of float masks."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import numpy as np

from hedgerow.codec import Coded, Floats, PackedBits, Votes, decode_bits, encode_bits
from hedgerow.server.aggregation import FloatMean, SignMean

__all__ = ["rows"]

_FLIP_RATE = 0.1
_BATCH = 32
"""Clients in one turn, each with its own bits; as many as `VoteCounter` folds at once."""


def rows(*, quick: bool) -> list[tuple[str, dict[str, float]]]:
    """Measures all lines in turns; processor time, medians.

    `float_masks` unpacks bits to float32, times the weight, and adds, as averaging of masks is usually written.
    `over_float_masks` is a line's speed over that one's; `over_dense` over adding all weights in float32.
    """
    count, kept, turns = (1_000_003, 50_000, 3) if quick else (11_173_962, 550_000, 15)
    generator = np.random.default_rng(0)
    bits = [_random_bits(generator, count) for _ in range(_BATCH)]
    votes = [Votes.of(b) for b in bits]
    ternary = [_abstaining(generator, b) for b in bits]
    weights = generator.integers(100, 2001, _BATCH).tolist()
    last = _random_bits(generator, count)
    flips = [encode_bits(_random_bits(generator, count, _FLIP_RATE)) for _ in range(4)]
    values = [generator.standard_normal(kept, dtype=np.float32) for _ in range(4)]
    dense = generator.standard_normal(count, dtype=np.float32)
    total = np.zeros(count, dtype=np.float32)
    weighted, equal, abstaining, decoded = (SignMean(count) for _ in range(4))
    floats = FloatMean(kept)
    lines: dict[str, tuple[int, Callable[[], None]]] = {
        "float_masks": (2, lambda: _add_masks(total, bits[:2], weights)),
        "votes_weighted": (_BATCH, lambda: _add_votes(weighted, votes, weights)),
        "votes_equal": (_BATCH, lambda: _add_votes(equal, votes, [1] * _BATCH)),
        "votes_ternary": (_BATCH, lambda: _add_votes(abstaining, ternary, weights)),
        "votes_decoded": (_BATCH, lambda: _add_flips(decoded, flips, last, weights)),
        "dense_floats": (1, lambda: _add_dense(total, dense)),
        "kept_floats": (4, lambda: _add_values(floats, values, weights)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in lines}
    for _ in range(turns):
        for name, (clients, run) in lines.items():
            # What the other lines left in the caches is not what a coordinator finds there.
            run()
            seconds[name].append(_seconds(run) / clients)
    means = [_seconds(weighted.mean) for _ in range(3)]
    each = {name: median(found) for name, found in seconds.items()}
    figures = {name: {"clients_per_second": 1 / s, "microseconds": 1e6 * s} for name, s in each.items()}
    for name in figures:
        if name.startswith("votes"):
            figures[name]["over_float_masks"] = each["float_masks"] / each[name]
    figures["kept_floats"]["over_dense"] = each["dense_floats"] / each["kept_floats"]
    return [*figures.items(), ("votes_mean", {"milliseconds_per_round": 1e3 * median(means)})]


def _random_bits(generator: np.random.Generator, count: int, rate: float = 0.5) -> PackedBits:
    return PackedBits.from_bools(generator.random(count, dtype=np.float32) < rate)


def _abstaining(generator: np.random.Generator, bits: PackedBits) -> Votes:
    spoken = _random_bits(generator, bits.count, 0.1)
    return Votes(bits.data & spoken.data, spoken.data, bits.count)


def _add_masks(total: Floats, bits: list[PackedBits], weights: list[int]) -> None:
    for client, weight in zip(bits, weights, strict=False):
        total += np.unpackbits(client.data, count=client.count).astype(np.float32) * np.float32(weight)


def _add_votes(mean: SignMean, votes: list[Votes], weights: list[int]) -> None:
    for client, weight in zip(votes, weights, strict=True):
        mean.add(client, weight=weight)


def _add_flips(mean: SignMean, flips: list[Coded], last: PackedBits, weights: list[int]) -> None:
    for k, weight in enumerate(weights):
        mean.add(Votes.of(decode_bits(flips[k % len(flips)], last.count).xor(last)), weight=weight)


def _add_dense(total: Floats, values: Floats) -> None:
    total += values


def _add_values(mean: FloatMean, values: list[Floats], weights: list[int]) -> None:
    for client, weight in zip(values, weights, strict=False):
        mean.check(client)
        mean.add(client, weight=weight)


def _seconds(run: Callable[[], object]) -> float:
    began = time.process_time()
    run()
    return time.process_time() - began
