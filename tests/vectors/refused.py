"""What has to be refused: bytes that are damaged, out of bounds, or for another reader."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hedgerow.v1 import payload_pb2 as pb
from tests.vectors.form import Json

__all__ = ["refused_vectors"]

Vector = Mapping[str, Json]


def refused_vectors(vectors: Sequence[Vector]) -> list[dict[str, Json]]:
    """Vectors made of good ones; instead of what they hold they say why there is nothing in them."""
    found = {vector["name"]: vector for vector in vectors}

    def bad(why: str, name: str, *, knows: Mapping[str, Json] | None = None, **sent: Json) -> dict[str, Json]:
        of = found[name]
        return {
            "name": why,
            "what": of["what"],
            "knows": {**of["knows"], **(knows or {})},
            "sent": {**of["sent"], **sent},
        }

    def data(name: str) -> str:
        text = found[name]["sent"]["data"]
        assert isinstance(text, str)
        return text

    contact = "vote, binary16 down, blocks up: first contact"
    changes = "vote, binary16 down, blocks up: the next round, changes"
    reply = "vote, binary16 down, blocks up: the reply"
    innovation = "innovation, binary32: the reply"
    plain, gaps, zeros = "few bits stay as they are", "gaps between ones", "gaps between zeros"
    share, layers = "bytes by one share of ones", "bytes by a share of ones for each layer"
    table, mask, top = "levels of one table", "a mask with structure", "largest values in binary32"
    whole, against = "a whole version, binary16", "a version against its base, binary16"
    blocks, steps = "changes in blocks of 8-bit integers", "changes as multiples of steps"
    return [
        bad(
            "a byte behind an adaptive coder's",
            "bits, uniform, natural and signed numbers",
            data=data("bits, uniform, natural and signed numbers") + "01" * 5,
        ),
        bad("a number above its bound", "bits, uniform, natural and signed numbers", data="ff" * 8),
        bad("a range coder's words end too early", "two lanes", data=data("two lanes")[:-4]),
        bad("a range coder's words are too many", "two contexts", data=data("two contexts") + "0000"),
        bad("a range coder's state is not where writing starts", "two contexts", data="01" + data("two contexts")[2:]),
        bad(
            "a one behind the last bit",
            "long gaps are beyond the table",
            data="01ffffff7f" + data("long gaps are beyond the table")[4:],
        ),
        bad("padding that is not zero", plain, data=data(plain)[:-1] + "9"),
        bad("bits that are too few", plain, data=data(plain)[:2]),
        bad("another number of symbols", plain, count=12),
        bad("another kind", plain, kind="KIND_FLIPS"),
        bad("a codec that is none of bits", plain, codec="CODEC_FLOAT32"),
        bad("a parameter where there is none", plain, parameter=1),
        bad("a share beyond all", share, parameter=1 << 14),
        bad("shares that end too early", layers, data=data(layers)[:6]),
        bad("more ones than bits", gaps, parameter=8001),
        bad("another number of ones", gaps, parameter=4),
        bad("bytes where there are no zeros", zeros, parameter=8000),
        bad("a Zstandard frame of another size", "plain levels", data="28b52ffd20010900000000"),
        bad("a number of levels that is another one", "plain levels", parameter=17),
        bad("tables longer than the data", table, data="7f" + data(table)[2:]),
        bad("levels with a parameter", table, parameter=16),
        bad("bytes for no levels", "no levels take no bytes", data="00"),
        bad("a mask that ends too early", mask, data=data(mask)[:-2]),
        bad(
            "a delta that ends too early",
            "what a mask gains and loses",
            codec="CODEC_BITS",
            parameter=0,
            data="00" * 249,
        ),
        bad("more largest values than may be", top, parameter=6),
        bad("a value that is not finite", "values in binary32", data="0000807f" + data("values in binary32")[8:]),
        bad("a half that is not finite", "values in binary16", data="007c" + data("values in binary16")[4:]),
        bad("a negative scale of a block", blocks, data="00bf" + data(blocks)[4:]),
        bad("a scale that is too large", blocks, data="807e" + data(blocks)[4:]),
        bad("steps that end too early", steps, data=data(steps)[:4]),
        bad("integers of an unknown layout", steps, data=data(steps)[:6] + "10" + data(steps)[8:]),
        bad("a version of an unknown layout", whole, parameter=2),
        bad("a version that needs a base, for who has none", against, knows={"base": None}),
        bad(
            "an infinite value of a version",
            "a short version stays in halves",
            data="007c" + data("a short version stays in halves")[4:],
        ),
        bad("not a payload", contact, data="ff"),
        bad("another payload version", contact, data="0803" + data(contact)[4:]),
        bad("a kind twice", contact, data=data(contact) + _section_of(pb.KIND_SIGNS)),
        bad(
            "another network",
            contact,
            knows={"tensors": [["0.weight", [6, 1, 3, 3], False], *found[contact]["knows"]["tensors"][1:]]},
        ),
        bad("flips for who has no version", changes, knows={"version": None}),
        bad(
            "a reply without its weights",
            reply,
            knows={"settings": {"representation": "weights", "wire": {"down": "fp16", "up": "int8"}}},
        ),
        bad(
            "values in another format than asked for",
            reply,
            knows={"settings": {**found[reply]["knows"]["settings"], "wire": {"down": "fp16", "up": "fp32"}}},
        ),
        bad("a measure below zero", innovation, data=data(innovation).replace("0000403f", "000040bf")),
    ]


def _section_of(kind: pb.Kind) -> str:
    return pb.Payload(sections=[pb.Section(kind=kind)]).SerializeToString().hex()
