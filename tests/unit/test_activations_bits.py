"""ReLU on one bit an element: the numbers of torch's own."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from hedgerow.activations import BitReLU, bit_relu, bit_relu_
from hedgerow.telemetry.memory import allocation_peak


def _both(x: Tensor, grad: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    results = []
    for function in (bit_relu, F.relu):
        leaf = x.detach().requires_grad_()
        y = function(leaf)
        (gx,) = torch.autograd.grad(y, leaf, grad)
        results.append((y.detach(), gx))
    return results[0], results[1]


def _same(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one.view(torch.uint8), other.view(torch.uint8))


def test_gradients_pass_where_the_input_is_positive() -> None:
    x = torch.tensor([[-1.0, 0.0, 2.0]], requires_grad=True)
    torch.autograd.backward(bit_relu(x), torch.tensor([[5.0, 6.0, 7.0]]))
    assert x.grad is not None
    assert x.grad.tolist() == [[0.0, 0.0, 7.0]]


def test_in_place_it_gives_the_same_in_the_memory_of_its_input() -> None:
    leaf = torch.tensor([[-1.0, 0.0, 2.0]], requires_grad=True)
    x = leaf * 2
    y = bit_relu_(x)
    assert y.data_ptr() == x.data_ptr()
    assert y.tolist() == [[0.0, 0.0, 4.0]]
    torch.autograd.backward(y, torch.tensor([[5.0, 6.0, 7.0]]))
    assert leaf.grad is not None
    assert leaf.grad.tolist() == [[0.0, 0.0, 14.0]]
    with torch.no_grad():
        assert bit_relu_(torch.tensor([-3.0, 3.0])).tolist() == [0.0, 3.0]


def test_special_values_are_treated_as_torch_treats_them() -> None:
    special = torch.tensor([0.0, -0.0, float("inf"), float("-inf"), float("nan"), 1e-45, -1e-45, 1.0, -1.0])
    x, grad = special.repeat_interleave(9), special.repeat(9)
    (y, gx), (y_torch, gx_torch) = _both(x, grad)
    assert y.equal(y_torch) or torch.equal(y.isnan(), y_torch.isnan())
    assert torch.equal(gx.nan_to_num(123), gx_torch.nan_to_num(123))
    assert torch.equal(gx.isnan(), gx_torch.isnan())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shape", [(3,), (4, 5), (2, 3, 5, 7), (3, 40, 30, 31), (0, 2)])
def test_values_and_gradients_are_those_of_torch_bit_for_bit(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x, grad = torch.randn(shape, dtype=dtype), torch.randn(shape, dtype=dtype)
    (y, gx), (y_torch, gx_torch) = _both(x, grad)
    assert _same(y, y_torch)
    assert torch.equal(gx, gx_torch)


@given(st.permutations(range(4)), st.permutations(range(4)))
def test_layouts_of_input_and_gradient_may_differ(one: list[int], other: list[int]) -> None:
    x = torch.randn(5, 5, 5, 5).permute(one)
    (y, gx), (y_torch, gx_torch) = _both(x, torch.randn(5, 5, 5, 5).permute(other))
    assert (y.stride(), gx.stride()) == (x.stride(), x.stride())
    assert torch.equal(y, y_torch)
    assert torch.equal(gx, gx_torch)


def test_a_bit_an_element_is_all_that_is_held() -> None:
    x = torch.randn(64, 1000, requires_grad=True)
    y = bit_relu(x)
    assert y.grad_fn is not None
    (held,) = y.grad_fn.saved_tensors  # type: ignore[attr-defined]  # a custom function has it
    assert held.nbytes == 8000


def test_little_more_than_the_result_is_allocated_on_the_way() -> None:
    x = torch.randn(256, 4096, requires_grad=True)
    y, forward = allocation_peak(lambda: bit_relu(x))
    _, backward = allocation_peak(lambda: torch.autograd.grad(y, x, y.detach()))
    assert forward < 1.15 * x.nbytes
    assert backward < 1.15 * x.nbytes


def test_nothing_is_packed_without_gradients() -> None:
    with torch.no_grad():
        assert bit_relu(torch.randn(3, requires_grad=True)).grad_fn is None
    assert bit_relu(torch.randn(3)).grad_fn is None


def test_the_module_takes_the_place_of_torchs() -> None:
    x = torch.randn(3, 4)
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 1))
    expected = torch.autograd.grad(model(x).sum(), list(model.parameters()))
    model[1] = BitReLU()
    found = torch.autograd.grad(model(x).sum(), list(model.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
