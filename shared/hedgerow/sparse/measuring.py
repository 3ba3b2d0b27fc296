"""How long layers and whole steps take on this machine, by either path."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from hedgerow.sparse.conversion import kernel_layers, set_paths
from hedgerow.sparse.layers import KernelLayer, Path
from hedgerow.sparse.layout import planes

__all__ = ["LayerSeconds", "Precision", "input_shapes", "layer_seconds", "step_seconds", "undisturbed"]

Precision: TypeAlias = Literal["fp32", "bf16"]

LayerSeconds: TypeAlias = tuple[float, float, float]
"""Forward and backward by the native and by the dense path, and what it costs to change the layout before and after."""

_ENOUGH_SECONDS = 0.05
_REPETITIONS = 5
_ROUNDS = 3  # the first of which does not count
_HOPELESS = 1.5


@contextmanager
def undisturbed(module: nn.Module) -> Iterator[None]:
    """Puts back what trying a network out changes: buffers, modes, paths, gradients, torch's random state."""
    modes = {m: m.training for m in module.modules()}
    paths = {name: layer.path for name, layer in kernel_layers(module).items()}
    persistent = module.state_dict().keys()
    statistics = [(b, b.clone()) for name, b in module.named_buffers() if name in persistent]
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            yield
    finally:
        module.zero_grad(set_to_none=True)
        set_paths(module, paths)
        for m, training in modes.items():
            m.training = training
        with torch.no_grad():
            for buffer, before in statistics:
                buffer.copy_(before)


def input_shapes(module: nn.Module, images: Tensor) -> dict[str, torch.Size]:
    """The shape of each layer's input, by its name; layers that `images` do not reach are left out."""
    shapes: dict[str, torch.Size] = {}

    def remember(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            shapes[name] = arguments[0].shape

        return hook

    layers = kernel_layers(module)
    set_paths(module, dict.fromkeys(layers, "dense"))
    handles = [layer.register_forward_pre_hook(remember(name)) for name, layer in layers.items()]
    try:
        module.eval()
        with torch.no_grad():
            module(images)
    finally:
        for handle in handles:
            handle.remove()
    return shapes


def layer_seconds(layer: KernelLayer, shape: torch.Size, *, precision: Precision) -> LayerSeconds:
    """Times of one layer alone, with inputs of `shape` in the layout that each path likes."""
    x = torch.randn(shape)
    half = precision == "bf16"
    seconds: dict[Path, float] = {}
    paths: tuple[Path, ...] = ("native", "dense")
    for path in paths:
        layer.take(path)
        if path == "native" and x.dim() in (2, 4):
            # Then nothing is copied, because it comes from the layer before like this.
            start = planes(x).movedim(-1, 0)
            start = start[:, :, 0, 0] if x.dim() == 2 else start
        else:
            start = x.contiguous(memory_format=torch.channels_last) if half and x.dim() == 4 else x
        seconds[path] = _fastest(lambda start=start, path=path: _there_and_back(layer, start, half=half))  # type: ignore[misc]  # mypy does not infer lambdas with defaults
    with torch.no_grad():
        y = layer(x)
    change = 2 * sum(_fastest(lambda t=t: planes(t)) for t in (x, y) if t.dim() in (2, 4))  # type: ignore[misc]  # as above
    return seconds["native"], seconds["dense"], change


def step_seconds(
    module: nn.Module, images: Tensor, candidates: Mapping[str, Mapping[str, Path]], *, precision: Precision
) -> dict[str, float]:
    """Seconds of one forward and backward of the whole network in training, for each way to choose paths."""
    module.train()
    half = precision == "bf16"
    if half:
        images = images.contiguous(memory_format=torch.channels_last)
    seconds: dict[str, float] = {}
    for number in range(_ROUNDS):
        for name, paths in candidates.items():
            if number > 1 and seconds[name] > _HOPELESS * min(seconds.values()):
                continue
            set_paths(module, paths)
            took = _timed(lambda: _step(module, images, half=half))
            seconds[name] = min(seconds[name], took) if number > 1 else took
    return seconds


def _there_and_back(layer: KernelLayer, x: Tensor, *, half: bool) -> None:
    x = x.detach().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        y = layer(x)
    # Strides like the output's own, which is what the layer after it would send back.
    torch.autograd.grad(y, [x, layer.trained], torch.ones_like(y), allow_unused=True)


def _step(module: nn.Module, images: Tensor, *, half: bool) -> None:
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        outputs = module(images)
    outputs.float().square().mean().backward()
    module.zero_grad(set_to_none=True)


def _fastest(work: Callable[[], object]) -> float:
    work()  # The first call loads code and makes room.
    best = spent = _timed(work)
    for _ in range(_REPETITIONS):
        if spent > _ENOUGH_SECONDS:
            break
        seconds = _timed(work)
        best, spent = min(best, seconds), spent + seconds
    return best


def _timed(work: Callable[[], object]) -> float:
    # One thread's own time does not count what others do on its core.
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    began = clock()
    work()
    return clock() - began
