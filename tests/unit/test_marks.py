"""Marked weights: those that are going to be pruned, the same at both ends though only their numbers travel."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgerow.codec import Growth, Header, decode_payload, encode_payload
from hedgerow.config import WireSettings
from hedgerow.errors import PayloadError
from hedgerow.exchange import asked_counts, growth_of, growth_section, marked_counts, read_growth
from hedgerow.pruning import adjusted, marked
from tests.unit.test_adjustment import bits_of, found, mask_of, scores


def test_the_smallest_of_each_tensor_are_marked() -> None:
    bits = marked(scores(0.5, 0.125, 0.25, 9, 7, 8), layers=[3, 3], counts=[2, 1])
    assert bits.tolist() == [False, True, True, False, True, False]


def test_of_equal_ones_those_at_lower_positions_are_marked() -> None:
    # Long enough that a sort that is not stable would mix them.
    bits = marked(np.ones(40, dtype=np.float32), layers=[30, 0, 10], counts=[7, 0, 10])
    assert np.flatnonzero(bits).tolist() == [*range(7), *range(30, 40)]


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0]), min_size=1, max_size=40), st.data())
@settings(max_examples=60, deadline=None)
def test_who_holds_a_part_marks_the_same_weights_of_it(values: list[float], data: st.DataObject) -> None:
    own = np.array(values, dtype=np.float32)
    count = data.draw(st.integers(0, own.size))
    bits = marked(own, layers=[own.size], counts=[count])
    held = np.array(data.draw(st.lists(st.booleans(), min_size=own.size, max_size=own.size)), dtype=np.bool_)
    part = marked(own[held], layers=[int(held.sum())], counts=[int(np.count_nonzero(bits & held))])
    np.testing.assert_array_equal(part, bits[held])


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0]), min_size=2, max_size=30), st.data())
@settings(max_examples=60, deadline=None)
def test_all_that_is_marked_goes_if_as_many_come(values: list[float], data: st.DataObject) -> None:
    own = np.array(values, dtype=np.float32)
    count = data.draw(st.integers(1, own.size - 1))
    mask = mask_of(a="1" * own.size + "0" * count)
    bits = marked(own, layers=[own.size], counts=[count])
    trained = np.array(data.draw(st.lists(st.floats(0, 4, width=16), min_size=own.size, max_size=own.size)), np.float32)
    gradients = found(a=dict.fromkeys(range(own.size, own.size + count), 1.0))
    after = adjusted(mask, scores=trained, gradients=gradients, goes={"a": count}, comes={"a": count}, among=bits)
    assert bits_of(after) == {"a": "".join("0" if bit else "1" for bit in bits) + "1" * count}


def test_where_fewer_come_the_marked_of_the_smallest_new_scores_go() -> None:
    mask = mask_of(a="111100")
    bits = np.array([True, True, True, False])
    after = adjusted(
        mask,
        scores=scores(0.5, 0.25, 0.75, 0.0),
        gradients=found(a={5: 2.0}),
        goes={"a": 3},
        comes={"a": 3},
        among=bits,
    )
    assert bits_of(after) == {"a": "101101"}


def test_marks_and_gradients_are_asked_for_in_one() -> None:
    mask = mask_of(a="0110", b="1", c="1100000")
    asked = growth_of({"c": 3}, mask=mask, marked={"a": 2, "c": 1})
    assert asked == (Growth(0, 0, 2), Growth(2, 3, 1))
    header, _ = decode_payload(encode_payload(Header(bytes(6), 1, bytes(16), growth=asked), []), limit=1000)
    assert header.growth == asked
    assert marked_counts(header.growth, layers=[2, 1, 2]) == [2, 0, 1]
    assert asked_counts(header.growth, mask=mask) == {"c": 3}


def test_tensors_that_are_only_marked_have_no_place_among_the_gradients() -> None:
    mask = mask_of(a="0110", b="1", c="1100000")
    both, alone = (Growth(0, 0, 2), Growth(2, 2, 1)), (Growth(2, 2),)
    said = found(c={3: 1.0, 6: -2.0})
    sections = [growth_section(said, mask=mask, growth=growth, wire=WireSettings()) for growth in (both, alone)]
    assert sections[0] == sections[1]
    read = read_growth({sections[0].kind: sections[0]}, mask=mask, growth=both)
    assert {name: positions.tolist() for name, (positions, _) in read.items()} == {"c": [3, 6]}


def test_gradients_beyond_what_is_summed_are_said_as_the_largest_that_are() -> None:
    mask = mask_of(a="1000")
    for up in ("fp32", "int8"):
        section = growth_section(
            found(a={1: 1e6, 2: -4096.0, 3: 4000.0}), mask=mask, growth=(Growth(0, 3),), wire=WireSettings(up=up)
        )
        values = read_growth({section.kind: section}, mask=mask, growth=(Growth(0, 3),))["a"][1]
        assert values.tolist() == [4080.0, -4080.0, 4000.0]


@pytest.mark.parametrize(
    ("growth", "says"),
    [
        ((Growth(0, 0, 3),), "3 marks among the 2 kept weights of tensor 0"),
        ((Growth(1, 0, 1),), "1 marks among the 0 kept weights of tensor 1"),
        ((Growth(3, 0, 1),), "tensor 3 is to be adjusted; there are 3"),
        ((Growth(1, 0, 0), Growth(0, 0, 1)), "do not ascend"),
    ],
)
def test_marks_of_what_there_is_not_are_refused(growth: tuple[Growth, ...], says: str) -> None:
    with pytest.raises(PayloadError, match=says) as caught:
        marked_counts(growth, layers=[2, 0, 5])
    assert caught.value.kind == "bounds"
