"""Each kind of section, in each codec that it may have."""

from __future__ import annotations

import numpy as np

from hedgerow.codec.drawn_masks import drawn_mask
from tests.vectors.form import Example, bits_at, normals, packed, picked

__all__ = ["SECTION_EXAMPLES"]

_SIGNS = {"kind": "KIND_SIGNS"}
_FLIPS = {"kind": "KIND_FLIPS"}
_VOTES = {"kind": "KIND_VOTES", "alphabet": 16}
_DRIFT = {"kind": "KIND_DRIFT", "alphabet": 3}
_FLOATS = {"kind": "KIND_FLOATS"}
_WEIGHTS = {"kind": "KIND_WEIGHTS"}

_OLD = picked("old", 600, [1 / 16] * 16)
_NEW = np.clip(_OLD + picked("new", 600, [0.1, 0.8, 0.1]).astype(int) - 1, 0, 15).astype(np.uint8)
_LAYERED = np.concatenate([picked("one", 700, [0.9, 0.1]), picked("two", 700, [0.1, 0.2, 0.7]), [5] * 100]).astype(
    np.uint8
)
_SURE = np.abs(_OLD.astype(int) * 2 - 15)
_MIXED = np.where(np.arange(600) < 300, 1, np.where(_SURE > 7, 0, 2)).astype(np.uint8)
_NOISY = np.where(bits_at("noisy", 600, 0.95), _MIXED, 2 - _MIXED).astype(np.uint8)

_DIVERSE = np.where(bits_at("diverse", 594, 0.9), np.repeat(picked("which", 33, [0.4, 0.3, 0.3]), 18), 1).astype(
    np.uint8
)
_TURNED = bits_at("turned", 300, np.where(_SURE[:300] == 1, 0.4, 0.01)).astype(np.uint8)

_ROWS = np.repeat([0.02, 0.5, 0.0, 0.1, 0.3, 0.9, 0.05, 0.1], 200)
_STRUCTURED = np.concatenate([bits_at("rows", 1600, _ROWS), np.ones(12, dtype=np.bool_)])
_OLD_MASK = bits_at("old mask", 2000, 0.05)
_NEW_MASK = _OLD_MASK ^ (bits_at("changes", 2000, np.where(_OLD_MASK, 0.1, 0.005)))

_DRAWN_MASK = drawn_mask(2026, kept=[150, 12], sizes=[1600, 12]).to_bools()
_CHANGED_MASK = _DRAWN_MASK ^ (np.arange(1612) % 400 == 9)

_START = normals("start", 40)
_END = _START + normals("change", 40, scale=0.02)
_VARIANCES = np.concatenate([_START[:4], np.abs(_START[4:8])])
_ORDERED = [15360, -15360, 0, 1, -1, 14000, 14010, 13990, -14000, 31743]
_MOVED = [15361, -15362, 0, 2, -1, 14003, 14010, 13985, -14001, 31740]
_MANY = (14000 + np.round(normals("many", 90, scale=40))).astype(int).tolist()
_HALVES = [float(np.float16(v)) for v in (0.5, -0.125, 3.0)]

SECTION_EXAMPLES = (
    Example("few bits stay as they are", "bits", {**_SIGNS, "layers": [10, 3]}, bits_at("few", 13, 0.5)),
    Example("plain bits", "bits", {**_FLIPS, "layers": [10, 3], "plain": True}, bits_at("plain", 13, 0.1)),
    Example("bytes by one share of ones", "bits", {**_SIGNS, "layers": [2000, 1001]}, bits_at("share", 3001, 0.2)),
    Example(
        "bytes by a share of ones for each layer",
        "bits",
        {**_SIGNS, "layers": [1003, 0, 2000]},
        bits_at("layers", 3003, np.repeat([0.5, 0.15], [1003, 2000])),
    ),
    Example("gaps between ones", "bits", {**_FLIPS, "layers": [5000, 3000]}, np.arange(8000) % 2903 == 77),
    Example("gaps between zeros", "bits", {**_FLIPS, "layers": [5000, 3000]}, np.arange(8000) % 2903 != 77),
    Example(
        "gaps with a number of ones for each layer",
        "bits",
        {**_FLIPS, "layers": [3000, 500]},
        bits_at("parts", 3500, np.repeat([0.003, 0.1], [3000, 500])),
    ),
    Example("no ones take no bytes", "bits", {**_FLIPS, "layers": [50]}, np.zeros(50, dtype=np.bool_)),
    Example("a pattern under Zstandard", "bits", {**_SIGNS, "layers": [4000]}, np.arange(4000) % 48 < 8),
    Example(
        "levels of one table",
        "levels",
        {**_VOTES, "layers": [20, 20]},
        picked("table", 40, [0] * 5 + [0.5, 0.3, 0.2] + [0] * 8),
    ),
    Example("a table for each layer", "levels", {**_VOTES, "layers": [700, 700, 100]}, _LAYERED),
    Example(
        "a table for each old level, shifted",
        "levels",
        {**_VOTES, "layers": [300, 300], "old": _OLD.tolist(), "old_size": 16},
        _NEW,
    ),
    Example(
        "a table for each pair of old level and layer",
        "levels",
        {**_DRIFT, "layers": [300, 300], "old": _OLD.tolist(), "old_size": 16},
        _NOISY,
    ),
    Example("more than 64 layers share contexts", "levels", {**_DRIFT, "layers": [9] * 66}, _DIVERSE),
    Example("one level only takes two bytes", "levels", {**_DRIFT, "layers": [9]}, np.ones(9, dtype=np.uint8)),
    Example("no levels take no bytes", "levels", {**_DRIFT, "layers": [0]}, np.zeros(0, dtype=np.uint8)),
    Example(
        "plain levels",
        "levels",
        {**_VOTES, "layers": [200], "plain": True},
        picked("plain levels", 200, [0.4, 0.3, 0.2, 0.1]),
    ),
    Example(
        "flips as levels",
        "levels",
        {"kind": "KIND_FLIPS", "alphabet": 2, "layers": [200, 100], "old": _OLD[:300].tolist(), "old_size": 16},
        _TURNED,
    ),
    Example(
        "a drawn supermask as levels",
        "levels",
        {**_SIGNS, "alphabet": 2, "layers": [200, 100], "old": _OLD[:300].tolist(), "old_size": 16},
        bits_at("drawn", 300, _OLD[:300] / 15).astype(np.uint8),
    ),
    Example("a mask with structure", "mask", {"shapes": [[8, 8, 5, 5], [3, 4]]}, _STRUCTURED),
    Example("a mask that keeps everything", "mask", {"shapes": [[10, 100]]}, np.ones(1000, dtype=np.bool_)),
    Example("a small mask stays as it is", "mask", {"shapes": [[2, 1, 2, 2], [3]]}, bits_at("small mask", 11, 0.5)),
    Example("a plain mask", "mask", {"shapes": [[40, 50]], "plain": True}, _OLD_MASK),
    Example("a drawn mask", "mask", {"shapes": [[8, 8, 5, 5], [3, 4]], "seeds": [2026]}, _DRAWN_MASK),
    Example("a drawn mask that changed", "mask", {"shapes": [[8, 8, 5, 5], [3, 4]], "seeds": [1, 2026]}, _CHANGED_MASK),
    Example("what a mask gains and loses", "mask_delta", {"count": 2000, "old": packed(_OLD_MASK)}, _NEW_MASK),
    Example(
        "largest values in binary32",
        "top_k",
        {"support": 1000, "most": 5, "codec": "CODEC_FLOAT32"},
        ([3, 500, 999], [0.1, -2.5, 1e-20]),
    ),
    Example(
        "largest values in binary16",
        "top_k",
        {"support": 1000, "most": 5, "codec": "CODEC_FLOAT16"},
        ([0, 1, 700], _HALVES),
    ),
    Example(
        "gradients of kept weights in bfloat16",
        "values",
        {"kind": "KIND_GRADIENTS", "format": "bf16", "groups": [5]},
        _START[:5],
    ),
    Example("values in binary32", "values", {**_WEIGHTS, "format": "fp32", "groups": [3, 2]}, _START[:5]),
    Example("values in binary16", "values", {**_FLOATS, "format": "fp16", "groups": [3, 2]}, _START[:5]),
    Example("values in bfloat16", "values", {**_FLOATS, "format": "bf16", "groups": [3, 2]}, _START[:5]),
    Example(
        "changes in blocks of 8-bit integers",
        "values",
        {**_WEIGHTS, "format": "int8", "groups": [30, 0, 10], "base": _START.tolist()},
        _END,
    ),
    Example(
        "two blocks in a tensor",
        "values",
        {**_WEIGHTS, "format": "int8", "groups": [300], "base": [0.0] * 300},
        normals("blocks", 300),
    ),
    Example(
        "changes as multiples of steps",
        "values",
        {**_FLOATS, "format": "uniform", "groups": [30, 6, 4], "base": _START.tolist()},
        np.concatenate([_END[:30], _START[30:36], _END[36:]]),
    ),
    Example(
        "no change takes no bytes",
        "values",
        {**_FLOATS, "format": "uniform", "groups": [40], "base": _START.tolist()},
        _START,
    ),
    Example(
        "changes of variances are those of logarithms",
        "variances",
        {**_FLOATS, "format": "uniform", "groups": [4, 4], "variances": [False, True], "base": _VARIANCES.tolist()},
        (_VARIANCES * 1.25).astype(np.float32),
    ),
    Example(
        "a version against its base, binary16",
        "version",
        {**_FLOATS, "format": "fp16", "groups": [5, 5], "base": _ORDERED},
        _MOVED,
    ),
    Example(
        "a version against its base, bfloat16",
        "version",
        {**_WEIGHTS, "format": "bf16", "groups": [4, 1, 4, 1], "base": _ORDERED},
        _MOVED,
    ),
    Example(
        "a version equal to its base takes no bytes",
        "version",
        {**_FLOATS, "format": "fp16", "groups": [10], "base": _ORDERED},
        _ORDERED,
    ),
    Example("a whole version, binary16", "version", {**_FLOATS, "format": "fp16", "groups": [50, 0, 40]}, _MANY),
    Example("a whole version, bfloat16", "version", {**_WEIGHTS, "format": "bf16", "groups": [90]}, _MANY),
    Example("a short version stays in halves", "version", {**_FLOATS, "format": "fp16", "groups": [3]}, [15360, -7, 0]),
    Example(
        "a short version stays in bfloat16 halves",
        "version",
        {**_FLOATS, "format": "bf16", "groups": [3]},
        [15360, -7, 0],
    ),
    Example(
        "a whole version as multiples of steps",
        "steps",
        {**_WEIGHTS, "step": 0.5, "groups": [30, 0, 6, 4]},
        np.concatenate([_START[:30], np.zeros(6, dtype=np.float32), _START[36:]]),
    ),
    Example(
        "a version as multiples of steps against its base",
        "steps",
        {**_WEIGHTS, "step": 0.25, "groups": [30, 10], "base": _START.tolist()},
        _END,
    ),
    Example("seven measures", "counts", {"count": 7}, [120, 0.75, 1.5, 1e6, 2e6, 3e5, 1]),
    Example(
        "largest values in bfloat16",
        "top_k",
        {"support": 1000, "most": 5, "codec": "CODEC_BFLOAT16"},
        ([2, 3, 640, 999], [0.1, -2.5, 1e-20, 4095.0]),
    ),
    Example("no largest values", "top_k", {"support": 1000, "most": 5, "codec": "CODEC_BFLOAT16"}, ([], [])),
    Example(
        "statistics of two networks",
        "statistics",
        {"networks": 2, "channels": 3},
        [([0.5, -1.25, 1e-3], [0.0, 2.0, 1e-6]), ([0.1, 3.0, -7.5], [1.0, 0.3, 40.0])],
    ),
    Example(
        "statistics of a network that overflows are the bounds",
        "statistics",
        {"networks": 1, "channels": 3},
        [([float("inf"), float("-inf"), float("nan")], [float("inf"), 1e30, float("nan")])],
    ),
    Example("statistics of no channels take no bytes", "statistics", {"networks": 1, "channels": 0}, [([], [])]),
    Example("losses of four networks", "losses", {"networks": 4}, [2.3025851, 0.0, float("inf"), float("nan")]),
    Example("how many samples were looked at", "samples", {}, 4096),
)
