"""The largest activations: exactly as many as asked, the right ones, in the bytes that they say."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hedgerow.activations import FaithfulStorage, TopK
from hedgerow.errors import ConfigError


def test_the_largest_in_size_are_kept_with_their_signs() -> None:
    x = torch.tensor([[1.0, -8.0, 0.5], [4.0, 0.25, -3.0]])
    assert TopK(keep_ratio=0.5).pack(x).unpack().tolist() == [[0.0, -8.0, 0.0], [4.0, 0.0, -3.0]]


def test_kept_values_are_rounded_to_bfloat16() -> None:
    x = torch.tensor([[1.0, 1.00390625 + 2**-20]])
    assert TopK(keep_ratio=1.0).pack(x).unpack().tolist() == [[1.0, 1.0078125]]


def test_bytes_are_a_bit_an_element_and_two_a_kept_one() -> None:
    packed = TopK(keep_ratio=0.3).pack(torch.randn(32, 10, 8, 8))
    assert packed.nbytes == 32 * 10 * 64 // 8 + 2 * 6144
    assert len(packed.tensors) == 2


def test_of_equal_sizes_the_first_in_memory_are_kept() -> None:
    assert TopK(keep_ratio=0.5).pack(torch.full((1, 4), -2.0)).unpack().tolist() == [[-2.0, -2.0, 0.0, 0.0]]
    assert TopK(keep_ratio=0.5).pack(torch.ones(2, 2).t()).unpack().tolist() == [[1.0, 0.0], [1.0, 0.0]]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.29])
def test_zeros_take_no_value_even_where_more_could_be_kept(share: float) -> None:
    x = torch.zeros(10, 1000)
    x.view(-1)[: round(share * 10000)] = torch.randn(round(share * 10000))
    packed = TopK(keep_ratio=0.3).pack(x)
    assert packed.nbytes == 1250 + 2 * round(share * 10000)
    assert torch.equal(packed.unpack(), x.bfloat16().float())


@pytest.mark.parametrize("keep_ratio", [0.01, 0.3, 0.99])
@pytest.mark.parametrize(
    "x",
    [
        torch.randn(16, 8, 40, 40),
        torch.randn(16, 8, 40, 40).relu(),
        torch.ones(16, 8, 40, 40),
        torch.arange(4096.0).repeat(50).view(50, 4096),  # a sample with a stride sees few of its values
        torch.cat([torch.zeros(1, 200_000), torch.randn(1, 200_000)]),
        torch.exp(5 * torch.randn(8, 50_000)),
        torch.randint(-3, 4, (8, 50_000)).float(),
        torch.randn(16, 8, 40, 40).permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
    ],
    ids=["normal", "rectified", "constant", "periodic", "half zero", "long tail", "ties", "batch last"],
)
def test_large_batches_keep_exactly_the_largest(x: Tensor, keep_ratio: float) -> None:
    back = TopK(keep_ratio=keep_ratio).pack(x).unpack()
    _check(x, back, keep_ratio=keep_ratio)


@given(
    st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=300),
    st.floats(0.0, 1.0, exclude_min=True),
)
def test_any_batch_keeps_exactly_the_largest(values: list[float], keep_ratio: float) -> None:
    x = torch.tensor([values]).bfloat16().float()
    _check(x, TopK(keep_ratio=keep_ratio).pack(x).unpack(), keep_ratio=keep_ratio)


def _check(x: Tensor, back: Tensor, *, keep_ratio: float) -> None:
    wanted = min(max(1, round(keep_ratio * x.numel())), int(x.count_nonzero()))
    kept = back != 0
    assert int(kept.sum()) == wanted
    assert torch.equal(back[kept], x[kept].bfloat16().float())
    if wanted and wanted < x.numel():
        assert float(x[kept].abs().min()) >= float(x[~kept].abs().max())


@pytest.mark.parametrize("keep_ratio", [0.0, -0.1, 1.5, float("nan")])
def test_a_share_out_of_range_is_refused(keep_ratio: float) -> None:
    with pytest.raises(ConfigError, match="keep ratio"):
        TopK(keep_ratio=keep_ratio)


def test_the_largest_values_are_no_faithful_storage_for_the_type_checker() -> None:
    # The ignore is what this proves: mypy fails here once the assignment passes.
    storage: FaithfulStorage = TopK(keep_ratio=0.5)  # type: ignore[assignment]  # that is the point
    assert not hasattr(storage, "faithful")
