"""What all storages have in common: layouts, what they count as held, what they refuse, and who may use which."""

from collections.abc import Callable
from typing import cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hedgerow.activations import Activations, Exact, FaithfulStorage, Packed, Quantised, Storage, TopK, activations
from hedgerow.activations.layout import in_memory_order, layout_of
from hedgerow.errors import ConfigError, ModelError, TrainingError

LOSSY: dict[str, Callable[[], Storage]] = {
    "int8": lambda: Quantised(bits=8, seed=1),
    "int4": lambda: Quantised(bits=4, seed=1),
    "topk": lambda: TopK(keep_ratio=0.3),
    "topk of all": lambda: TopK(keep_ratio=1.0),
}
lossy = pytest.mark.parametrize("make", LOSSY.values(), ids=LOSSY)


def _batch_last(x: Tensor) -> Tensor:
    return x.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2)


LAYOUTS: dict[str, Tensor] = {
    "plain": torch.randn(4, 6, 5, 5),
    "batch last": _batch_last(torch.randn(4, 6, 5, 5)),
    "channels last": torch.randn(4, 6, 5, 5).contiguous(memory_format=torch.channels_last),
    "one sample batch last": _batch_last(torch.randn(1, 6, 5, 5)),
    "rows": torch.randn(7, 33),
    "rows batch last": torch.randn(33, 7).t(),
    "rectified": _batch_last(torch.randn(4, 6, 5, 5).relu()),
    "longer than a piece": torch.randn(3, 40, 30, 31),
    "three dimensions": torch.randn(4, 6, 9),
}
layouts = pytest.mark.parametrize("x", LAYOUTS.values(), ids=LAYOUTS)


def test_exact_storage_holds_the_activation_itself() -> None:
    x = torch.randn(2, 3)
    assert Exact().pack(x).unpack() is x


def test_held_bytes_are_those_of_the_memory_that_stays_alive() -> None:
    big = torch.zeros(100, 10)
    assert Exact().pack(big[:1]).nbytes == 4000
    assert Packed((big, big[3:], torch.zeros(2)), lambda tensors: tensors[0]).nbytes == 4008


@lossy
@layouts
def test_activations_come_back_with_their_shape_dtype_and_strides(make: Callable[[], Storage], x: Tensor) -> None:
    back = make().pack(x).unpack()
    assert (back.shape, back.dtype, back.stride()) == (x.shape, x.dtype, x.stride())
    cosine = torch.nn.functional.cosine_similarity(back.flatten(), x.flatten(), 0)
    assert cosine > 0.8  # every element is at its place


@lossy
def test_gaps_in_an_activation_are_not_stored(make: Callable[[], Storage]) -> None:
    wide = torch.randn(4, 12, 5, 5)
    back = make().pack(wide[:, ::2]).unpack()
    assert back.is_contiguous()
    assert torch.equal(back, make().pack(wide[:, ::2].contiguous()).unpack())


@lossy
def test_an_expanded_activation_is_stored_as_what_it_looks_like(make: Callable[[], Storage]) -> None:
    one = torch.randn(1, 3, 5, 5)
    back = make().pack(one.expand(8, 3, 5, 5)).unpack()
    assert back.shape == (8, 3, 5, 5)
    assert torch.nn.functional.cosine_similarity(back.flatten(), one.repeat(8, 1, 1, 1).flatten(), 0) > 0.8


@lossy
def test_packing_leaves_the_activation_as_it_is(make: Callable[[], Storage]) -> None:
    x = torch.randn(3, 4, 5, 5)
    before = x.clone()
    make().pack(x).unpack().zero_()
    assert torch.equal(x, before)


@lossy
def test_the_same_activation_comes_back_each_time(make: Callable[[], Storage]) -> None:
    packed = make().pack(torch.randn(3, 4, 5, 5))
    assert torch.equal(packed.unpack(), packed.unpack())


@lossy
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("shape", [(2, 3, 5, 5), (8, 3), (40, 3, 40, 40)])
def test_what_is_not_finite_is_an_error(make: Callable[[], Storage], value: float, shape: tuple[int, ...]) -> None:
    for position in (0, -1):
        x = torch.randn(shape)
        x.view(-1)[position] = value
        with pytest.raises(TrainingError, match="NaN"):
            make().pack(x)


@pytest.mark.parametrize("bits", [8, 4])
def test_a_range_beyond_float32_is_an_error(bits: int) -> None:
    with pytest.raises(TrainingError, match="beyond float32"):
        Quantised(bits=8 if bits == 8 else 4, seed=1).pack(torch.tensor([[-3e38] * 8, [3e38] * 8]))


@lossy
@pytest.mark.parametrize("x", [torch.ones(3, 4, dtype=torch.int64), torch.ones(5), torch.ones(2, 2, device="meta")])
def test_what_cannot_be_stored_is_named(make: Callable[[], Storage], x: Tensor) -> None:
    with pytest.raises(ModelError, match="store it exactly"):
        make().pack(x)


@lossy
@pytest.mark.parametrize("shape", [(0, 3, 2, 2), (2, 0), (1, 1), (1, 1, 1, 1), (1, 101), (2, 3, 0, 4)])
def test_empty_and_tiny_activations_come_back(make: Callable[[], Storage], shape: tuple[int, ...]) -> None:
    x = torch.ones(shape)
    packed = make().pack(x)
    assert packed.unpack().shape == x.shape
    assert packed.nbytes <= 7 + 2.2 * x.numel()


@lossy
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_floats_are_stored_as_the_float32_that_they_are(make: Callable[[], Storage], dtype: torch.dtype) -> None:
    x = torch.randn(4, 6, 5, 5).to(torch.bfloat16).to(torch.float16)
    back = make().pack(x.to(dtype)).unpack()
    assert back.dtype == dtype
    assert torch.equal(back, make().pack(x.float()).unpack().to(dtype))


@lossy
def test_zeros_come_back_as_zeros(make: Callable[[], Storage]) -> None:
    for shape in ((32, 4, 8, 8), (3, 5)):
        assert not make().pack(torch.zeros(shape)).unpack().any()


@given(st.permutations(range(4)), st.lists(st.integers(1, 5), min_size=4, max_size=4))
def test_any_order_of_dimensions_is_read_in_memory_order(order: list[int], sizes: list[int]) -> None:
    x = torch.arange(float(sizes[0] * sizes[1] * sizes[2] * sizes[3])).view(sizes).permute(order)
    layout = layout_of(x)
    flat = in_memory_order(x, layout=layout)
    assert flat.tolist() == list(range(x.numel()))
    assert flat.data_ptr() == x.data_ptr()
    assert layout.strides == x.stride()


def test_norms_and_activation_functions_cannot_drop_activations() -> None:
    with pytest.raises(ConfigError, match="TopK drops activations"):
        Activations(values=cast(FaithfulStorage, TopK(keep_ratio=0.5)))


def test_settings_name_their_storages() -> None:
    assert activations("exact", keep_ratio=0.3, seed=0) == Activations()
    assert activations("topk", keep_ratio=0.2, seed=0) == Activations(inputs=TopK(keep_ratio=0.2), values=Exact())
    for kind, bits in (("int8", 8), ("int4", 4)):
        made = activations("int8" if kind == "int8" else "int4", keep_ratio=0.3, seed=0)
        assert isinstance(made.inputs, Quantised)
        assert isinstance(made.values, Quantised)
        assert (made.inputs.bits, made.values.bits) == (bits, bits)
        assert made.inputs is not made.values


def test_reseeded_storages_round_as_new_ones() -> None:
    x = torch.randn(4, 6, 5, 5)
    used, new = (activations("int4", keep_ratio=0.3, seed=seed) for seed in (1, 2))
    used.values.pack(x)
    used.inputs.pack(x)
    used.reseed(2)
    assert torch.equal(used.values.pack(x).unpack(), new.values.pack(x).unpack())
    assert torch.equal(used.inputs.pack(x).unpack(), new.inputs.pack(x).unpack())
    assert not torch.equal(used.inputs.pack(x).unpack(), used.values.pack(x).unpack())
    activations("topk", keep_ratio=0.3, seed=1).reseed(2)
