"""Bits eight a byte: what is put together of parts, and what is read of them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hedgerow.codec.packed_bits import PackedBits, Packer
from hedgerow.codec.symbols import Bits
from hedgerow.errors import PayloadError

ELEVEN = np.array([c == "1" for c in "10110111010"])


def test_parts_are_packed_where_they_belong_in_any_order() -> None:
    packer = Packer(11)
    assert packer.put(6, ELEVEN[6:]) == 11
    assert packer.put(3, ELEVEN[3:6]) == 6
    assert packer.put(0, ELEVEN[:3]) == 3
    assert packer.packed().data.tolist() == [0b10110111, 0b01000000]
    assert packer.packed().count == 11


def test_bits_that_were_not_put_are_0() -> None:
    packer = Packer(11)
    packer.put(9, np.array([True]))
    assert packer.packed().data.tolist() == [0, 0b01000000]
    assert Packer(0).packed().count == 0


def test_bits_beyond_the_end_are_not_packed() -> None:
    with pytest.raises(AssertionError, match="bits 9 to 12 of 11"):
        Packer(11).put(9, np.ones(3, dtype=np.bool_))


@given(hnp.arrays(np.bool_, st.integers(0, 200)), st.data())
@settings(max_examples=60)
def test_any_parts_give_the_bits_of_the_whole(bools: Bits, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, bools.size), max_size=6)))
    parts = list(zip([0, *cuts], [*cuts, bools.size], strict=True))
    packer = Packer(bools.size)
    for begin, end in data.draw(st.permutations(parts)):
        packer.put(begin, bools[begin:end])
    assert packer.packed().data.tolist() == PackedBits.from_bools(bools).data.tolist()
    for begin, end in parts:
        found = PackedBits.from_bools(bools).between(begin, end)
        assert found.dtype == np.bool_
        assert np.array_equal(found, bools[begin:end])


def test_what_is_handed_out_can_be_changed_without_changing_the_bits() -> None:
    bits = PackedBits.read(bytes([0b10110111, 0b01000000]), 11)
    bits.between(0, 11)[:] = False
    assert bits.to_bools().tolist() == ELEVEN.tolist()


@pytest.mark.parametrize(("data", "message"), [(b"", "11 bits take 2 bytes, found 0"), (bytes(3), "found 3")])
def test_bits_that_came_in_other_bytes_than_they_take_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(PayloadError, match=message):
        PackedBits.read(data, 11)


@pytest.mark.parametrize("bit", range(5))
def test_padding_that_came_with_ones_is_refused(bit: int) -> None:
    with pytest.raises(PayloadError, match="padding"):
        PackedBits.read(bytes([0, 1 << bit]), 11)
