"""The kernels as operators of torch, and the layout that they work in."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from hedgerow.errors import ModelError
from hedgerow.native.library import status
from hedgerow.pruning import Mask
from hedgerow.sparse import ops, sparsify
from hedgerow.sparse.channel_kernels import Window
from hedgerow.sparse.index import kept_index
from hedgerow.sparse.kernels import Geometry, Prologue
from hedgerow.sparse.layout import flat_channels, is_batch_last, logical, planes

needs_library = pytest.mark.skipif(not status().available, reason=status().reason)


@given(shape=st.lists(st.integers(1, 4), min_size=4, max_size=4))
def test_planes_and_logical_are_inverse_and_views_of_each_other(shape: list[int]) -> None:
    x = torch.arange(float(torch.Size(shape).numel())).view(shape)
    p = planes(x)
    assert p.shape == (shape[1], shape[2], shape[3], shape[0])
    assert p.is_contiguous()
    assert torch.equal(logical(p), x)
    assert logical(p).data_ptr() == p.data_ptr()
    assert planes(logical(p)).data_ptr() == p.data_ptr()
    assert is_batch_last(logical(p))
    assert torch.equal(logical(flat_channels(p), flat=True), x.flatten(1))


def test_matrices_are_planes_of_one_place() -> None:
    x = torch.arange(6.0).view(2, 3)
    assert planes(x).shape == (3, 1, 1, 2)
    assert planes(x)[:, 0, 0, 1].tolist() == [3, 4, 5]
    assert torch.equal(logical(planes(x), flat=True), x)


def test_a_copy_is_made_only_of_what_is_not_batch_last() -> None:
    x = torch.randn(3, 2, 4, 5)
    moved = logical(planes(x))
    assert not is_batch_last(x)
    assert is_batch_last(moved)
    assert torch.equal(moved, x)
    assert planes(moved).data_ptr() == moved.data_ptr()
    assert is_batch_last(torch.relu(moved + moved))
    assert is_batch_last(moved.flatten(1))


def test_halves_become_float32_planes() -> None:
    assert planes(torch.ones(2, 3, 1, 1, dtype=torch.bfloat16)).dtype == torch.float32


@needs_library
def test_operators_say_their_shapes_on_the_meta_device_as_they_compute_them() -> None:
    index, geometry = kept_index(torch.tensor([0, 4, 9, 30]), (4, 3, 3, 3)), Geometry((3, 3), (2, 1), (1, 1))
    x, values = torch.randn(3, 6, 7, 5), torch.randn(4)
    before = Prologue(torch.ones(3), torch.zeros(3), relu=True)
    y = ops.conv(x, values, index, geometry, bias=torch.ones(4), prologue=before)
    meta = ops.conv(
        x.to("meta"),
        values.to("meta"),
        kept_index(torch.tensor([0, 4, 9, 30]), (4, 3, 3, 3)),
        geometry,
        bias=None,
        prologue=None,
    )
    assert meta.shape == y.shape == (4, 3, 7, 5)
    assert meta.is_meta
    assert ops.conv_input(y.to("meta"), values.to("meta"), index, geometry, (6, 7)).shape == x.shape
    assert ops.conv_weight(x.to("meta"), y.to("meta"), index, geometry, prologue=None).shape == (4,)
    window = Window((2, 2), (2, 2))
    pooled, winners = ops.max_pool(x.to("meta"), window)
    assert pooled.shape == winners.shape == ops.max_pool(x, window)[0].shape
    assert winners.dtype == torch.uint8
    assert ops.average_pool(x.to("meta")).shape == ops.average_pool(x).shape


@needs_library
def test_operators_give_what_the_kernels_give() -> None:
    index, shape = kept_index(torch.tensor([0, 4, 9, 30]), (4, 3, 3, 3)), [4, 3, 3, 3]
    settings = [3, 3, 1, 1, 1, 1, 1, 1, 1]
    x, values, scale, shift = torch.randn(3, 6, 7, 5), torch.randn(4), torch.randn(3), torch.randn(3)
    geometry, before = Geometry((3, 3), (1, 1), (1, 1)), Prologue(scale, shift, relu=True)
    y = ops.conv(x, values, index, geometry, bias=None, prologue=before)
    known = (index.rows, index.codes, shape, settings)
    found = torch.ops.hedgerow.sparse_conv(x, values, *known, None, scale, shift, True)
    assert torch.equal(found, y)
    found = torch.ops.hedgerow.sparse_conv_input(y, values, *known, 6, 7)
    assert torch.equal(found, ops.conv_input(y, values, index, geometry, (6, 7)))
    found = torch.ops.hedgerow.sparse_conv_weight(x, y, *known, scale, shift, True)
    assert torch.equal(found, ops.conv_weight(x, y, index, geometry, prologue=before))


@needs_library
def test_operators_pass_torchs_own_check() -> None:
    z, vector = torch.randn(3, 4, 4, 2), torch.ones(3)
    for name, arguments in {
        "channel_statistics": (z,),
        "scale_shift": (z, vector, vector, None, True),
        "channel_backward_": (z.clone(), z, vector, vector, vector, vector, True, False),
        "channel_backward": (z.clone(), z, vector, vector, vector, vector, True, False, None, True),
        "max_pool": (z, [2, 2, 2, 2, 0, 0, 1, 1, 0]),
        "average_pool": (z,),
    }.items():
        operator = getattr(torch.ops.hedgerow, name).default
        torch.library.opcheck(operator, arguments, test_utils=("test_schema", "test_faketensor"))


def test_without_the_library_everything_works_on_the_dense_path_and_native_says_what_to_do() -> None:
    code = """
import torch
from torch import nn
from hedgerow.errors import ModelError
from hedgerow.pruning import Mask
from hedgerow.sparse import choose_paths, sparsify
model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
mask = Mask({"0.weight": torch.rand(4, 1, 3, 3) < 0.2, "4.weight": torch.rand(3, 64) < 0.2})
network = sparsify(model, mask)
network.module(torch.randn(2, 1, 6, 6)).sum().backward()
assert all(t.grad is not None for t in network.kept)
assert network.native_share() == 0
assert not network.converted
choice = choose_paths(network, (1, 6, 6), batch_size=2, precision="fp32")
assert choice.native_share == 0 and choice.step_ratio is None, choice
assert "HEDGEROW_NATIVE" in choice.lines()[0], choice.lines()
try:
    sparsify(model, mask, kernels="native")
except ModelError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**__import__("os").environ, "HEDGEROW_NATIVE": "off"},
    )
    assert done.returncode == 0, done.stderr
    assert "hedgerow doctor" in done.stdout
    assert "HEDGEROW_NATIVE" in done.stdout


@needs_library
def test_dense_kernels_leave_every_module_as_it_was() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
    mask = Mask({"0.weight": torch.rand(4, 1, 3, 3) < 0.2})
    network = sparsify(model, mask, kernels="dense")
    assert [type(m) for m in network.module.children()][1:] == [nn.BatchNorm2d, nn.ReLU, nn.Flatten]
    assert network.converted == ()


@needs_library
def test_an_input_smaller_than_the_kernel_is_a_clear_error() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 5))
    network = sparsify(model, Mask({"0.weight": torch.rand(4, 1, 5, 5) < 0.2}), kernels="native")
    with pytest.raises(ModelError, match="smaller"):
        network.module(torch.randn(2, 1, 3, 3))
