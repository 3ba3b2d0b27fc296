"""The compact index of kept weights."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgerow.sparse.index import kept_index


def test_a_small_index_is_what_a_hand_computes() -> None:
    # Kept of a (2, 1, 2, 2) weight: row 0 position 3, row 1 positions 0 and 2.
    index = kept_index(torch.tensor([3, 4, 6]), (2, 1, 2, 2))
    assert index.rows.tolist() == [0, 1, 3]
    assert index.codes.tolist() == [3, 0, 2]
    assert (index.kept, index.row_size, index.density) == (3, 4, 3 / 8)


def test_a_kept_weight_costs_two_bytes_and_an_output_four() -> None:
    index = kept_index(torch.arange(0, 64 * 576, 10, dtype=torch.int32), (64, 64, 3, 3))
    assert index.codes.dtype == torch.uint16
    assert index.nbytes == 2 * index.kept + 4 * 65


@pytest.mark.parametrize(("row_size", "dtype"), [(1 << 16, torch.uint16), ((1 << 16) + 1, torch.int32)])
def test_long_rows_take_wider_codes(row_size: int, dtype: torch.dtype) -> None:
    flat = torch.tensor([row_size - 1, row_size, 2 * row_size - 1])
    index = kept_index(flat, (2, row_size))
    assert index.codes.dtype == dtype
    assert index.flat().tolist() == flat.tolist()


@pytest.mark.parametrize("shape", [(3, 4), (3, 1, 2, 2), (1, 12)])
def test_an_empty_mask_and_a_full_one_have_an_index(shape: tuple[int, ...]) -> None:
    none = kept_index(torch.zeros(0, dtype=torch.int32), shape)
    every = kept_index(torch.arange(12), shape)
    assert none.kept == 0
    assert none.flat().tolist() == []
    assert none.rows.tolist() == [0] * (shape[0] + 1)
    assert every.flat().tolist() == list(range(12))


def test_an_index_survives_a_deep_copy() -> None:
    index = kept_index(torch.tensor([1, 5]), (2, 3))
    twin = copy.deepcopy(index)
    assert twin.flat().tolist() == [1, 5]
    assert twin.codes.data_ptr() != index.codes.data_ptr()


@pytest.mark.parametrize("flat", [[2, 1], [1, 1], [-1, 2], [1, 6]])
def test_positions_that_do_not_ascend_within_the_weight_are_refused(flat: list[int]) -> None:
    with pytest.raises(AssertionError):
        kept_index(torch.tensor(flat), (2, 3))


@settings(deadline=None, max_examples=60)
@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 5), st.integers(1, 3), st.integers(1, 3)),
    density=st.floats(0, 1),
    seed=st.integers(0, 999),
    wide=st.booleans(),
)
def test_flat_undoes_the_index(shape: tuple[int, ...], density: float, seed: int, wide: bool) -> None:
    kept = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < density
    flat = kept.flatten().nonzero()[:, 0].to(torch.int64 if wide else torch.int32)
    index = kept_index(flat, shape)
    assert torch.equal(index.flat().long(), flat.long())
    assert index.rows.diff().tolist() == kept.flatten(1).sum(1).tolist()
    assert index.rows.dtype == torch.int32
