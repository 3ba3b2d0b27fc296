"""Blocks that run again in the backward: bit for bit the plain block, and less memory."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hedgerow.activations import Recompute
from hedgerow.errors import ModelError
from hedgerow.telemetry.memory import allocation_peak


class _Residual(nn.Module):
    """Norms, a dropout and a residual: all that has a state."""

    def __init__(self, *, momentum: float | None = 0.1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4, momentum=momentum)
        self.dropout = nn.Dropout(0.3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.dropout(F.relu(self.norm(self.conv(x))))
        return x + y


class _Stateful(nn.Module):
    """Its output depends on a buffer that it changes, which is replaced, and one that is not in memory."""

    level: Tensor
    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("level", torch.zeros(4, 1, 1))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("absent", torch.empty(3, device="meta"))
        self.gain = nn.Parameter(torch.ones(4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        self.calls = self.calls + 1
        with torch.no_grad():
            self.level.mul_(0.9).add_(x.mean((0, 2, 3), keepdim=True)[0], alpha=0.1)
        return torch.tanh(x * self.gain - self.level.clone()) * self.calls


class _Tied(nn.Module):
    """One convolution under two names, another that shares its weight, and a norm under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.same, self.sharing, self.again = self.one, nn.Conv2d(4, 4, 3, padding=1), self.norm
        self.sharing.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.same(torch.tanh(self.one(x))))
        return cast(Tensor, self.again(self.sharing(y)))


BLOCKS: dict[str, Callable[[], nn.Module]] = {
    "residual": _Residual,
    "cumulative statistics": lambda: _Residual(momentum=None),
    "output depends on a state": _Stateful,
    "tied": _Tied,
    "no parameters": lambda: nn.Sequential(nn.ReLU(), nn.Dropout(0.5)),
    "identity": nn.Identity,
    "chain": lambda: nn.Sequential(nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU(inplace=True)),
    "nested": lambda: nn.Sequential(Recompute(_Residual()), nn.Sequential(_Residual(), Recompute(_Stateful()))),
    "wrapped twice": lambda: Recompute(Recompute(_Residual())),
}
blocks = pytest.mark.parametrize("make", BLOCKS.values(), ids=BLOCKS)


def _plain(module: nn.Module) -> nn.Module:
    """A copy without any Recompute."""
    if isinstance(module, Recompute):
        return _plain(module.block)
    twin = copy.deepcopy(module)
    for name, child in list(twin.named_children()):
        if any(isinstance(inner, Recompute) for inner in child.modules()):
            setattr(twin, name, _plain(child))
    return twin


def _three_steps(network: nn.Module, *, autocast: bool, input_needs_gradient: bool) -> list[Tensor]:
    """Everything that three steps of SGD give: outputs, gradients, weights, buffers and the next random number."""
    torch.manual_seed(7)
    parameters = list(network.parameters())
    seen: list[Tensor] = []
    for _ in range(3):
        x = torch.randn(3, 4, 6, 5).requires_grad_(input_needs_gradient)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            y = network(x)
        y.square().mean().backward()
        seen += [y.detach().clone(), x if x.grad is None else x.grad]
        for parameter in parameters:
            assert parameter.grad is not None
            seen.append(parameter.grad.clone())
            with torch.no_grad():
                parameter.sub_(parameter.grad)
            parameter.grad = None
    seen += [p.detach() for p in parameters]
    seen += [buffer for buffer in network.buffers() if not buffer.is_meta]
    return [*seen, torch.rand(4)]


@blocks
@pytest.mark.parametrize("input_needs_gradient", [True, False])
@pytest.mark.parametrize("autocast", [False, True])
def test_three_steps_are_those_of_the_plain_block_bit_for_bit(
    make: Callable[[], nn.Module], input_needs_gradient: bool, autocast: bool
) -> None:
    torch.manual_seed(0)
    recomputed = nn.Sequential(nn.Conv2d(4, 4, 1), Recompute(make()), Recompute(make()), nn.Conv2d(4, 2, 1))
    plain = _plain(recomputed)
    expected = _three_steps(plain, autocast=autocast, input_needs_gradient=input_needs_gradient)
    found = _three_steps(recomputed, autocast=autocast, input_needs_gradient=input_needs_gradient)
    assert len(expected) == len(found)
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


def test_running_statistics_count_each_batch_once() -> None:
    block = Recompute(nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)))
    for _ in range(2):
        block(torch.randn(3, 4, 6, 5)).sum().backward()
    assert int(block.get_buffer("block.1.num_batches_tracked")) == 2


@pytest.mark.parametrize("needing", [(0,), (1,), (0, 1), ()])
def test_of_several_inputs_only_those_get_gradients_that_need_them(needing: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    block = nn.Bilinear(3, 4, 2)
    inputs = [torch.randn(5, 3), torch.randn(5, 4)]
    for at in needing:
        inputs[at].requires_grad_()
    sought = [*(inputs[at] for at in needing), *block.parameters()]
    expected = torch.autograd.grad(block(*inputs).square().sum(), sought)
    found = torch.autograd.grad(Recompute(block)(*inputs).square().sum(), sought)
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


class _First(nn.Module):
    """Ignores its second input and one of its parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        return x * self.used


def test_what_is_not_used_gets_no_gradient() -> None:
    block = _First()
    x, other = torch.ones(2, 3, requires_grad=True), torch.ones(2, requires_grad=True)
    Recompute(block)(x, other).sum().backward()
    assert (other.grad, block.unused.grad) == (None, None)
    assert x.grad is not None
    assert block.used.grad is not None


def test_frozen_parameters_get_no_gradient() -> None:
    block = nn.Linear(3, 2)
    block.bias.requires_grad_(False)
    Recompute(block)(torch.ones(4, 3)).sum().backward()
    assert block.bias.grad is None
    assert block.weight.grad is not None


def test_integers_may_be_inputs() -> None:
    block = nn.Embedding(5, 3)
    Recompute(block)(torch.tensor([1, 1, 4])).sum().backward()
    assert block.weight.grad is not None
    assert block.weight.grad[:, 0].tolist() == [0, 2, 0, 0, 1]


def test_a_graph_that_is_retained_can_be_gone_through_again() -> None:
    torch.manual_seed(0)
    block, x = Recompute(_Residual()), torch.randn(3, 4, 6, 5)
    loss = block(x).square().sum()
    first = torch.autograd.grad(loss, list(block.parameters()), retain_graph=True)
    again = torch.autograd.grad(loss, list(block.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_parameters_that_a_caller_puts_in_get_the_gradients() -> None:
    block = nn.Linear(3, 2)
    other = {f"block.{name}": torch.randn_like(p, requires_grad=True) for name, p in block.named_parameters()}
    y = torch.func.functional_call(Recompute(block), other, (torch.ones(4, 3),))
    y.square().sum().backward()
    assert block.weight.grad is None
    expected = 2 * (other["block.weight"].sum(1) + other["block.bias"]) * 4
    assert other["block.bias"].grad is not None
    assert torch.allclose(other["block.bias"].grad, expected)


def test_backward_inside_autocast_gives_weights_their_gradients() -> None:
    results = []
    for wrap in (lambda block: block, Recompute):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(8, 8), wrap(nn.Sequential(nn.Linear(8, 8), nn.Tanh())), nn.Linear(8, 1))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            network(torch.ones(4, 8)).sum().backward()
        results.append([parameter.grad for parameter in network.parameters()])
    for expected, found in zip(*results, strict=True):
        assert expected is not None
        assert found is not None
        assert torch.equal(expected, found)


def test_a_weight_that_another_layer_uses_too_keeps_that_gradient_under_autocast() -> None:
    torch.manual_seed(0)
    shared = nn.Linear(8, 8)
    gradients = []
    for block in (nn.Tanh(), Recompute(nn.Sequential(shared, nn.Tanh()))):
        # First the gradient of the second use alone, then that of both.
        with torch.autocast("cpu", dtype=torch.bfloat16):
            x = shared(torch.ones(4, 8)).detach() if isinstance(block, nn.Tanh) else torch.ones(4, 8)
            loss = shared(block(x).detach()).sum()
        gradients.append(torch.autograd.grad(loss, shared.weight)[0])
    assert torch.equal(gradients[0], gradients[1])


def test_without_gradients_the_block_runs_as_it_is() -> None:
    block = Recompute(_Residual())
    with torch.no_grad():
        assert block(torch.randn(3, 4, 6, 5)).grad_fn is None
    assert Recompute(nn.ReLU())(torch.randn(3)).grad_fn is None
    assert int(block.get_buffer("block.norm.num_batches_tracked")) == 1


def test_a_weight_that_was_changed_before_the_backward_is_an_error_as_ever() -> None:
    block = nn.Linear(3, 2)
    y = Recompute(block)(torch.ones(4, 3, requires_grad=True))
    with torch.no_grad():
        block.weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_a_block_that_changes_its_input_is_refused() -> None:
    block = Recompute(nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(4, 4, 1)))
    with pytest.raises(ModelError, match="in place"):
        block(torch.randn(3, 4, 6, 5))


class _Two(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


def test_a_block_that_returns_several_tensors_is_refused() -> None:
    with pytest.raises(ModelError, match="returns a tuple"):
        Recompute(_Two())(torch.ones(2, requires_grad=True))


def test_a_block_that_was_switched_to_evaluation_before_its_backward_is_refused() -> None:
    block = Recompute(_Residual())
    y = block(torch.randn(3, 4, 6, 5))
    block.eval()
    with pytest.raises(ModelError, match="call backward first"):
        y.sum().backward()


def test_an_error_in_the_second_pass_leaves_the_random_numbers_alone() -> None:
    block = Recompute(_Residual())
    y = block(torch.randn(3, 4, 6, 5))
    block.eval()
    before = torch.get_rng_state()
    with pytest.raises(ModelError):
        y.sum().backward()
    assert torch.equal(before, torch.get_rng_state())


def test_second_derivatives_are_refused_aloud() -> None:
    x = torch.randn(2, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(Recompute(nn.Tanh())(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        torch.autograd.backward(gradient.sum())


def _block(width: int) -> nn.Module:
    layers = [[nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()] for _ in range(3)]
    return nn.Sequential(*(layer for three in layers for layer in three))


def test_a_step_holds_the_activations_of_one_block_only() -> None:
    x = torch.randn(8, 16, 24, 24)

    def peak(*, recompute: bool) -> int:
        torch.manual_seed(0)
        network = nn.Sequential(*(Recompute(_block(16)) if recompute else _block(16) for _ in range(6)))
        network(x).mean().backward()  # gradients are there, and libraries warm
        return allocation_peak(lambda: network(x).mean().backward())[1]

    plain, recomputed = peak(recompute=False), peak(recompute=True)
    # Plain holds 6 · 6 maps. Recomputed, 6 outputs of blocks, 6 more maps inside one, and some on their way.
    assert plain > 36 * x.nbytes
    assert recomputed < 17 * x.nbytes


def test_what_is_recomputed_is_freed_while_the_loss_is_alive() -> None:
    block = Recompute(_block(16))
    x = torch.randn(8, 16, 24, 24)

    def step() -> Tensor:
        loss: Tensor = block(x).mean()
        torch.autograd.backward(loss)
        return loss

    step()
    _, first = allocation_peak(step)
    _, both = allocation_peak(lambda: [step(), step()])
    assert both < 1.05 * first
