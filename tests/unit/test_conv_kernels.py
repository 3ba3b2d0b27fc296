"""Sparse convolutions on planes, against torch's dense ones in float64."""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from hedgerow.errors import ModelError
from hedgerow.native.library import status
from hedgerow.sparse.index import KeptIndex, kept_index
from hedgerow.sparse.kernels import (
    Geometry,
    Prologue,
    conv_backward_input,
    conv_backward_weight,
    conv_forward,
    gather,
    output_size,
    scatter,
)

pytestmark = pytest.mark.skipif(not status().available, reason="the native library is not built")


@dataclass(frozen=True, slots=True)
class Case:
    """One convolution with its random weight and data."""

    index: KeptIndex
    geometry: Geometry
    values: Tensor
    x: Tensor
    gy: Tensor

    def results(self, *, prologue: Prologue | None = None) -> list[Tensor]:
        size = (self.x.shape[1], self.x.shape[2])
        return [
            conv_forward(self.x, self.values, self.index, self.geometry, prologue=prologue),
            conv_backward_input(self.gy, self.values, self.index, self.geometry, size),
            conv_backward_weight(self.x, self.gy, self.index, self.geometry, prologue=prologue),
        ]


def planes(x: Tensor) -> Tensor:
    return x.permute(1, 2, 3, 0).contiguous()


def samples(x: Tensor) -> Tensor:
    return x.permute(3, 0, 1, 2)


def case_of(
    inputs: int,
    outputs: int,
    size: tuple[int, int],
    *,
    geometry: Geometry,
    density: float,
    batch: int = 3,
    seed: int = 0,
) -> Case:
    random = torch.Generator().manual_seed(seed)
    shape = (outputs, inputs // geometry.groups, *geometry.kernel)
    flat = (torch.rand(shape, generator=random) < density).flatten().nonzero()[:, 0]
    index = kept_index(flat, shape)
    out = output_size(size, geometry)
    return Case(
        index,
        geometry,
        torch.randn(index.kept, generator=random),
        torch.randn(inputs, *size, batch, generator=random),
        torch.randn(outputs, *out, batch, generator=random),
    )


def expected(case: Case, *, relu_of: Prologue | None = None) -> list[Tensor]:
    """Forward, input gradient and kept weights' gradient in float64; the input gradient is that of what conv2d sees."""
    weight = torch.zeros(case.index.shape, dtype=torch.float64).flatten()
    weight[case.index.flat().long()] = case.values.double()
    weight = weight.view(case.index.shape).requires_grad_()
    x = samples(case.x).double()
    if relu_of is not None:
        x = torch.relu(x * relu_of.scale.double()[:, None, None] + relu_of.shift.double()[:, None, None])
    x = x.detach().requires_grad_()
    g = case.geometry
    y = F.conv2d(x, weight, None, g.stride, g.padding, g.dilation, g.groups)
    gx, gw = torch.autograd.grad(y, (x, weight), samples(case.gy).double())
    return [planes(y.detach()), planes(gx), gw.flatten()[case.index.flat().long()]]


def assert_close(found: list[Tensor], wanted: list[Tensor]) -> None:
    for a, b in zip(found, wanted, strict=True):
        assert a.shape == b.shape
        assert (a.double() - b).norm() <= 1e-5 * b.norm()


def test_two_taps_of_a_small_image_are_what_a_hand_computes() -> None:
    # Output pixel = 2 * the pixel above + 3 * the pixel itself.
    index = kept_index(torch.tensor([1, 4]), (1, 1, 3, 3))
    geometry = Geometry(kernel=(3, 3), padding=(1, 1))
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])[None, :, :, None]
    values = torch.tensor([2.0, 3.0])
    assert conv_forward(x, values, index, geometry).flatten().tolist() == [3.0, 6.0, 11.0, 16.0]
    gy = torch.ones_like(x)
    assert conv_backward_input(gy, values, index, geometry, (2, 2)).flatten().tolist() == [5.0, 5.0, 3.0, 3.0]
    assert conv_backward_weight(x, gy, index, geometry).tolist() == [3.0, 10.0]


@settings(deadline=None, max_examples=150)
@given(
    in_group=st.integers(1, 9),
    out_group=st.integers(1, 9),
    size=st.tuples(st.integers(1, 11), st.integers(1, 11)),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    dilation=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    groups=st.sampled_from([1, 1, 2, 3]),
    batch=st.sampled_from([1, 3, 16, 17, 32]),
    density=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_any_convolution_agrees_with_float64(
    in_group: int,
    out_group: int,
    size: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
    batch: int,
    density: float,
    seed: int,
) -> None:
    geometry = Geometry(kernel, stride, padding, dilation, groups)
    assume(all(size[k] + 2 * padding[k] > dilation[k] * (kernel[k] - 1) for k in (0, 1)))
    case = case_of(
        in_group * groups, out_group * groups, size, geometry=geometry, density=density, batch=batch, seed=seed
    )
    assert_close(case.results(), expected(case))


@pytest.mark.parametrize("batch", [1, 16, 17, 32, 48])
@pytest.mark.parametrize("density", [0.02, 0.5, 1.0])
@pytest.mark.parametrize(
    ("inputs", "outputs", "side", "geometry"),
    [
        (40, 24, 8, Geometry((3, 3), padding=(1, 1))),
        (70, 16, 4, Geometry((3, 3), padding=(1, 1))),
        (64, 20, 16, Geometry((3, 3), (2, 2), (1, 1))),
        (24, 40, 8, Geometry((1, 1), (2, 2))),
        (96, 17, 5, Geometry()),
        (200, 30, 1, Geometry()),
        (32, 32, 8, Geometry((3, 3), padding=(1, 1), groups=32)),
        (16, 8, 60, Geometry((5, 5), padding=(2, 2))),
    ],
    ids=["3x3", "deep", "stride", "shortcut", "pointwise", "linear", "depthwise", "large"],
)
def test_layers_of_networks_agree_with_float64(
    inputs: int, outputs: int, side: int, geometry: Geometry, density: float, batch: int
) -> None:
    case = case_of(inputs, outputs, (side, side), geometry=geometry, density=density, batch=batch)
    assert_close(case.results(), expected(case))


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("batch", [3, 16, 32])
@pytest.mark.parametrize("geometry", [Geometry((3, 3), (2, 1), (1, 2)), Geometry()], ids=["3x3", "1x1"])
def test_the_prologue_comes_before_the_zero_border(geometry: Geometry, batch: int, relu: bool) -> None:
    case = case_of(12, 7, (9, 6), geometry=geometry, density=0.4, batch=batch)
    prologue = Prologue(torch.linspace(-2, 2, 12), torch.linspace(1, -0.5, 12), relu)
    if relu:
        assert_close(case.results(prologue=prologue), expected(case, relu_of=prologue))
    else:
        seen = case.x * prologue.scale[:, None, None, None] + prologue.shift[:, None, None, None]
        plain = Case(case.index, geometry, case.values, seen, case.gy)
        assert_close(case.results(prologue=prologue), expected(plain))


@pytest.mark.parametrize("side", [1, 6])
def test_a_bias_is_added_once_to_every_pixel(side: int) -> None:
    case = case_of(50, 6, (side, side), geometry=Geometry((3, 3), padding=(1, 1)), density=0.9, batch=5)
    bias = torch.arange(6.0)
    with_bias = conv_forward(case.x, case.values, case.index, case.geometry, bias=bias)
    without = conv_forward(case.x, case.values, case.index, case.geometry)
    assert torch.allclose(with_bias - without, bias[:, None, None, None].expand_as(without), atol=1e-4)


def test_outputs_without_kept_weights_are_the_bias_and_give_no_gradient() -> None:
    index = kept_index(torch.tensor([4, 13]), (3, 1, 3, 3))  # nothing in row 2
    geometry = Geometry((3, 3), padding=(1, 1))
    x, values = torch.randn(1, 5, 5, 16), torch.ones(2)
    y = conv_forward(x, values, index, geometry, bias=torch.tensor([0.0, 0.0, 7.0]))
    assert torch.equal(y[2], torch.full((5, 5, 16), 7.0))
    gy = torch.zeros_like(y)
    gy[2] = 1
    assert not conv_backward_input(gy, values, index, geometry, (5, 5)).any()
    assert not conv_backward_weight(x, gy, index, geometry).any()


@pytest.mark.parametrize("density", [0.03, 0.6])
@pytest.mark.parametrize("side", [1, 4, 16])
def test_the_number_of_threads_changes_no_bit(side: int, density: float) -> None:
    case = case_of(64, 48, (side, side), geometry=Geometry((3, 3), padding=(1, 1)), density=density, batch=32)
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            found.append(case.results())
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("density", [0.05, 1.0])
def test_what_is_not_finite_comes_out(density: float, bad: float) -> None:
    case = case_of(40, 40, (6, 6), geometry=Geometry((3, 3), padding=(1, 1)), density=density, batch=17)
    assert all(result.isfinite().all() for result in case.results())
    case.x[:, 2, 3, 16] = bad
    case.gy[:, 5, 5, 16] = bad
    prologue = Prologue(torch.ones(40), torch.zeros(40))
    for result in (*case.results(), *case.results(prologue=prologue)):
        assert not result.isfinite().all()
    y, gx, _ = case.results()
    assert y[..., :16].isfinite().all()
    assert gx[..., :16].isfinite().all()


def test_a_wide_row_uses_int32_codes() -> None:
    case = case_of(70_000, 3, (1, 1), geometry=Geometry(), density=0.01, batch=4)
    assert case.index.codes.dtype == torch.int32
    assert_close(case.results(), expected(case))


@settings(deadline=None, max_examples=30)
@given(outputs=st.integers(1, 40), row=st.integers(1, 700), density=st.floats(0, 1), seed=st.integers(0, 99))
@example(outputs=1, row=1, density=0.0, seed=0)
def test_gather_undoes_scatter(outputs: int, row: int, density: float, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    flat = (torch.rand(outputs * row, generator=random) < density).nonzero()[:, 0]
    index, values = kept_index(flat, (outputs, row)), torch.randn(flat.numel(), generator=random)
    dense = scatter(values, index)
    wanted = torch.zeros(outputs * row)
    wanted[flat] = values
    assert torch.equal(dense.flatten(), wanted)
    assert torch.equal(gather(dense, index), values)


def test_an_empty_batch_gives_an_empty_result() -> None:
    case = case_of(4, 4, (4, 4), geometry=Geometry((3, 3), padding=(1, 1)), density=0.5, batch=0)
    y, gx, gw = case.results()
    assert y.shape == gx.shape == (4, 4, 4, 0)
    assert torch.equal(gw, torch.zeros(case.index.kept))


def test_an_input_smaller_than_the_kernel_is_refused() -> None:
    with pytest.raises(ModelError, match="2x2 is smaller"):
        output_size((2, 2), Geometry(kernel=(3, 3)))
