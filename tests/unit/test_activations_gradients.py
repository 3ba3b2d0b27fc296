"""What storages do to the gradients of a small residual network with batch norms, on real images.

Cosines to exact gradients, after 0 and 30 steps; those measured stand beside the bounds.
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from typing import Any, TypeVar, cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hedgerow.activations import Exact, FaithfulStorage, Packed, Quantised, Storage, TopK, bit_relu
from hedgerow.data import load_dataset


class _StoredConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, storage: Storage) -> Tensor:
        packed = storage.pack(x)
        ctx.save_for_backward(weight, *packed.tensors)
        ctx.restore, ctx.stride = packed.restore, stride
        return F.conv2d(x, weight, None, stride, weight.shape[2] // 2)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        weight, *tensors = ctx.saved_tensors
        geometry = ([ctx.stride] * 2, [weight.shape[2] // 2] * 2, [1, 1], False, [0, 0], 1)
        wanted = [ctx.needs_input_grad[0], True, False]
        gx, gw, _ = torch.ops.aten.convolution_backward(
            grads[0], ctx.restore(tuple(tensors)), weight, None, *geometry, wanted
        )
        return gx, gw, None, None


class _StoredNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, storage: FaithfulStorage) -> Tensor:
        variance, mean = torch.var_mean(x, (0, 2, 3), correction=0)
        packed = storage.pack(x)
        ctx.save_for_backward(weight, mean, (variance + 1e-5).rsqrt(), *packed.tensors)
        ctx.restore = packed.restore
        return F.batch_norm(x, None, None, weight, bias, training=True)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        weight, mean, inverse, *tensors = ctx.saved_tensors
        x = ctx.restore(tuple(tensors))
        found = torch.ops.aten.native_batch_norm_backward(
            grads[0], x, weight, None, None, mean, inverse, True, 1e-5, [True] * 3
        )
        return *found, None


class _Net(nn.Module):
    """A stem, and blocks of two convolutions with a residual, each convolution with a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(1, 16, 3, bias=False)])
        self.plan = [(16, 16, 1), (16, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1)]
        for inputs, outputs, _ in self.plan:
            self.convs.extend(
                [
                    nn.Conv2d(inputs, outputs, 3, bias=False),
                    nn.Conv2d(outputs, outputs, 3, bias=False),
                    nn.Conv2d(inputs, outputs, 1, bias=False),
                ]
            )
        self.norms = nn.ModuleList(nn.BatchNorm2d(cast(nn.Conv2d, conv).out_channels) for conv in self.convs)
        self.output = nn.Linear(64, 10)

    def forward(self, x: Tensor, inputs: Storage, values: FaithfulStorage) -> Tensor:
        def layer(x: Tensor, at: int, stride: int = 1) -> Tensor:
            norm = self.norms[at]
            z = _StoredConv.apply(x, self.convs[at].weight, stride, inputs)  # type: ignore[no-untyped-call]
            return cast(Tensor, _StoredNorm.apply(z, norm.weight, norm.bias, values))  # type: ignore[no-untyped-call]

        x = bit_relu(layer(x, 0))
        for block, (_, _, stride) in enumerate(self.plan):
            at = 1 + 3 * block
            y = layer(bit_relu(layer(x, at, stride)), at + 1)
            x = bit_relu(y + layer(x, at + 2, stride))
        return cast(Tensor, self.output(x.mean((2, 3))))


@cache
def _images() -> tuple[Tensor, Tensor]:
    dataset = load_dataset("digits")
    x = dataset.normalised(dataset.train.images[:32])
    return F.interpolate(x, scale_factor=2), torch.from_numpy(dataset.train.labels[:32]).long()


class _Plain(nn.Module):
    """A chain of convolutions and ReLUs, without norms."""

    def __init__(self) -> None:
        super().__init__()
        sizes = [1, 16, 16, 32, 32, 64, 64]
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, bias=False) for a, b in pairwise(sizes))
        self.output = nn.Linear(64, 10)
        for conv in self.convs:
            nn.init.kaiming_normal_(cast(nn.Conv2d, conv).weight)

    def forward(self, x: Tensor, inputs: Storage, values: FaithfulStorage) -> Tensor:
        for at, conv in enumerate(self.convs):
            stride = 2 if at in (2, 4) else 1
            x = bit_relu(_StoredConv.apply(x, conv.weight, stride, inputs))  # type: ignore[no-untyped-call]  # torch does not type it
        return cast(Tensor, self.output(x.mean((2, 3))))


_N = TypeVar("_N", _Net, _Plain)


@cache
def _trained(make: type[_N], steps: int) -> _N:
    torch.manual_seed(0)
    net = make()
    x, y = _images()
    optimiser = torch.optim.SGD(net.parameters(), 0.05, momentum=0.9)
    for _ in range(steps):
        optimiser.zero_grad()
        torch.autograd.backward(F.cross_entropy(net(x, Exact(), Exact()), y))
        optimiser.step()
    return net


def _cosine(net: _Net | _Plain, inputs: Storage, values: FaithfulStorage) -> float:
    """Between exact gradients and those with storages, of all parameters."""
    x, y = _images()
    found = []
    for storages in ((Exact(), Exact()), (inputs, values)):
        loss = F.cross_entropy(net(x, *storages), y)
        gradients = torch.autograd.grad(loss, list(net.parameters()))
        found.append(torch.cat([gradient.flatten() for gradient in gradients]).double())
    return float(F.cosine_similarity(found[0], found[1], 0))


trained = pytest.mark.parametrize("steps", [0, 30])


@trained
def test_int8_leaves_gradients_as_they_are(steps: int) -> None:
    net = _trained(_Net, steps)
    assert _cosine(net, Quantised(bits=8, seed=1), Quantised(bits=8, seed=2)) >= 0.9999  # 0.99997, 0.99998


@trained
def test_int4_changes_gradients_by_a_thousandth_at_most(steps: int) -> None:
    net, storage = _trained(_Net, steps), Quantised(bits=4, seed=1)
    assert _cosine(net, storage, Exact()) >= 0.999  # 0.9996, 0.9998
    assert _cosine(net, Exact(), storage) >= 0.999  # 0.9993, 0.9995
    assert _cosine(net, storage, storage) >= 0.998  # 0.9989, 0.9993


@trained
@pytest.mark.parametrize(
    ("keep_ratio", "plain", "normed"),
    [
        (0.5, 0.998, 0.995),  # 0.9998 and 0.9991, 0.9971 and 0.9982
        (0.3, 0.99, 0.97),  # 0.994 and 0.996, 0.977 and 0.983
        (0.1, 0.9, 0.82),  # 0.92 and 0.95, 0.84 and 0.88
    ],
)
def test_the_largest_inputs_of_convolutions_tell_where_to_go(
    steps: int, keep_ratio: float, plain: float, normed: float
) -> None:
    storage = TopK(keep_ratio=keep_ratio)
    assert _cosine(_trained(_Plain, steps), storage, Exact()) >= plain
    assert _cosine(_trained(_Net, steps), storage, Exact()) >= normed


def test_rounding_in_fewer_bits_beats_keeping_the_largest() -> None:
    net = _trained(_Net, 0)
    exact, rounded, largest = (
        _held(net, storage) for storage in (Exact(), Quantised(bits=4, seed=1), TopK(keep_ratio=0.3))
    )
    assert rounded < largest < exact
    assert _cosine(net, Quantised(bits=4, seed=1), Exact()) > _cosine(net, TopK(keep_ratio=0.3), Exact())


class _Counting:
    """Counts what another storage holds."""

    def __init__(self, inner: Storage) -> None:
        self.inner, self.nbytes = inner, 0

    def pack(self, x: Tensor) -> Packed:
        packed = self.inner.pack(x)
        self.nbytes += packed.nbytes
        return packed

    def reseed(self, seed: int) -> None:
        self.inner.reseed(seed)


def _held(net: _Net, storage: Storage) -> int:
    counting = _Counting(storage)
    net(_images()[0], counting, Exact())
    return counting.nbytes
