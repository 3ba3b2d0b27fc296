"""The codecs' decoders. A string is the number of a setting, a codec and a parameter, and then what is decoded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from benchmarks.wire.decoder import Decoder
from hedgerow.codec import (
    Coded,
    Context,
    PackedBits,
    Section,
    decode_bits,
    decode_levels,
    decode_ordered,
    decode_values,
    encode_bits,
    encode_levels,
    encode_ordered,
    encode_values,
    layer_context,
    plain_levels_section,
    plain_mask_section,
    read_levels,
    read_mask,
    to_ordered,
    values_entropy,
)
from hedgerow.codec.drawn_masks import encode_drawn_mask
from hedgerow.codec.masks import decode_mask, decode_mask_delta, encode_mask, encode_mask_delta
from hedgerow.codec.ordered import HalfKind
from hedgerow.codec.topk import decode_top_k, encode_top_k
from hedgerow.codec.values import ValueFormat
from hedgerow.v1 import payload_pb2 as pb

__all__ = ["codec_decoders"]

_HEAD = 10
"""Setting and codec, a byte each, and the parameter."""
_RARE, _EVEN = 0.02, 0.5

Setting = TypeVar("Setting")


def codec_decoders(generator: np.random.Generator) -> tuple[Decoder, ...]:
    """One for each codec, with seeds that the generator draws."""
    return (
        _of_codec("bits", _BITS, lambda s: _bit_seeds(s, generator), _run_bits),
        _of_codec("levels", _LEVELS, lambda s: _level_seeds(s, generator), _run_levels),
        _of_codec("mask", _MASKS, lambda s: _mask_seeds(s, generator), _run_mask),
        _of_codec("mask_delta", _DELTAS, lambda s: _delta_seeds(s, generator), _run_delta),
        _of_codec("top_k", _TOPS, lambda s: _top_seeds(s, generator), _run_top),
        _of_codec("ordered", _ORDERED, lambda s: _ordered_seeds(s, generator), _run_ordered),
        _of_codec("values", _VALUES, lambda s: _value_seeds(s, generator), _run_values),
    )


def _of_codec(
    name: str,
    settings: Sequence[Setting],
    encode: Callable[[Setting], Iterable[Coded]],
    decode: Callable[[Coded, Setting], None],
) -> Decoder:
    def run(data: bytes) -> None:
        head, body = data[:_HEAD].ljust(_HEAD, b"\0"), data[_HEAD:]
        # Whatever number a reader does not know comes out of protobuf as it is.
        codec: pb.Codec = head[1]  # type: ignore[assignment]
        coded = Coded(codec, body, int.from_bytes(head[2:], "little"))
        decode(coded, settings[head[0] % len(settings)])

    seeds = [
        bytes([index, coded.codec]) + coded.parameter.to_bytes(8, "little") + coded.data
        for index, setting in enumerate(settings)
        for coded in encode(setting)
    ]
    return Decoder(name, run, tuple(seeds))


_BITS: tuple[tuple[int, tuple[int, ...] | None], ...] = (
    (1000, None),
    (1000, (300, 0, 450, 250)),
    (3001, None),
    (2999, (2000, 999)),
    (9, None),
    (0, None),
)


def _bit_seeds(setting: tuple[int, tuple[int, ...] | None], generator: np.random.Generator) -> Iterator[Coded]:
    count, groups = setting
    for rate in (0.0, 0.003, _RARE, 0.2, _EVEN, 0.98):
        yield encode_bits(PackedBits.from_bools(generator.random(count) < rate), groups=groups)
    if groups is not None:
        shares = np.repeat(generator.random(len(groups)), groups)
        yield encode_bits(PackedBits.from_bools(generator.random(count) < shares), groups=groups)
        yield encode_bits(PackedBits.from_bools(generator.random(count) < shares / 30), groups=groups)
    yield encode_bits(PackedBits.from_bools(np.arange(count) % 48 < 8), groups=groups)


def _run_bits(coded: Coded, setting: tuple[int, tuple[int, ...] | None]) -> None:
    bits = decode_bits(coded, setting[0], groups=setting[1])
    assert bits.count == setting[0]


@dataclass(frozen=True, slots=True)
class _Levels:
    count: int
    alphabet: int
    contexts: tuple[Context, ...] = ()


_LAYERS = layer_context([500, 0, 300, 200])
_OLD = Context((np.arange(1000) * 7919 % 16).astype(np.uint8), 16)
_LEVELS = (
    _Levels(1000, 3, (_LAYERS,)),
    _Levels(1000, 16, (_OLD, _LAYERS)),
    _Levels(1000, 2, (_OLD,)),
    _Levels(200, 256),
    _Levels(3000, 16),
    _Levels(1, 2),
    _Levels(0, 2),
)


def _level_seeds(setting: _Levels, generator: np.random.Generator) -> Iterator[Coded]:
    count, alphabet = setting.count, setting.alphabet
    even = generator.integers(0, alphabet, count).astype(np.uint8)
    often = np.where(generator.random(count) < 0.9, np.uint8(alphabet // 2), even)
    for symbols in (even, often, np.zeros(count, dtype=np.uint8)):
        yield encode_levels(symbols, alphabet=alphabet, contexts=setting.contexts)
        plain = plain_levels_section(pb.KIND_VOTES, symbols, alphabet=alphabet)
        yield Coded(plain.codec, plain.data, plain.parameter)
    if setting.contexts:
        known = setting.contexts[0].values % alphabet
        near = np.where(generator.random(count) < 0.8, known, even).astype(np.uint8)
        yield encode_levels(near, alphabet=alphabet, contexts=setting.contexts)


def _run_levels(coded: Coded, setting: _Levels) -> None:
    if coded.codec == pb.CODEC_BYTES_ZSTD:
        section = Section.of(pb.KIND_VOTES, coded, count=setting.count)
        symbols = read_levels({pb.KIND_VOTES: section}, pb.KIND_VOTES, setting.count, alphabet=setting.alphabet)
    else:
        symbols = decode_levels(coded, setting.count, alphabet=setting.alphabet, contexts=setting.contexts)
    assert symbols.shape == (setting.count,)
    assert symbols.dtype == np.uint8
    assert int(symbols.max(initial=0)) < setting.alphabet


_MASKS: tuple[tuple[tuple[int, ...], ...], ...] = (
    ((16, 3, 3, 3), (10, 40)),
    ((30, 40),),
    ((8, 1, 5, 5), (0, 4), (12, 12, 3, 3), (7,)),
    (),
)


def _mask_seeds(shapes: tuple[tuple[int, ...], ...], generator: np.random.Generator) -> Iterator[Coded]:
    count = _weights(shapes)
    rows = np.concatenate([np.repeat(generator.random(s[0]), _weights((s[1:],))) for s in shapes] or [np.zeros(0)])
    for share in (np.zeros(count), np.full(count, 0.05), np.full(count, 0.3), rows / 4, rows, np.ones(count)):
        bits = generator.random(count) < share
        packed = PackedBits.from_bools(bits)
        yield encode_mask(packed, shapes=shapes)
        yield encode_drawn_mask(packed, shapes=shapes, seed=7)
        yield plain_mask_section(packed).coded


def _run_mask(coded: Coded, shapes: tuple[tuple[int, ...], ...]) -> None:
    count = _weights(shapes)
    section = Section.of(pb.KIND_MASK, coded, count=count)
    bits = read_mask({pb.KIND_MASK: section}, count, shapes=shapes)
    assert bits.count == count
    if coded.codec == pb.CODEC_MASK_RANS:
        assert (decode_mask(coded, count, shapes=shapes).data == bits.data).all()


_DELTAS = tuple(
    PackedBits.from_bools(np.arange(count) % every == 0) for count, every in ((2000, 20), (300, 2), (0, 1), (50, 1))
)


def _delta_seeds(old: PackedBits, generator: np.random.Generator) -> Iterator[Coded]:
    for rate in (0.0, 0.01, 0.2, 0.9):
        new = old.to_bools() ^ (generator.random(old.count) < rate)
        yield encode_mask_delta(PackedBits.from_bools(new), old)


def _run_delta(coded: Coded, old: PackedBits) -> None:
    assert decode_mask_delta(coded, old).count == old.count


_TOPS = ((2000, 100), (50, 50), (100_000, 4))


def _top_seeds(setting: tuple[int, int], generator: np.random.Generator) -> Iterator[Coded]:
    support, most = setting
    for k in (0, 1, most // 2, most):
        positions = np.sort(generator.choice(support, k, replace=False)).astype(np.int64)
        for codec in (pb.CODEC_FLOAT32, pb.CODEC_FLOAT16, pb.CODEC_BFLOAT16):
            yield encode_top_k(positions, generator.standard_normal(k).astype(np.float32), support=support, codec=codec)


def _run_top(coded: Coded, setting: tuple[int, int]) -> None:
    positions, values = decode_top_k(coded, support=setting[0], most=setting[1])
    assert positions.size == values.size <= setting[1]
    assert (np.diff(positions, prepend=-1, append=setting[0]) > 0).all()
    assert np.isfinite(values).all()


_GROUPS = (300, 0, 40, 1, 259)
_COUNT = sum(_GROUPS)
_BASE = (np.random.default_rng(1).standard_normal(_COUNT) * np.repeat([1, 1, 1e-3, 50, 1e-6], _GROUPS)).astype(
    np.float32
)
_RELATIVE = np.repeat([False, False, True, False, True], _GROUPS)
_BASE[_RELATIVE] = np.abs(_BASE[_RELATIVE])
_ORDERED: tuple[tuple[HalfKind, bool], ...] = (("fp16", True), ("fp16", False), ("bf16", True), ("bf16", False))


def _ordered_seeds(setting: tuple[HalfKind, bool], generator: np.random.Generator) -> Iterator[Coded]:
    kind, has_base = setting
    base = to_ordered(_BASE, kind=kind) if has_base else None
    for scale in (0.0, 1e-3, 0.1, 10.0):
        new = (_BASE * (1 + scale * generator.standard_normal(_COUNT))).astype(np.float32)
        yield encode_ordered(to_ordered(new, kind=kind), kind=kind, base=base, groups=_GROUPS)


def _run_ordered(coded: Coded, setting: tuple[HalfKind, bool]) -> None:
    kind, has_base = setting
    base = to_ordered(_BASE, kind=kind) if has_base else None
    version = decode_ordered(coded, _COUNT, kind=kind, base=base, groups=_GROUPS)
    assert version.shape == (_COUNT,)
    assert version.dtype == np.int16


_VALUES: tuple[tuple[ValueFormat, bool], ...] = tuple(
    (format, relative) for format in ("fp32", "fp16", "bf16", "int8", "uniform") for relative in (False, True)
)


def _value_seeds(setting: tuple[ValueFormat, bool], generator: np.random.Generator) -> Iterator[Coded]:
    for scale in (0.0, 1e-3, 1.0, 1e4):
        new = (_BASE * (1 + scale * np.abs(generator.standard_normal(_COUNT)))).astype(np.float32)
        yield encode_values(
            new, format=setting[0], groups=_GROUPS, base=_BASE, step=0.5, relative=_RELATIVE if setting[1] else None
        ).coded


def _run_values(coded: Coded, setting: tuple[ValueFormat, bool]) -> None:
    relative = _RELATIVE if setting[1] else None
    values = decode_values(coded, _COUNT, groups=_GROUPS, base=_BASE, relative=relative)
    assert values.shape == (_COUNT,)
    assert values.dtype == np.float32
    assert np.isfinite(values).all()
    assert values_entropy(coded, _COUNT, groups=_GROUPS) >= 0


def _weights(shapes: Iterable[Sequence[int]]) -> int:
    return sum(int(np.prod(shape, dtype=np.int64)) for shape in shapes)
