"""What a change of mask does to values of kept weights."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgerow.pruning import Mask, moves
from hedgerow.pruning.moves import Moves


def mask_of(*tensors: str) -> Mask:
    return Mask({str(i): torch.tensor([c == "1" for c in bits], dtype=torch.bool) for i, bits in enumerate(tensors)})


def test_what_stays_is_found_among_the_old_ones_and_among_the_new_ones() -> None:
    found = Moves.between(mask_of("1101", "01"), mask_of("0111", "10"))
    assert found.stays.tolist() == [False, True, True, False]
    assert found.stayed.tolist() == [True, False, True, False]
    assert found.grown == 2
    assert found.carried(np.array([1, 2, 3, 4]), grown=9).tolist() == [2, 9, 3, 9]


def test_masks_of_other_tensors_are_no_change() -> None:
    with pytest.raises(AssertionError, match="other tensors"):
        Moves.between(mask_of("11"), mask_of("1", "1"))


@given(st.integers(1, 40), st.integers(0, 2**32), st.integers(1, 9))
@settings(max_examples=40)
def test_blocks_of_any_size_find_the_same(size: int, seed: int, block: int) -> None:
    generator = np.random.default_rng(seed)
    old, new = (Mask({"a": torch.from_numpy(generator.random(size) < 0.5)}) for _ in range(2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(moves, "_BLOCK", block)
        found = Moves.between(old, new)
    assert found.stays.tolist() == new.flat()[old.flat()].tolist()
    assert found.stayed.tolist() == old.flat()[new.flat()].tolist()
