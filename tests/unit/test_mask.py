"""The kept pattern as a value: what it counts, how it travels, and that nobody can change it."""

import copy
import hashlib
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hedgerow.errors import PayloadError, PruningError
from hedgerow.pruning import Mask, prunable_tensors
from hedgerow.pruning import mask as mask_module

Shapes = dict[str, tuple[int, ...]]
SHAPES: Shapes = {"a.weight": (2, 3), "b.weight": (5,)}
BITS = {
    "a.weight": torch.tensor([[True, False, True], [False, False, True]]),
    "b.weight": torch.tensor([True, True, False, False, True]),
}
PACKED = bytes([0b10100111, 0b00100000])

shapes_of_layers = st.dictionaries(
    st.text("abc.", min_size=1, max_size=4),
    st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple),
    min_size=1,
    max_size=5,
)


@st.composite
def masks(draw: st.DrawFn) -> Mask:
    shapes = draw(shapes_of_layers)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    density = draw(st.floats(0, 1))
    return Mask({name: torch.rand(shape, generator=generator) < density for name, shape in shapes.items()})


def test_counts_and_densities_of_a_small_mask() -> None:
    mask = Mask(BITS)
    assert (mask.kept, mask.size, mask.density) == (6, 11, 6 / 11)
    assert mask.layer_kept() == {"a.weight": 3, "b.weight": 3}
    assert mask.layer_density() == {"a.weight": 0.5, "b.weight": 0.6}
    assert mask.shapes == SHAPES


def test_bits_are_packed_across_tensors_most_significant_first() -> None:
    assert Mask(BITS).packed() == PACKED
    assert Mask.unpack(PACKED, SHAPES) == Mask(BITS)


def test_kept_indices_are_flat_sorted_and_int32() -> None:
    indices = Mask(BITS).kept_indices()
    assert indices["a.weight"].tolist() == [0, 2, 5]
    assert indices["b.weight"].tolist() == [0, 1, 4]
    assert indices["a.weight"].dtype == torch.int32


def test_positions_of_one_tensor_are_found_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mask_module, "_BLOCK", 2)
    assert Mask(BITS).kept_index("a.weight").tolist() == [0, 2, 5]
    assert Mask(BITS).kept_index("b.weight").tolist() == [0, 1, 4]
    assert Mask(BITS).kept_index("b.weight").dtype == torch.int32


def test_bits_are_handed_out_packed_and_flat() -> None:
    mask = Mask(BITS)
    assert mask.bits().data.tobytes() == PACKED
    assert mask.bits().count == 11
    assert mask.flat().tolist() == [c == "1" for c in "10100111001"]
    mask.flat()[:] = True
    with pytest.raises(ValueError, match="read-only"):
        mask.bits().data[0] = 0
    assert mask == Mask(BITS)


def test_what_was_unpacked_can_change_without_changing_the_mask() -> None:
    data = bytearray(PACKED)
    mask = Mask.unpack(data, SHAPES)
    data[0] = 0
    assert mask == Mask(BITS)


def test_tensors_without_elements_are_kept_whole() -> None:
    mask = Mask({"none": torch.zeros(0, 3, dtype=torch.bool), "one": torch.tensor(False)})
    assert mask.layer_density() == {"none": 1.0, "one": 0.0}
    assert mask["none"].shape == (0, 3)
    assert mask["one"].shape == ()
    assert mask.kept_index("none").tolist() == []


def test_digest_is_half_a_sha256_over_names_shapes_and_bits() -> None:
    header = b'[["a.weight", 2, 3], ["b.weight", 5]]'
    whole = hashlib.sha256(len(header).to_bytes(8, "big") + header + PACKED).digest()
    assert Mask(BITS).digest == whole[:16]


@pytest.mark.parametrize(
    "other",
    [
        {"c.weight": BITS["a.weight"], "b.weight": BITS["b.weight"]},
        {"a.weight": BITS["a.weight"].reshape(3, 2), "b.weight": BITS["b.weight"]},
        {"a.weight": ~BITS["a.weight"], "b.weight": BITS["b.weight"]},
        {"b.weight": BITS["b.weight"], "a.weight": BITS["a.weight"]},
    ],
    ids=["name", "shape", "bit", "order"],
)
def test_masks_that_differ_are_unequal_and_have_different_digests(other: dict[str, torch.Tensor]) -> None:
    assert Mask(other) != Mask(BITS)
    assert Mask(other).digest != Mask(BITS).digest


def test_equal_masks_are_equal_and_hash_alike() -> None:
    assert Mask(BITS) == Mask(copy.deepcopy(BITS))
    assert len({Mask(BITS), Mask(copy.deepcopy(BITS))}) == 1
    assert Mask(BITS) != "a mask"


def test_neither_the_input_nor_what_is_handed_out_can_change_a_mask() -> None:
    given_bits = copy.deepcopy(BITS)
    mask = Mask(given_bits)
    given_bits["a.weight"].fill_(True)
    mask["a.weight"].fill_(True)
    for _, bits in mask.items():
        bits.fill_(True)
    mask.kept_indices()["a.weight"].fill_(0)
    mask.shapes.clear()
    assert mask == Mask(BITS)
    with pytest.raises(AttributeError):
        mask._packed = b""  # type: ignore[misc]  # the point of the test


def test_a_mask_acts_as_an_ordered_collection_of_names() -> None:
    mask = Mask(BITS)
    assert list(mask) == ["a.weight", "b.weight"]
    assert len(mask) == 2
    assert "a.weight" in mask
    assert "c.weight" not in mask
    assert torch.equal(mask["b.weight"], BITS["b.weight"])


def test_an_expanded_tensor_becomes_an_ordinary_one() -> None:
    mask = Mask({"w": torch.tensor([True]).expand(3)})
    mask["w"][0] = False
    assert mask.kept == 3


def test_a_dense_mask_keeps_everything() -> None:
    assert Mask.dense(SHAPES).density == 1
    assert Mask.dense(SHAPES).packed() == bytes([0xFF, 0b11100000])


def test_a_tensor_that_is_not_bool_is_refused() -> None:
    with pytest.raises(PruningError, match=r"float32.*torch\.bool"):
        Mask({"w": torch.ones(3)})


def test_a_mask_without_weights_is_refused() -> None:
    with pytest.raises(PruningError, match="at least one weight"):
        Mask({})


@pytest.mark.parametrize("data", [b"", PACKED[:1], PACKED + b"\0"])
def test_packed_bytes_of_another_length_are_refused(data: bytes) -> None:
    with pytest.raises(PayloadError, match=f"11 weights takes 2 bytes, but {len(data)} arrived"):
        Mask.unpack(data, SHAPES)


@pytest.mark.parametrize("bit", range(5))
def test_every_padding_bit_must_be_zero(bit: int) -> None:
    with pytest.raises(PayloadError, match="padding"):
        Mask.unpack(bytes([PACKED[0], PACKED[1] | 1 << bit]), SHAPES)


@settings(deadline=None)
@given(masks())
def test_packing_round_trips(mask: Mask) -> None:
    again = Mask.unpack(mask.packed(), mask.shapes)
    assert again == mask
    assert again.digest == mask.digest
    assert len(mask.packed()) == -(-mask.size // 8)


@settings(deadline=None)
@given(masks())
def test_kept_indices_rebuild_the_mask(mask: Mask) -> None:
    rebuilt = {name: torch.zeros(shape, dtype=torch.bool) for name, shape in mask.shapes.items()}
    for name, indices in mask.kept_indices().items():
        rebuilt[name].view(-1)[indices.long()] = True
        assert (np.diff(indices.numpy()) > 0).all()
    assert Mask(rebuilt) == mask


@settings(deadline=None)
@given(masks())
def test_a_mask_survives_pickling_and_copying(mask: Mask) -> None:
    assert pickle.loads(pickle.dumps(mask)) == mask  # noqa: S301 - our own bytes
    assert copy.deepcopy(mask) == mask


def test_convolutions_and_linear_layers_are_prunable_and_nothing_else() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Sequential(nn.Conv1d(2, 2, 1, groups=2)), nn.Linear(2, 2)
    )
    names = list(prunable_tensors(model))
    assert names == ["0.weight", "2.0.weight", "3.weight"]
    assert set(names) < set(model.state_dict())
    assert prunable_tensors(model)["0.weight"] is model[0].weight


def test_a_shared_weight_is_prunable_once() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    assert list(prunable_tensors(model)) == ["0.weight"]


def test_a_layer_that_is_the_model_itself_is_prunable() -> None:
    assert list(prunable_tensors(nn.Linear(2, 2))) == ["weight"]


def test_a_model_with_nothing_to_prune_is_refused() -> None:
    with pytest.raises(PruningError, match="nothing can be pruned"):
        prunable_tensors(nn.BatchNorm1d(3))
