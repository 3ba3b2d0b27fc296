"""Seeded mutations of valid replies: of bytes, of a payload's fields, of values and counts, and of frames."""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Callable

from hedgerow.v1 import payload_pb2 as pb
from hedgerow.v1.fleet_pb2 import Chunk, Frame, Transfer
from hedgerow.wire.flower import content_of, decode_message, encode_message, payload_in
from hedgerow.wire.transfers import Body, frames_of

__all__ = ["mutant_bytes", "mutant_frames", "mutant_reply"]

_KINDS = tuple(getattr(pb, name) for name, _ in pb.Kind.items())
_CODECS = tuple(getattr(pb, name) for name, _ in pb.Codec.items())
_NUMBERS = (0, 1, 2, 3, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1)
_VALUES = (math.nan, math.inf, -math.inf, -1.0, 0.5, 1e30, -1e30, 3e38)


def mutant_reply(reply: bytes, dice: random.Random) -> bytes:
    """A reply's message that is not what it was; it will be sent whole and with its right digest."""
    change = dice.choice(
        (mutant_bytes, mutant_bytes, _payload_bytes, _payload_bytes, _fields, _fields, _floats, _counts)
    )
    while (mutant := change(reply, dice)) == reply:
        pass
    return mutant


def mutant_frames(id: str, round: int, body: bytes, dice: random.Random) -> list[bytes]:
    """A reply's encoded frames, the body in four pieces; some are changed, lost, doubled or in another order."""
    quarter = len(body) // 4 + 1
    head = next(frames_of(Transfer(id=id, round=round, attempt=1), Body(body)))
    starts = range(0, len(body), quarter)
    pieces = [Frame(chunk=Chunk(offset=at, data=body[at : at + quarter])).SerializeToString() for at in starts]
    whole = [head, *pieces]
    while (mutant := _mutant_frames(whole, id, round, body, dice)) == whole:
        pass
    return mutant


def _mutant_frames(whole: list[bytes], id: str, round: int, body: bytes, dice: random.Random) -> list[bytes]:
    frames = list(whole)
    match dice.randrange(8):
        case 0:
            dice.shuffle(frames)
        case 1:
            del frames[dice.randrange(len(frames))]
        case 2:
            at = dice.randrange(len(frames))
            frames.insert(at, frames[at])
        case 3:
            frames.insert(dice.randrange(len(frames) + 1), dice.randbytes(dice.randrange(1, 200)))
        case 4:
            frames[0] = _header(id, round, body, dice)
        case _:
            at = dice.randrange(len(frames))
            frames[at] = mutant_bytes(frames[at], dice)
    return frames


def _payload_bytes(reply: bytes, dice: random.Random) -> bytes:
    return _with_payload(reply, lambda payload: mutant_bytes(payload, dice))


def _fields(reply: bytes, dice: random.Random) -> bytes:
    def change(payload: bytes) -> bytes:
        parsed = pb.Payload.FromString(payload)
        section = dice.choice(parsed.sections)
        match dice.randrange(8):
            case 0:
                parsed.version = dice.choice(_NUMBERS)
            case 1:
                parsed.round = dice.choice(_NUMBERS)
            case 2:
                parsed.mask_digest = dice.randbytes(dice.choice((0, 16, 17)))
            case 3:
                parsed.sections.append(section)
            case 4:
                section.count = dice.choice(_NUMBERS)
            case 5:
                section.codec = dice.choice(_CODECS)
            case 6:
                section.kind = dice.choice(_KINDS)
            case 7:
                section.data = dice.randbytes(dice.choice((0, 1, len(section.data) + 4, len(section.data))))
        return parsed.SerializeToString()

    return _with_payload(reply, change)


def _floats(reply: bytes, dice: random.Random) -> bytes:
    def change(payload: bytes) -> bytes:
        parsed = pb.Payload.FromString(payload)
        floats = [s for s in parsed.sections if s.codec == pb.CODEC_FLOAT32 and s.kind != pb.KIND_COUNTS]
        _spoil(dice.choice(floats), dice)
        return parsed.SerializeToString()

    return _with_payload(reply, change)


def _counts(reply: bytes, dice: random.Random) -> bytes:
    def change(payload: bytes) -> bytes:
        parsed = pb.Payload.FromString(payload)
        at = next(i for i, s in enumerate(parsed.sections) if s.kind == pb.KIND_COUNTS)
        if dice.random() < 0.2:
            del parsed.sections[at]
        else:
            _spoil(parsed.sections[at], dice)
        return parsed.SerializeToString()

    return _with_payload(reply, change)


def _spoil(section: pb.Section, dice: random.Random) -> None:
    at = 4 * dice.randrange(len(section.data) // 4)
    section.data = section.data[:at] + struct.pack("<f", dice.choice(_VALUES)) + section.data[at + 4 :]


def _with_payload(reply: bytes, change: Callable[[bytes], bytes]) -> bytes:
    message = decode_message(reply)
    message.content = content_of(change(payload_in(message.content)))
    return encode_message(message)


def _header(id: str, round: int, body: bytes, dice: random.Random) -> bytes:
    transfer = Transfer(id=id, round=round, attempt=1, size=len(body), sha256=Body(body).sha256)
    match dice.randrange(6):
        case 0:
            transfer.size = dice.choice((0, len(body) - 1, len(body) + 1, 2**63, *_NUMBERS))
        case 1:
            transfer.sha256 = dice.randbytes(dice.choice((0, 31, 32, 33)))
        case 2:
            transfer.id = dice.choice(("", "f" * 32, "é" * 32, id[:-1], id.upper(), "x" * 5000))
        case 3:
            transfer.run = "another"
        case 4:
            transfer.round = dice.choice(_NUMBERS)
        case 5:
            transfer.envelope = dice.randbytes(dice.choice((1, 4096, 4097)))
    return Frame(transfer=transfer).SerializeToString()


def mutant_bytes(data: bytes, dice: random.Random) -> bytes:
    """Bytes that were cut, moved, doubled, overwritten, drawn anew or flipped; now and then what they were."""
    at, end = sorted((dice.randrange(len(data) + 1), dice.randrange(len(data) + 1)))
    match dice.randrange(7):
        case 0:
            return data[:at]
        case 1:
            return data[:at] + data[end:]
        case 2:
            return data[:end] + data[at:]
        case 3:
            return data[:at] + dice.randbytes(dice.choice((1, 8, 64, 5000))) + data[at:]
        case 4:
            return data[:at] + dice.choice((b"\0", b"\xff")) * (end - at) + data[end:]
        case 5:
            return dice.randbytes(dice.choice((0, 1, 16, len(data), 2 * len(data))))
        case _:
            flipped = bytearray(data or b"\0")
            for _ in range(dice.choice((1, 1, 1, 2, 8))):
                flipped[dice.randrange(len(flipped))] ^= 1 << dice.randrange(8)
            return bytes(flipped)
