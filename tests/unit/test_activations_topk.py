"""The largest activations: exactly as many as asked, the right ones, in the bytes that they say."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hedgerow.activations import FaithfulStorage, Packed, TopK, largest
from hedgerow.activations.largest import unpack_largest
from hedgerow.errors import ConfigError, TrainingError
from hedgerow.native.library import Status, status

native = pytest.mark.skipif(not status().available, reason=status().reason)
KEEP_RATIOS = [1e-9, 0.01, 0.3, 0.5, 0.99, 1.0]
DENORMAL = 2.0**-149


@pytest.fixture(scope="module", autouse=True)
def _native_for_few_too() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(largest, "_LEAST", 1)
        yield


@contextmanager
def in_numpy() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(largest, "status", lambda: Status(False, "turned off by the test"))
        yield


def bits(x: Tensor) -> Tensor:
    """What tells -0 from 0, and more."""
    return x.contiguous().view(-1).view(torch.uint8)


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


def _packed_both_ways(x: Tensor, *, keep_ratio: float) -> Packed:
    """As native code packs it, once NumPy has given the same bits both ways."""
    storage = TopK(keep_ratio=keep_ratio)
    packed, back = storage.pack(x), storage.pack(x).unpack()
    with in_numpy():
        expected = storage.pack(x)
        expected_back = expected.unpack()
    for found, wanted in zip((*packed.tensors, back), (*expected.tensors, expected_back), strict=True):
        assert found.dtype == wanted.dtype
        assert found.stride() == wanted.stride()
        assert torch.equal(bits(found), bits(wanted))
    return packed


@native
@pytest.mark.parametrize("keep_ratio", KEEP_RATIOS)
@pytest.mark.parametrize("numel", [1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 100, 1023, 65_535, 65_537, 200_003])
def test_native_code_gives_the_same_bits_for_any_number_of_elements(numel: int, keep_ratio: float) -> None:
    _packed_both_ways(torch.randn(1, numel), keep_ratio=keep_ratio)


@native
@pytest.mark.parametrize("keep_ratio", KEEP_RATIOS)
@pytest.mark.parametrize(
    "x",
    [
        torch.randn(3, 8, 41, 40).relu(),
        torch.zeros(2, 5003),
        -torch.zeros(2, 5003),
        torch.full((2, 5003), -1.5),
        torch.randint(-3, 4, (3, 50_001)).float(),
        torch.cat([torch.zeros(1, 100_000), torch.randn(1, 5)], dim=1),
        torch.cat([torch.randn(1, 5), -torch.zeros(1, 100_000)], dim=1),
        torch.randint(-9, 10, (3, 5001)) * DENORMAL,
        torch.exp(20 * torch.randn(3, 50_001)).clamp(max=3.4e38),
        1 + torch.randint(0, 1 << 16, (3, 50_001)) * 2.0**-23,
        (torch.arange(1 << 18) % 17 == 0).float()[None] + torch.rand(1, 1 << 18),
        (torch.arange(1 << 18) % 17 != 0).float()[None] + torch.rand(1, 1 << 18),
        torch.randn(6, 7, 9, 5).permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
        torch.randn(40, 33).t(),
        torch.randn(30, 70)[3:, 1::2],
        torch.randn(0, 4),
        torch.tensor([[3.4e38, -3.4e38, torch.finfo(torch.float32).max]]),
        torch.randn(30, 70).double(),
        torch.randn(30, 70).half(),
        torch.randn(30, 70).bfloat16(),
    ],
    ids=[
        "rectified",
        "zeros",
        "negative zeros",
        "constant",
        "ties",
        "nearly all zero",
        "zeros last",
        "denormal",
        "long tail",
        "one upper half of the bits",
        "a sample of large ones",
        "a sample of small ones",
        "batch last",
        "transposed",
        "with gaps",
        "empty",
        "rounded to infinity",
        "double",
        "half",
        "bfloat16",
    ],
)
def test_native_code_gives_the_same_bits_for_any_values(x: Tensor, keep_ratio: float) -> None:
    _packed_both_ways(x, keep_ratio=keep_ratio)


@native
@given(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=70),
    st.integers(1, 9),
    st.floats(0.0, 1.0, exclude_min=True),
)
def test_native_code_gives_the_same_bits_for_any_batch(values: list[float], times: int, keep_ratio: float) -> None:
    _packed_both_ways(torch.tensor([values * times]), keep_ratio=keep_ratio)


@native
@pytest.mark.parametrize("numel", [1, 15, 16, 17, 100, 1000])
def test_native_code_writes_nothing_beyond_the_output(numel: int) -> None:
    packed = TopK(keep_ratio=0.4).pack(torch.randn(1, numel))
    room = torch.full((numel + 64,), 7.0)
    unpack_largest(*packed.tensors, out=room[32 : 32 + numel])
    assert torch.equal(room[32 : 32 + numel], packed.unpack().view(-1))
    assert room[:32].eq(7).all()
    assert room[32 + numel :].eq(7).all()


@pytest.mark.parametrize("numel", [1, 5, 16, 40_000])
@pytest.mark.parametrize("value", [float("nan"), -float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_refused_either_way(value: float, numel: int) -> None:
    x = torch.randn(1, numel)
    x[0, numel // 3] = value
    with pytest.raises(TrainingError, match="holds a NaN, an infinity or values beyond float32"):
        TopK(keep_ratio=0.3).pack(x)
    with in_numpy(), pytest.raises(TrainingError, match="holds a NaN, an infinity or values beyond float32"):
        TopK(keep_ratio=0.3).pack(x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_numpy_keeps_exactly_the_largest_too(dtype: torch.dtype) -> None:
    x = torch.randn(8, 5001).to(dtype)
    with in_numpy():
        back = TopK(keep_ratio=0.3).pack(x).unpack()
    assert back.dtype == dtype
    assert int((back != 0).sum()) == round(0.3 * x.numel())


@pytest.mark.parametrize("keep_ratio", [0.0, -0.1, 1.5, float("nan")])
def test_a_share_out_of_range_is_refused(keep_ratio: float) -> None:
    with pytest.raises(ConfigError, match="keep ratio"):
        TopK(keep_ratio=keep_ratio)


def test_the_largest_values_are_no_faithful_storage_for_the_type_checker() -> None:
    # The ignore is what this proves: mypy fails here once the assignment passes.
    storage: FaithfulStorage = TopK(keep_ratio=0.5)  # type: ignore[assignment]  # that is the point
    assert not hasattr(storage, "faithful")
