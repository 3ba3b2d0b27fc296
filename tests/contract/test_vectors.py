"""The test vectors in protos/vectors: their bytes hold what they say, and are what this encoder gives."""

import json
from collections.abc import Mapping

import pytest

from hedgerow.codec import decode_payload
from hedgerow.errors import PayloadError
from hedgerow.v1 import payload_pb2 as pb
from tests.vectors.files import WAYS, made_vectors
from tests.vectors.form import FOLDER, Json, holds_of

Vector = Mapping[str, Json]

NAMES = ("coders", "sections", "payloads", "refused")
FILES: dict[str, list[Vector]] = {
    name: json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8")) for name in NAMES
}
GOOD = [vector for name in NAMES[:3] for vector in FILES[name]]


def same(told: Json, found: Json, *, inexact: bool) -> bool:
    if inexact and isinstance(told, float):
        return bool(found == pytest.approx(told, rel=1e-6))
    if isinstance(told, dict):
        return told.keys() == found.keys() and all(same(told[key], found[key], inexact=inexact) for key in told)
    if isinstance(told, list):
        return len(told) == len(found) and all(same(a, b, inexact=inexact) for a, b in zip(told, found, strict=True))
    return bool(told == found)


def is_zstd(vector: Vector) -> bool:
    return str(vector["sent"].get("codec", "")).endswith("_ZSTD")


def named(vector: Vector) -> str:
    return str(vector["name"])


def test_there_are_no_other_files_and_no_name_twice() -> None:
    assert sorted(path.name for path in FOLDER.iterdir()) == sorted(f"{name}.json" for name in NAMES)
    names = [vector["name"] for vectors in FILES.values() for vector in vectors]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("vector", GOOD, ids=named)
def test_the_bytes_of_a_vector_hold_what_it_says(vector: Vector) -> None:
    assert same(vector["holds"], holds_of(vector, WAYS), inexact=WAYS[vector["what"]].inexact)


@pytest.mark.parametrize("vector", FILES["refused"], ids=named)
def test_what_has_to_be_refused_is(vector: Vector) -> None:
    with pytest.raises(PayloadError) as caught:
        holds_of(vector, WAYS)
    assert caught.value.kind == vector["kind_of_error"]


def test_the_encoder_gives_exactly_these_bytes() -> None:
    made = made_vectors()
    for name in NAMES:
        assert len(made[name]) == len(FILES[name])
        for vector, again in zip(FILES[name], made[name], strict=True):
            told = json.loads(json.dumps(again))
            assert told.keys() == vector.keys()
            for key in told:
                if key == "sent" and is_zstd(vector):
                    # A frame depends on the version of its library; what it holds is compared with the rest.
                    told[key], vector = told[key] | {"data": ""}, {**vector, key: vector[key] | {"data": ""}}
                assert same(vector[key], told[key], inexact=WAYS[vector["what"]].inexact), vector["name"]


def test_all_kinds_codecs_and_error_kinds_of_bytes_are_covered() -> None:
    kinds, codecs = set(), set()
    for vector in FILES["sections"]:
        kinds.add(pb.Kind.Value(vector["sent"]["kind"]))
        codecs.add(pb.Codec.Value(vector["sent"]["codec"]))
    assert kinds == set(pb.Kind.values()) - {pb.KIND_UNSPECIFIED}
    assert codecs == set(pb.Codec.values()) - {pb.CODEC_UNSPECIFIED}
    assert {vector["what"] for vector in GOOD} == set(WAYS)
    refusals = {vector["kind_of_error"] for vector in FILES["refused"]}
    assert refusals == {"malformed", "mismatch", "bounds", "not_finite", "metrics"}


def test_whole_messages_hold_every_kind_of_section_and_ask_for_every_task() -> None:
    kinds, asked, answered = set[int](), set[int](), set[int]()
    for vector in FILES["payloads"]:
        header, sections = decode_payload(bytes.fromhex(vector["sent"]["data"]), limit=1 << 16)
        kinds |= set(sections)
        (answered if pb.KIND_COUNTS in sections else asked).add(header.task)
    assert kinds == set(pb.Kind.values()) - {pb.KIND_UNSPECIFIED}
    assert asked == answered == set(pb.Task.values())


def test_a_mask_that_changes_comes_with_values_that_build_on_the_old_one_and_with_whole_ones() -> None:
    bases = {}
    for vector in FILES["payloads"]:
        header, sections = decode_payload(bytes.fromhex(vector["sent"]["data"]), limit=1 << 16)
        if pb.KIND_MASK_DELTA in sections:
            assert vector["holds"]["mask"] != vector["knows"]["mask"]
            bases[vector["name"]] = (header.base, "base_kept" in vector["holds"])
    assert set(bases.values()) == {(1, True), (0, False)}
