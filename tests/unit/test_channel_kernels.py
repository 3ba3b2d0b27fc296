"""Native kernels of norms and pooling, against torch in double precision."""

from __future__ import annotations

import hashlib
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from hedgerow.native.build import compiler
from hedgerow.native.library import status
from hedgerow.sparse.channel_kernels import (
    ChannelGradients,
    Window,
    average_pool,
    average_pool_backward,
    channel_backward,
    channel_statistics,
    max_pool,
    max_pool_backward,
    scale_shift,
)

# Where there is a compiler, a library that is missing is a failure (tests/unit/test_native.py says so first).
pytestmark = pytest.mark.skipif(not status().available and compiler() is None, reason="no compiler, no library")

EPS = 1e-5


def planes(*shape: int, seed: int = 0, mean: float = 0.0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) + mean


def constants(z: Tensor, weight: Tensor, bias: Tensor) -> dict[str, Any]:
    mean, variance = channel_statistics(z)
    inverse_std = (variance + EPS).rsqrt()
    scale = weight * inverse_std
    return {"mean": mean, "inverse_std": inverse_std, "scale": scale, "shift": bias - mean * scale}


def same(got: Tensor, wanted: Tensor, *, terms: float = 1.0) -> None:
    """Within 1e-5 of the size of the `terms` that were summed up: a sum of large ones that cancel keeps their error."""
    assert got.shape == wanted.shape
    torch.testing.assert_close(got.double(), wanted.detach().double(), rtol=1e-5, atol=1e-5 * terms)


def test_statistics_of_a_few_numbers() -> None:
    mean, variance = channel_statistics(torch.tensor([[1.0, 2.0, 3.0, 6.0], [5.0, 5.0, 5.0, 5.0]]))
    assert mean.tolist() == [3.0, 5.0]
    assert variance.tolist() == [3.5, 0.0]


@settings(max_examples=60, deadline=None)
@given(
    channels=st.integers(1, 5),
    size=st.integers(1, 200) | st.sampled_from([1024, 4095, 4096, 4097, 9001]),
    mean=st.sampled_from([0.0, -3.0, 1000.0]),
    seed=st.integers(0, 1000),
)
def test_statistics_are_those_of_double_precision(channels: int, size: int, mean: float, seed: int) -> None:
    z = planes(channels, size, seed=seed, mean=mean)
    got_mean, got_variance = channel_statistics(z)
    exact = z.double()
    torch.testing.assert_close(got_mean.double(), exact.mean(1), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(got_variance.double(), exact.var(1, correction=0), rtol=1e-5, atol=1e-12)


def test_a_mean_far_from_zero_costs_no_digits_of_the_variance() -> None:
    z = planes(1, 30_000) * 0.01 + 1e4
    _, variance = channel_statistics(z)
    torch.testing.assert_close(variance.double(), z.double().var(1, correction=0), rtol=1e-5, atol=0)


def test_an_outlier_in_front_costs_no_digits_of_the_variance() -> None:
    z = planes(1, 5000)
    z[0, 0] = 1e6
    _, variance = channel_statistics(z[:, 1:].contiguous())
    torch.testing.assert_close(variance.double(), z[:, 1:].double().var(1, correction=0), rtol=1e-5, atol=0)
    _, variance = channel_statistics(z)
    torch.testing.assert_close(variance.double(), z.double().var(1, correction=0), rtol=1e-5, atol=0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("at", [0, 17, 98])
def test_what_is_not_finite_stays_visible(bad: float, at: int) -> None:
    z = planes(2, 99)
    z[1, at] = bad
    mean, variance = channel_statistics(z)
    assert math.isfinite(mean[0])
    assert math.isfinite(variance[0])
    assert not math.isfinite(mean[1])
    assert math.isnan(variance[1])
    y = scale_shift(z, scale=torch.ones(2), shift=torch.zeros(2), relu=True)
    wanted = F.relu(z)
    torch.testing.assert_close(y, wanted, rtol=0, atol=0, equal_nan=True)
    known = constants(planes(2, 99), torch.ones(2), torch.zeros(2))
    for relu in (False, True):
        spoilt = channel_backward(z, z=planes(2, 99, mean=3.0), relu=relu, **known)
        assert not torch.isfinite(spoilt.z[1]).any()
        assert torch.isfinite(spoilt.z[0]).all()


def test_scale_shift_of_a_few_numbers() -> None:
    z = torch.tensor([[1.0, -2.0, 3.0], [4.0, 0.0, 1.0]])
    scale, shift = torch.tensor([2.0, -1.0]), torch.tensor([1.0, 0.5])
    assert scale_shift(z, scale=scale, shift=shift).tolist() == [[3.0, -3.0, 7.0], [-3.5, 0.5, -0.5]]
    assert scale_shift(z, scale=scale, shift=shift, relu=True).tolist() == [[3.0, 0.0, 7.0], [0.0, 0.5, 0.0]]
    residual = torch.tensor([[-4.0, 4.0, 0.0], [3.5, 0.0, 1.0]])
    y = scale_shift(z, scale=scale, shift=shift, residual=residual, relu=True)
    assert y.tolist() == [[0.0, 1.0, 7.0], [0.0, 0.5, 0.5]]


def test_the_callers_tensors_are_changed_only_where_it_is_asked_for() -> None:
    z, ones = planes(3, 50), torch.ones(3)
    before = z.clone()
    y = scale_shift(z, scale=2 * ones, shift=ones)
    assert torch.equal(z, before)
    assert scale_shift(z, scale=2 * ones, shift=ones, out=z) is z
    assert torch.equal(z, y)


@settings(max_examples=60, deadline=None)
@given(
    channels=st.integers(1, 4),
    places=st.sampled_from([(1, 1), (2, 3), (5, 5), (12, 11)]),
    samples=st.integers(1, 40),
    relu=st.booleans(),
    added=st.booleans(),
    constant=st.booleans(),
    from_output=st.booleans(),
)
def test_the_backward_of_a_norm_is_that_of_double_precision(
    channels: int,
    places: tuple[int, int],
    samples: int,
    relu: bool,
    added: bool,
    constant: bool,
    from_output: bool,
) -> None:
    shape = (channels, *places, samples)
    z, grad = planes(*shape, seed=1, mean=0.5), planes(*shape, seed=2)
    residual = planes(*shape, seed=3) if added else None
    weight, bias = planes(channels, seed=4), planes(channels, seed=5)
    known = constants(planes(*shape, seed=6) if constant else z, weight, bias)
    y = scale_shift(z, scale=known["scale"], shift=known["shift"], residual=residual, relu=relu)

    output = y if from_output else None
    known_to_it: dict[str, Any] = {**known, "output": output, "residual": residual}
    got = channel_backward(grad, z=z, **known_to_it, relu=relu, constant=constant, wants_residual=added)
    owned = grad.clone()
    again = channel_backward(owned, z=z, **known_to_it, relu=relu, constant=constant, out=owned)
    assert again.z is owned
    assert torch.equal(again.z, got.z)
    assert torch.equal(again.weight, got.weight)

    if z[0].numel() == 1 and not constant:
        # The variance is 0, and what is left is rounding.
        assert float(got.z.abs().max()) < 1e-3 * float((weight.abs() / math.sqrt(EPS)).max())
        return
    leaves = [t.double().requires_grad_() for t in (z, weight, bias)]
    reference = _norm(leaves[0], leaves[1], leaves[2], known if constant else None)
    more = residual.double().requires_grad_() if residual is not None else None
    reference = reference if more is None else reference + more
    # Where rounding decides the sign there is nothing to compare; take the kernel's.
    same(y, reference.clamp(min=0) if relu else reference)
    gated = grad.double() * (y > 0) if relu else grad.double()
    expected = torch.autograd.grad(reference, [*leaves, *([] if more is None else [more])], gated)
    scaled = float((known["scale"].abs() * grad.abs().amax((1, 2, 3))).max())
    summed = float(grad.abs().sum((1, 2, 3)).max())
    same(got.z, expected[0], terms=scaled)
    same(got.weight, expected[1], terms=summed)
    same(got.bias, expected[2], terms=summed)
    if added:
        assert got.residual is not None
        same(got.residual, expected[3])
        owned = grad.clone()
        again = channel_backward(
            owned, z=z, **known_to_it, relu=relu, constant=constant, wants_residual=True, residual_out=owned
        )
        assert again.residual is owned
        assert torch.equal(owned, got.residual)
        assert torch.equal(again.z, got.z)


def _norm(z: Tensor, weight: Tensor, bias: Tensor, known: dict[str, Any] | None) -> Tensor:
    """In double precision and on planes; `known` are constant statistics."""
    flat = z.flatten(1)
    if known is None:
        mean, inverse_std = flat.mean(1), (flat.var(1, correction=0) + EPS).rsqrt()
    else:
        mean, inverse_std = known["mean"].double(), known["inverse_std"].double()
    normed = (flat - mean[:, None]) * inverse_std[:, None] * weight[:, None] + bias[:, None]
    return normed.view(z.shape)


def test_the_sign_is_the_forwards_even_next_to_zero() -> None:
    z = planes(1, 4000)
    scale = torch.tensor([1.1])
    shift = -z[:, 7] * scale
    known: dict[str, Any] = {"mean": torch.zeros(1), "inverse_std": torch.ones(1), "scale": scale, "shift": shift}
    y = scale_shift(z, scale=scale, shift=shift)
    ones = torch.ones_like(z)
    computed = channel_backward(ones, z=z, relu=True, constant=True, **known)
    from_output = channel_backward(ones, z=z, relu=True, constant=True, output=y, **known)
    assert torch.equal(computed.z, from_output.z)


@pytest.mark.parametrize("from_output", [False, True])
def test_the_gradient_passes_where_the_output_is_nan_as_in_torch(from_output: bool) -> None:
    z, grad = planes(1, 40), planes(1, 40, seed=1)
    z[0, [3, 39]] = math.nan
    scale, shift, zero = torch.full((1,), 2.0), torch.zeros(1), torch.zeros(1)
    known: dict[str, Any] = {"mean": zero, "inverse_std": torch.ones(1), "scale": scale, "shift": shift}
    y = scale_shift(z, scale=scale, shift=shift, relu=True)
    output = y if from_output else None
    got = channel_backward(grad, z=z, **known, relu=True, constant=True, output=output, wants_residual=True)
    wanted = torch.ops.aten.threshold_backward(grad, y, 0)
    assert got.residual is not None
    assert torch.equal(got.residual, wanted)
    assert torch.equal(got.z, 2 * wanted), "constant statistics do not carry the NaN on"
    assert got.weight.isnan().all()


WINDOWS = [
    Window((2, 2), (2, 2)),
    Window((3, 4), (3, 4)),
    Window((3, 4), (3, 4), (1, 0)),
    Window((3, 3), (2, 2), (1, 1)),
    Window((3, 2), (1, 3), (1, 0)),
    Window((2, 2), (2, 2), (0, 0), (2, 3)),
    Window((3, 3), (2, 2), (1, 1), (1, 1), ceil_mode=True),
    Window((5, 5), (1, 1), (2, 2)),
    Window((15, 15), (3, 3), (7, 7)),
]


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("samples", [1, 3, 4, 13, 32, 45])
def test_max_pooling_is_torchs(window: Window, samples: int) -> None:
    x = planes(3, 9, 8, samples).mul(3).round()  # with many ties
    x[0, 4, 4] = math.nan
    x[1] = -math.inf
    logical = x.permute(3, 0, 1, 2).contiguous().requires_grad_()
    wanted = F.max_pool2d(
        logical, window.kernel, window.stride, window.padding, window.dilation, ceil_mode=window.ceil_mode
    )
    y, winners = max_pool(x, window=window)
    torch.testing.assert_close(y.permute(3, 0, 1, 2), wanted, rtol=0, atol=0, equal_nan=True)
    grad = planes(*y.shape, seed=1)
    (wanted_gx,) = torch.autograd.grad(wanted, logical, grad.permute(3, 0, 1, 2))
    gx = max_pool_backward(grad, winners=winners, window=window, size=(9, 8))
    torch.testing.assert_close(gx.permute(3, 0, 1, 2), wanted_gx, rtol=1e-5, atol=1e-5)


def test_max_pooling_of_a_few_numbers() -> None:
    x = torch.tensor([[1.0, 5.0, 2.0], [4.0, 5.0, 0.0]]).view(1, 2, 3, 1)
    y, winners = max_pool(x, window=Window((2, 2), (1, 1)))
    assert y.flatten().tolist() == [5.0, 5.0]
    assert winners.flatten().tolist() == [1, 0], "the first of the two fives, in each window"
    gx = max_pool_backward(
        torch.tensor([10.0, 1.0]).view(1, 1, 2, 1), winners=winners, window=Window((2, 2), (1, 1)), size=(2, 3)
    )
    assert gx.flatten().tolist() == [0.0, 11.0, 0.0, 0.0, 0.0, 0.0]


def test_a_place_in_a_window_is_one_byte() -> None:
    assert Window((15, 15), (1, 1)).fits
    assert Window((16, 16), (1, 1)).fits
    assert not Window((16, 17), (1, 1)).fits


@pytest.mark.parametrize("samples", [1, 5, 16, 37])
def test_average_pooling_is_torchs(samples: int) -> None:
    x = planes(3, 4, 5, samples)
    logical = x.permute(3, 0, 1, 2).double().requires_grad_()
    wanted = logical.mean((2, 3))
    same(average_pool(x).T, wanted.detach())
    grad = planes(3, samples, seed=1)
    (wanted_gx,) = torch.autograd.grad(wanted, logical, grad.T.double())
    same(average_pool_backward(grad, size=(4, 5)).permute(3, 0, 1, 2), wanted_gx)


def everything() -> dict[str, Tensor]:
    """What each kernel gives on inputs that are large enough for several threads."""
    z, residual, grad = (planes(24, 23, 16, 33, seed=k, mean=0.2) for k in range(3))
    weight, bias = planes(24, seed=3), planes(24, seed=4)
    known = constants(z, weight, bias)
    y = scale_shift(z, scale=known["scale"], shift=known["shift"], residual=residual, relu=True)
    gradients: ChannelGradients = channel_backward(grad, z=z, **known, relu=True, output=y, wants_residual=True)
    assert gradients.residual is not None
    window = Window((3, 3), (2, 2), (1, 1))
    pooled, winners = max_pool(y, window=window)
    spread = max_pool_backward(pooled, winners=winners, window=window, size=(23, 16))
    found = {"y": y, "gz": gradients.z, "gweight": gradients.weight, "gbias": gradients.bias}
    found |= {"gr": gradients.residual, "pooled": pooled, "spread": spread, "average": average_pool(y), **known}
    return found


def digest(tensors: dict[str, Tensor]) -> str:
    return hashlib.sha256(b"".join(t.contiguous().numpy().tobytes() for t in tensors.values())).hexdigest()


def test_the_number_of_threads_changes_no_bit() -> None:
    before = torch.get_num_threads()
    try:
        digests = set()
        for threads in (1, 2, 3, 5):
            torch.set_num_threads(threads)
            digests.add(digest(everything()))
        assert len(digests) == 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("isa", ["base", "v3", "v4"])
def test_each_instruction_set_gives_the_same_within_rounding(isa: str) -> None:
    code = (
        "import json; from tests.unit.test_channel_kernels import everything;"
        "from hedgerow.native.library import status; found = status();"
        "print(json.dumps([found.isa, found.reason, {k: v.double().mul(v.numel() ** -0.5).norm().item()"
        " for k, v in everything().items()} if found.available else {}]))"
    )
    environment = {**os.environ, "HEDGEROW_ISA": isa}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    used, reason, norms = json.loads(done.stdout.splitlines()[-1])
    if "cannot be used here" in reason:
        pytest.skip(reason)
    assert used == isa
    for name, tensor in everything().items():
        assert norms[name] == pytest.approx(tensor.double().mul(tensor.numel() ** -0.5).norm().item(), rel=1e-5)


@pytest.mark.parametrize(
    "call",
    [
        lambda: channel_statistics(planes(2, 3).double()),
        lambda: channel_statistics(planes(3, 2).T),
        lambda: scale_shift(planes(2, 3), scale=torch.ones(3), shift=torch.ones(2)),
        lambda: scale_shift(planes(2, 3), scale=torch.ones(2), shift=torch.ones(2), residual=planes(2, 4)),
        lambda: max_pool(planes(1, 40, 40, 1), window=Window((20, 20), (1, 1))),
    ],
)
def test_tensors_that_would_crash_a_kernel_are_refused(call: Callable[[], object]) -> None:
    with pytest.raises(AssertionError):
        call()
