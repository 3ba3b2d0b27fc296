"""What is recorded of a mask that changes."""

import pytest
import torch

from hedgerow.pruning import Mask
from hedgerow.server.recording import mask_churn


def mask_of(*kept: int) -> Mask:
    return Mask({"w": torch.tensor([[index in kept for index in range(8)]])})


@pytest.mark.parametrize(
    ("old", "new", "churn"),
    [((0, 1, 2, 3), (0, 1, 2, 3), 0.0), ((0, 1, 2, 3), (0, 1, 2, 7), 0.25), ((0, 1), (4, 5, 6, 7), 1.0)],
)
def test_churn_is_the_fraction_of_kept_positions_that_are_new(
    old: tuple[int, ...], new: tuple[int, ...], churn: float
) -> None:
    assert mask_churn(mask_of(*old), mask_of(*new)) == churn


def test_positions_that_are_only_removed_are_no_churn() -> None:
    assert mask_churn(mask_of(0, 1, 2, 3), mask_of(0, 1)) == 0.0
