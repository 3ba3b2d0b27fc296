"""The normalised step of scores, by hand."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from hedgerow.client.optimisers import NormalisedSGD


def parameter(values: list[float], gradient: list[float] | None) -> Tensor:
    tensor = nn.Parameter(torch.tensor(values))
    tensor.grad = None if gradient is None else torch.tensor(gradient)
    return tensor


def test_the_first_step_divides_by_the_root_mean_square_of_the_gradient() -> None:
    # √((3² + 4²) / 2) = 3.5355339
    tensor = parameter([1.0, 1.0], [3.0, -4.0])
    NormalisedSGD([tensor], lr=0.1).step()
    assert tensor.tolist() == pytest.approx([1 - 0.3 / 3.5355339, 1 + 0.4 / 3.5355339])


def test_the_second_step_divides_by_the_running_mean_with_its_bias_corrected() -> None:
    tensor = parameter([0.0], [1.0])
    optimiser = NormalisedSGD([tensor], lr=1.0)
    optimiser.step()
    assert tensor.item() == pytest.approx(-1.0)
    tensor.grad = torch.tensor([3.0])
    optimiser.step()
    # v = 0.99 · 0.01 + 0.01 · 9 = 0.0999; 1 - 0.99² = 0.0199; √(0.0999 / 0.0199) = 2.2405581
    assert tensor.item() == pytest.approx(-1.0 - 3 / 2.2405581)


@given(st.floats(1e-6, 1e6))
def test_a_step_does_not_depend_on_the_scale_of_the_gradients(scale: float) -> None:
    plain, scaled = parameter([0.0, 0.0], [1.0, 2.0]), parameter([0.0, 0.0], [scale, 2 * scale])
    NormalisedSGD([plain, scaled], lr=0.5).step()
    assert scaled.tolist() == pytest.approx(plain.tolist(), rel=1e-4)


def test_each_tensor_has_a_root_mean_square_of_its_own() -> None:
    small, large = parameter([0.0], [0.001]), parameter([0.0], [1000.0])
    NormalisedSGD([small, large], lr=0.5).step()
    assert small.item() == pytest.approx(-0.5)
    assert large.item() == pytest.approx(-0.5)


@pytest.mark.parametrize(
    ("values", "gradient"), [([1.0, 2.0], None), ([1.0, 2.0], [0.0, 0.0]), ([], [])], ids=["none", "zero", "empty"]
)
def test_without_a_gradient_nothing_moves(values: list[float], gradient: list[float] | None) -> None:
    tensor = parameter(values, gradient)
    NormalisedSGD([tensor], lr=0.5).step()
    assert tensor.tolist() == values


def test_a_step_size_of_zero_freezes() -> None:
    tensor = parameter([1.0, -2.0], [3.0, 4.0])
    NormalisedSGD([tensor], lr=0.0).step()
    assert tensor.tolist() == [1.0, -2.0]


def test_the_state_is_one_scalar_a_tensor() -> None:
    tensor = parameter([1.0, -2.0], [3.0, 4.0])
    optimiser = NormalisedSGD([tensor], lr=0.1)
    optimiser.step()
    assert {name: type(value) for name, value in optimiser.state[tensor].items()} == {"step": int, "square": float}
