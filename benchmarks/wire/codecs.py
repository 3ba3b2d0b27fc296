"""What codecs make of bits, masks and values: bytes beside Shannon's bound, and megabytes a second on one core.

Speed is that of the packed bitmap, eight bits a byte, in processor time; what is compared takes turns.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import numpy as np
import zstandard

from hedgerow.assembly import mask_of
from hedgerow.codec import (
    Bits,
    Coded,
    Floats,
    PackedBits,
    binary_entropy_bytes,
    decode_bits,
    decode_values,
    encode_bits,
    encode_values,
)
from hedgerow.codec.masks import decode_mask, encode_mask
from hedgerow.codec.values import ValueFormat
from hedgerow.config import load_experiment
from hedgerow.models import build_model
from hedgerow.pruning import prunable_tensors
from hedgerow.seeds import derive_seed

__all__ = ["flips", "random_masks", "real_masks", "values"]

_MEGABYTE = 1e6
_INPUTS = {"conv4": (1, 28, 28), "resnet18": (3, 32, 32)}

Figures = dict[str, float]


def flips(rate: float, *, count: int, turns: int) -> Figures:
    """Independent bits, a fraction `rate` of them 1, in our codec and under Zstandard's level 1."""
    generator = np.random.default_rng(round(1e6 * rate))
    bits = PackedBits.from_bools(generator.random(count, dtype=np.float32) < rate)
    bound = binary_entropy_bytes(bits.ones(), count)
    packed, coded = bits.data.tobytes(), encode_bits(bits)
    assert (decode_bits(coded, count).data == bits.data).all()
    compressor, decompressor = zstandard.ZstdCompressor(level=1), zstandard.ZstdDecompressor()
    compressed = compressor.compress(packed)
    speeds = _speeds(
        {
            "encode": lambda: encode_bits(bits),
            "decode": lambda: decode_bits(coded, count),
            "zstd_encode": lambda: compressor.compress(packed),
            "zstd_decode": lambda: decompressor.decompress(compressed),
        },
        size=len(packed),
        turns=turns,
    )
    return {
        "bytes": len(coded.data),
        "share": len(coded.data) / bound,
        "zstd_share": len(compressed) / bound,
        "bits": 8 * len(coded.data) / count,
        **speeds,
    }


def random_masks(density: float, *, model: str, turns: int) -> Figures:
    """A mask of a network's shapes that was drawn at random, each weight by itself."""
    shapes = _shapes(model)
    generator = np.random.default_rng(round(1e6 * density))
    return _mask(generator.random(sum(map(math.prod, shapes))) < density, shapes, turns=turns)


def real_masks(density: float, *, model: str, turns: int) -> Figures:
    """The mask that a run of the recipe `hidenseek` begins with."""
    experiment = load_experiment(
        recipe="hidenseek", overrides={"model.name": model, "pruning.density": density}.items()
    )
    shape = _INPUTS[model]
    network = build_model(model, input_shape=shape, classes=10, seed=derive_seed(experiment.seed, "model"))
    mask = mask_of(experiment, network, shape)
    return _mask(mask.flat(), list(mask.shapes.values()), turns=turns)


def values(format: ValueFormat, *, step: float, count: int) -> Figures:
    """Changes of heavy tails (Student's t with 4 degrees of freedom), in ten tensors of different sizes and scales."""
    generator = np.random.default_rng(4)
    groups = [count // 55 * k for k in range(1, 11)]
    spread = np.repeat(10.0 ** generator.uniform(-4, -1, len(groups)), groups)
    change: Floats = (spread * generator.standard_t(4, size=spread.size)).astype(np.float32)
    base = np.zeros(change.size, dtype=np.float32)
    encoded = encode_values(change, format=format, groups=groups, base=base, step=step)
    read = decode_values(encoded.coded, change.size, groups=groups, base=base)
    assert (read == encoded.values).all()
    ends = np.cumsum([0, *groups])
    cosines = [_cosine(change[a:b], read[a:b]) for a, b in pairwise(ends)]
    return {
        "bits": 8 * len(encoded.coded.data) / change.size,
        "share": len(encoded.coded.data) / encoded.coded.entropy,
        # That of all values together would be the one of the largest tensor.
        "cosine": float(np.average(cosines, weights=groups)),
    }


def _mask(bits: Bits, shapes: Sequence[tuple[int, ...]], *, turns: int) -> Figures:
    packed = PackedBits.from_bools(bits)
    coded: Coded = encode_mask(packed, shapes=shapes)
    assert (decode_mask(coded, bits.size, shapes=shapes).to_bools() == bits).all()
    speeds = _speeds(
        {
            "encode": lambda: encode_mask(packed, shapes=shapes),
            "decode": lambda: decode_mask(coded, bits.size, shapes=shapes),
        },
        size=(bits.size + 7) // 8,
        turns=turns,
    )
    bound = binary_entropy_bytes(int(np.count_nonzero(bits)), bits.size)
    return {"weights": bits.size, "bytes": len(coded.data), "share": len(coded.data) / bound, **speeds}


def _shapes(model: str) -> list[tuple[int, ...]]:
    network = build_model(model, input_shape=_INPUTS[model], classes=10, seed=0)
    return [tuple(weight.shape) for weight in prunable_tensors(network).values()]


def _speeds(runs: Mapping[str, Callable[[], object]], *, size: int, turns: int) -> Figures:
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(turns + 1):
        for name, run in runs.items():
            began = time.process_time()
            run()
            # The first turn builds tables, and touches memory for the first time.
            seconds[name] += [time.process_time() - began] if turn else []
    speeds: Figures = {}
    for name, found in seconds.items():
        speeds[f"{name}_mb_s"] = size / _MEGABYTE / max(statistics.median(found), 1e-9)
        speeds[f"{name}_mb_s_best"] = size / _MEGABYTE / max(min(found), 1e-9)
    return speeds


def _cosine(one: Floats, other: Floats) -> float:
    a, b = one.astype(np.float64), other.astype(np.float64)
    return float(a @ b) / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-300)
