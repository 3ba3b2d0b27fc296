"""What sections are made of: the adaptive coder, tables, the range coder, gaps, integers, what is dropped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from hedgerow.codec import rans
from hedgerow.codec.adaptive import Coder, Reader, Writer, natural, signed
from hedgerow.codec.differences import decode_differences, encode_differences
from hedgerow.codec.drop import kept_positions
from hedgerow.codec.gaps import Group, decode_gaps, encode_gaps
from hedgerow.codec.integers import decode_integers, encode_integers
from hedgerow.codec.packed_bits import PackedBits
from hedgerow.codec.tables import code_rows
from tests.vectors.form import Example, Json, Way, bits_at, listed, normals, packed, picked

__all__ = ["CODER_EXAMPLES", "CODER_WAYS"]

Knows = Mapping[str, Json]


def _calls(knows: Knows) -> list[list[Json]]:
    calls: list[list[Json]] = knows["calls"]
    return calls * int(knows.get("times", 1))


def _numbers(coder: Coder, knows: Knows, values: list[int]) -> list[int]:
    calls: dict[str, Any] = {"natural": natural, "signed": signed}
    found = []
    for (method, *given), value in zip(_calls(knows), values, strict=True):
        if method in calls:
            found.append(calls[method](coder, given[0], value, **given[1]))
        else:
            found.append(getattr(coder, method)(given[0], value))
    return found


def _write_numbers(knows: Knows, values: list[int]) -> dict[str, Json]:
    writer = Writer()
    _numbers(writer, knows, values)
    return {"data": writer.finish().hex()}


def _read_numbers(knows: Knows, sent: Knows) -> Json:
    reader = Reader(bytes.fromhex(sent["data"]))
    # Where a reader looks at the values, they are bounds of what it may be given.
    values = _numbers(reader, knows, [given[1]["around"] if m == "signed" else 0 for m, *given in _calls(knows)])
    reader.finish()
    return listed(np.array(values))


def _write_table(knows: Knows, counts: list[list[int]]) -> dict[str, Json]:
    writer = Writer()
    code_rows(writer, np.array(counts), knows["samples"], shift=knows["shifted"])
    return {"data": writer.finish().hex()}


def _read_table(knows: Knows, sent: Knows) -> Json:
    reader, samples = Reader(bytes.fromhex(sent["data"])), knows["samples"]
    empty = np.zeros((len(samples), knows["alphabet"]), dtype=np.int64)
    frequencies = code_rows(reader, empty, samples, shift=knows["shifted"])
    reader.finish()
    return frequencies.tolist()


def _write_symbols(knows: Knows, symbols: Any) -> dict[str, Json]:
    contexts = None if knows["contexts"] is None else np.array(knows["contexts"], dtype=np.uint8)
    frequencies = np.array(knows["frequencies"], dtype=np.uint32)
    return {"data": rans.encode(np.array(symbols, dtype=np.uint8), frequencies, contexts).hex()}


def _read_symbols(knows: Knows, sent: Knows) -> Json:
    contexts = None if knows["contexts"] is None else np.array(knows["contexts"], dtype=np.uint8)
    frequencies = np.array(knows["frequencies"], dtype=np.uint32)
    return listed(rans.decode(bytes.fromhex(sent["data"]), knows["count"], frequencies, contexts))


def _groups(knows: Knows) -> list[Group]:
    return [Group(count, ones) for count, ones in knows["groups"]]


def _scales(knows: Knows, name: str) -> Any:
    return np.array(knows[name], dtype=np.int32)


def _write_differences(knows: Knows, values: list[int]) -> dict[str, Json]:
    differences, units = np.array(values, dtype=np.int16), _scales(knows, "units")
    sizes = np.abs(np.ldexp(differences.astype(np.float64), units))
    data, _ = encode_differences(differences, sizes=sizes, units=units, groups=knows["groups"], cap=knows["cap"])
    return {"data": data.hex()}


def _read_differences(knows: Knows, sent: Knows) -> Json:
    data, units = bytes.fromhex(sent["data"]), _scales(knows, "units")
    return listed(decode_differences(data, units=units, groups=knows["groups"], cap=knows["cap"]))


def _read_kept(knows: Knows, sent: Knows) -> Json:
    seed = int.from_bytes(bytes.fromhex(sent["data"]), "little")
    words = np.random.PCG64(seed).random_raw(3)
    generator = np.random.Generator(np.random.PCG64(seed))
    kept = kept_positions(knows["count"], drop=knows["drop"], generator=generator)
    return {"first_words": [f"{word:016x}" for word in words.tolist()], "sent": packed(kept)}


CODER_WAYS = {
    "adaptive": Way(_write_numbers, _read_numbers),
    "tables": Way(_write_table, _read_table),
    "rans": Way(_write_symbols, _read_symbols),
    "gaps": Way(
        lambda knows, bits: {"data": encode_gaps(PackedBits.from_bools(bits), _groups(knows)).hex()},
        lambda knows, sent: packed(decode_gaps(bytes.fromhex(sent["data"]), _groups(knows)).to_bools()),
    ),
    "integers": Way(
        lambda knows, values: {
            "data": encode_integers(np.array(values, dtype=np.int16), scales=_scales(knows, "scales"))[0].hex()
        },
        lambda knows, sent: listed(
            decode_integers(bytes.fromhex(sent["data"]), len(knows["scales"]), scales=_scales(knows, "scales"))
        ),
    ),
    "differences": Way(_write_differences, _read_differences),
    "dropped": Way(lambda knows, seed: {"data": seed.to_bytes(4, "little").hex()}, _read_kept),
}

_SOME_CALLS = [
    ["bit", "a"],
    ["bit", "a"],
    ["bit", "b"],
    ["uniform", 1000],
    ["natural", "n", {"most": 20}],
    ["natural", "n", {"most": 20}],
    ["signed", "s", {"around": 5, "least": 1, "most": 30}],
    ["signed", "s", {"around": 5, "least": 1, "most": 30}],
    ["signed", "t", {"around": 25, "least": 1, "most": 30}],
    ["uniform", 65536],
    ["bit", "a"],
]
_SKEWED = [[32000, 700, 68], [16384, 8192, 8192]]
_THREE = [900, 60, 40, 0], [10, 80, 5, 5], [0, 0, 0, 0], [0, 0, 0, 7]
_STEPS = [[50, 10, 0, 0], [8, 60, 9, 0], [0, 7, 70, 8], [0, 0, 9, 40]]
_CLUMPED = np.isin(np.arange(4000), [3, 4, 5, 9, 3999])
_GROUPED = np.concatenate([bits_at("gaps a", 900, 0.01), np.zeros(50, dtype=np.bool_), bits_at("gaps b", 550, 0.2)])
_WIDE = np.round(normals("integers", 60, scale=300)).astype(int).tolist()


def _ones(bits: Any, lengths: list[int]) -> list[list[int]]:
    ends = np.cumsum(lengths)
    return [[n, int(np.count_nonzero(bits[end - n : end]))] for n, end in zip(lengths, ends, strict=True)]


def _samples(counts: Any) -> list[int]:
    return [sum(row) for row in counts]


CODER_EXAMPLES = (
    Example(
        "bits, uniform, natural and signed numbers",
        "adaptive",
        {"calls": _SOME_CALLS},
        [1, 1, 0, 999, 0, 17, 3, 30, 1, 65535, 0],
    ),
    Example("zeros take no bytes", "adaptive", {"calls": [["bit", "a"]] * 3}, [0, 0, 0]),
    Example(
        "weights are halved beyond 65,536",
        "adaptive",
        {"calls": [["bit", "a"]], "times": 33000},
        picked("run", 33000, [0.99, 0.01]).tolist(),
    ),
    Example("one table", "tables", {"alphabet": 4, "samples": [1000], "shifted": False}, [[900, 60, 40, 0]]),
    Example(
        "contexts, one of which does not occur",
        "tables",
        {"alphabet": 4, "samples": _samples(_THREE), "shifted": False},
        _THREE,
    ),
    Example(
        "contexts whose tables shift", "tables", {"alphabet": 4, "samples": _samples(_STEPS), "shifted": True}, _STEPS
    ),
    Example(
        "four symbols, two as likely as each other",
        "rans",
        {"count": 4, "frequencies": [[16384, 16384]], "contexts": None},
        [1, 0, 0, 1],
    ),
    Example(
        "a symbol that is certain takes no bytes",
        "rans",
        {"count": 5, "frequencies": [[0, 32768]], "contexts": None},
        [1] * 5,
    ),
    Example(
        "two contexts",
        "rans",
        {"count": 60, "frequencies": _SKEWED, "contexts": [i % 2 for i in range(60)]},
        picked("rans", 60, [0.6, 0.3, 0.1]),
    ),
    Example(
        "two lanes",
        "rans",
        {"count": 1 << 17, "frequencies": _SKEWED[:1], "contexts": None},
        picked("lanes", 1 << 17, [0.99, 0.009, 0.001]),
    ),
    Example(
        "four lanes",
        "rans",
        {"count": (1 << 18) + 3, "frequencies": [[32700, 60, 8]], "contexts": None},
        picked("four lanes", (1 << 18) + 3, [0.998, 0.0018, 0.0002]),
    ),
    Example("gaps of no ones take no bytes", "gaps", {"groups": [[100, 0]]}, np.zeros(100, dtype=np.bool_)),
    Example("long gaps are beyond the table", "gaps", {"groups": _ones(_CLUMPED, [4000])}, _CLUMPED),
    Example("groups, one of which is without ones", "gaps", {"groups": _ones(_GROUPED, [900, 50, 550])}, _GROUPED),
    Example("small integers of one scale", "integers", {"scales": [0] * 30}, [0, 1, -1, 0, 0, 2, -3, 0, 0, 0] * 3),
    Example(
        "large integers of several scales",
        "integers",
        {"scales": [0, 4, 9] * 20},
        [v if i % 3 else v // 256 for i, v in enumerate(_WIDE)],
    ),
    Example("the largest and the smallest integer", "integers", {"scales": [0, 15]}, [32767, -32768]),
    Example(
        "differences of three groups, one without",
        "differences",
        {"units": [0] * 4 + [3] * 4 + [1], "groups": [4, 4, 1], "cap": 7},
        [100, -90, 70, 3, 0, 0, 0, 0, -5],
    ),
    Example("no differences take no bytes", "differences", {"units": [0] * 3, "groups": [3], "cap": 7}, [0, 0, 0]),
    Example("what a seed sends of 40 changes", "dropped", {"count": 40, "drop": 0.75}, 305419896),
)
