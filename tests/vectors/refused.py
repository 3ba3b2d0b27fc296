"""What has to be refused: bytes that are damaged, out of bounds, or for another reader."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from hedgerow.v1 import payload_pb2 as pb
from tests.vectors.form import Json

__all__ = ["refused_vectors"]

Vector = Mapping[str, Json]


class Bad(Protocol):
    """Makes a bad vector of the good one with that name."""

    def __call__(
        self, why: str, name: str, /, *, knows: Mapping[str, Json] | None = None, **sent: Json
    ) -> dict[str, Json]: ...


def refused_vectors(vectors: Sequence[Vector]) -> list[dict[str, Json]]:
    """Vectors made of good ones; instead of what they hold they say why there is nothing in them."""
    found = {vector["name"]: vector for vector in vectors}

    def bad(why: str, name: str, /, *, knows: Mapping[str, Json] | None = None, **sent: Json) -> dict[str, Json]:
        of = found[name]
        return {
            "name": why,
            "what": of["what"],
            "knows": {**of["knows"], **(knows or {})},
            "sent": {**of["sent"], **sent},
        }

    data = _data_of(found)
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
        *_refused_changes(bad, found),
        *_refused_looks(bad, found),
        *_refused_plans(bad, found),
    ]


def _refused_changes(bad: Bad, found: Mapping[str, Vector]) -> list[dict[str, Json]]:
    """Of masks that change."""
    data, top = _data_of(found), "largest values in bfloat16"
    story = "a mask that changes, drift, bfloat16 down"
    own, whole = (f"a mask of one's own, {how}: the reply" for how in ("bfloat16 down, multiples of steps up", "plain"))
    pressed = "weights that are pressed, bfloat16 down"
    marks, of_one, alone = (
        f"{pressed}: {what}"
        for what in ("marks beside gradients", "the reply with gradients of one tensor", "marks alone")
    )
    asks, reply, changed = (
        f"{story}: {what}"
        for what in ("a round that asks for gradients", "the reply with gradients", "the next round, of another mask")
    )
    return [
        bad("a bfloat16 value that is not finite", top, data=data(top)[:-4] + "807f"),
        bad("largest values that end too early", top, data=data(top)[:-2]),
        bad("largest values in another format", top, codec="CODEC_INT8_BLOCK"),
        bad("more gradients than pruned weights", asks, data=data(asks).replace("52021003", "5202107f")),
        bad("gradients of a tensor that does not exist", asks, data=data(asks).replace("520408011006", "520408021006")),
        bad("more gradients of a tensor than were asked for", reply, knows={"growth": [[0, 2], [1, 6]]}),
        bad("gradients among other pruned weights", reply, knows={"growth": [[0, 3]]}),
        bad("more marks than kept weights", marks, data=data(marks).replace("520410031804", "520410031836")),
        bad(
            "marks in a tensor that does not exist",
            alone,
            data=data(alone).replace("520408011802", "520408021802"),
        ),
        bad("nothing is said of a tensor", alone, data=data(alone).replace("520408011802", "520408011800")),
        bad("gradients of a tensor that was only marked", of_one, knows={"growth": [[0, 0, 4], [1, 3]]}),
        bad("a mask of one's own that gains more than was asked for", own, knows={"growth": [[0, 2], [1, 6]]}),
        bad("a mask of one's own that changes a tensor that was not asked for", whole, knows={"growth": [[0, 3]]}),
        bad("a change of another mask", changed, knows={"mask": found[changed]["holds"]["mask"]}),
        bad("a change of a mask, for who has none", changed, knows={"mask": None, "version": None}),
        bad("changed values for who has the mask and no version", changed, knows={"version": None}),
    ]


def _refused_looks(bad: Bad, found: Mapping[str, Vector]) -> list[dict[str, Json]]:
    """Of networks that are only looked at."""
    data = _data_of(found)
    moments, losses = "statistics of two networks", "losses of four networks"
    samples = "how many samples were looked at"
    story = "a choice, drift, bfloat16 down"
    pool, pooled, said = (f"{story}: {what}" for what in ("the pool", "the pooled statistics", "the losses"))
    return [
        bad("statistics of fewer networks", moments, knows={"networks": 3}),
        bad("a mean out of bounds", moments, data="01008053" + data(moments)[8:]),
        bad("a variance below zero", moments, data=data(moments)[:32] + "000000c0" + data(moments)[40:]),
        bad("a statistic that is not a number", moments, data="0000c07f" + data(moments)[8:]),
        bad("statistics in another codec", moments, codec="CODEC_FLOAT16"),
        bad("a loss below zero", losses, data="000080bf" + data(losses)[8:]),
        bad("a loss out of bounds", losses, data="01008049" + data(losses)[8:]),
        bad("losses of more networks", losses, knows={"networks": 3}),
        bad("no sample was looked at", samples, data="00000000"),
        bad("half a sample was looked at", samples, data="0000003f"),
        bad("more samples than a float32 counts", samples, data="0100804b"),
        bad("more networks than the settings say", pool, knows={"most": 1}),
        bad(
            "a network whose mask is another one",
            pool,
            data=data(pool).replace(found[pool]["holds"]["networks"][0]["mask_digest"], "00" * 16),
        ),
        bad("pooled statistics for who has no networks", pooled, knows={"pool": None}),
        bad("a network to evaluate that comes with its mask", pooled, data=data(pool).replace("40014a", "40024a")),
        bad("losses where statistics were asked for", said, knows={"task": pb.TASK_RECALIBRATE}),
        bad("losses of another round", said, knows={"round": 1}),
    ]


def _refused_plans(bad: Bad, found: Mapping[str, Vector]) -> list[dict[str, Json]]:
    """Of parts of a network that there is memory for."""
    data = _data_of(found)
    asked, said = "which level there is memory for", "a level that there is memory for"
    level = "a201040a020906"
    return [
        bad("a level that keeps more than the one before", asked, data=data(asked).replace(level, "a201040a021306")),
        bad("a level of another number of tensors", asked, data=data(asked).replace(level, "a201030a0109")),
        bad("a level that keeps nothing", asked, data=data(asked).replace(level, "a201040a020000")),
        bad("more levels than there may be", asked, data=data(asked) + level * 6),
        bad("a level that was not asked about", said, knows={"levels": 1}),
        bad("half a level", said, data=data(said).replace("0000803f", "0000003f")),
        bad("a plan of another round", said, knows={"round": 4}),
    ]


def _data_of(found: Mapping[str, Vector]) -> Callable[[str], str]:
    def data(name: str) -> str:
        text = found[name]["sent"]["data"]
        assert isinstance(text, str)
        return text

    return data


def _section_of(kind: pb.Kind) -> str:
    return pb.Payload(sections=[pb.Section(kind=kind)]).SerializeToString().hex()
