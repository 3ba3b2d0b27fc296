"""Which layers a network calls on what: read off while one sample passes through it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from hedgerow.models.standard import StandardConv2d, StandardLinear
from hedgerow.pruning import prunable_tensors
from hedgerow.sparse.kernels import Geometry

__all__ = ["Call", "Kind", "Trace", "trace"]

Kind: TypeAlias = Literal["weight", "norm", "relu", "max_pool", "average", "view", "other"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of a layer, or of a function of torch outside of any.

    Attributes:
        name: of the layer; of the function in the innermost container that called it.
        kind: what it computes; `weight`: with a prunable weight.
        inputs: numbers of the tensors that it reads.
        output: number of the one that it makes; that of its input for a `view`.
        channels: of its output.
        weight: name of the prunable weight, empty without.
        padded: elements of its input with the zeros that a convolution puts around.
        shape: of its first input for one sample, (C, H, W) or (C,); empty for a function.
        geometry: of a convolution; None for all else, and where its padding is not given by numbers.
    """

    name: str
    kind: Kind
    inputs: tuple[int, ...]
    output: int
    channels: int
    weight: str = ""
    padded: int = 0
    shape: tuple[int, ...] = ()
    geometry: Geometry | None = None


@dataclass(frozen=True, slots=True)
class Trace:
    """All calls, in their order.

    Attributes:
        calls: the calls.
        elements: number of elements of each tensor for one sample; tensor 0 is the network's input.
    """

    calls: tuple[Call, ...]
    elements: tuple[int, ...]


def trace(model: nn.Module, input_shape: tuple[int, ...]) -> Trace:
    """Follows one sample of `input_shape`, (C, H, W), through `model`, which stays as it is.

    Layers of torch's own and of ours give zeros of the right shape, so that no weight is read: of a hollow one that
    would make a dense copy, in the memory of a device that asks what it has room for.

    >>> found = trace(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), (4,))
    >>> [(call.name, call.kind, call.inputs, call.output) for call in found.calls], found.elements
    ([('0', 'weight', (0,), 1), ('1', 'relu', (1,), 2)], (4, 3, 3))
    """
    # Tensors without values (the meta device) would cost nothing, but 1.5 s to import what torch needs for them.
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return _Recorder().run(copy.deepcopy(model, shared), torch.zeros(1, *input_shape))


class _Recorder(TorchFunctionMode):
    """Notes the calls of one pass."""

    def __init__(self) -> None:
        super().__init__()
        self._calls: list[Call] = []
        self._elements: list[int] = []
        # What nothing reads any more is forgotten: all activations at once may be more than a device has.
        self._numbers: MutableMapping[Tensor, int] = WeakTensorKeyDictionary()
        self._depth = 0
        self._where = [""]

    def run(self, model: nn.Module, x: Tensor) -> Trace:
        model.eval()
        weights = {id(weight): name for name, weight in prunable_tensors(model).items()}
        for module in model.modules():
            _compute_shapes(module)
        with self._hooked(model, weights), torch.no_grad(), self:
            self._number(x)
            model(x)
        return Trace(tuple(self._calls), tuple(self._elements))

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if self._depth == 0 and isinstance(result, Tensor) and result.is_floating_point():
            known = [self._numbers[t] for t in _tensors(args) if t in self._numbers]
            if known and result not in self._numbers:
                name = getattr(func, "__name__", "function").strip("_")
                kind: Kind = (
                    "relu" if name in ("relu", "relu_") else "view" if _shares(result, self._numbers) else "other"
                )
                path = f"{self._where[-1]}.{name}".strip(".")
                self._note(path, kind, inputs=known, output=result)
        return result

    @contextmanager
    def _hooked(self, model: nn.Module, weights: Mapping[int, str]) -> Iterator[None]:
        handles = []
        for name, module in model.named_modules():
            leaf = not any(True for _ in module.children())
            handles.append(module.register_forward_pre_hook(self._entering(name, leaf=leaf)))
            handles.append(module.register_forward_hook(self._leaving(name, leaf=leaf, weights=weights)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _entering(self, name: str, *, leaf: bool) -> Callable[[nn.Module, Any], None]:
        def enter(module: nn.Module, args: Any) -> None:
            self._depth += leaf
            self._where.append(name)

        return enter

    def _leaving(self, name: str, *, leaf: bool, weights: Mapping[int, str]) -> Callable[[nn.Module, Any, Any], None]:
        def leave(module: nn.Module, args: Any, output: Any) -> None:
            self._depth -= leaf
            self._where.pop()
            if not leaf or not isinstance(output, Tensor):
                return
            inputs = [t for t in _tensors(args) if t in self._numbers]
            weight = weights.get(id(getattr(module, "weight", None)), "")
            kind = _kind(module, weighted=bool(weight))
            known = [self._numbers[t] for t in inputs]
            padded = _padded(module, inputs[0]) if inputs else 0
            shape = tuple(inputs[0].shape[1:]) if inputs else ()
            geometry = _geometry(module)
            self._note(
                name, kind, inputs=known, output=output, weight=weight, padded=padded, shape=shape, geometry=geometry
            )

        return leave

    def _note(
        self,
        name: str,
        kind: Kind,
        *,
        inputs: list[int],
        output: Tensor,
        weight: str = "",
        padded: int = 0,
        shape: tuple[int, ...] = (),
        geometry: Geometry | None = None,
    ) -> None:
        if kind == "view" and inputs:
            self._numbers[output] = inputs[0]
        number = self._number(output)
        channels = output.shape[1] if output.dim() > 1 else 1
        self._calls.append(
            Call(
                name=name,
                kind=kind,
                inputs=tuple(inputs),
                output=number,
                channels=channels,
                weight=weight,
                padded=padded,
                shape=shape,
                geometry=geometry,
            )
        )

    def _number(self, tensor: Tensor) -> int:
        if tensor not in self._numbers:
            self._numbers[tensor] = len(self._elements)
            self._elements.append(tensor.numel())
        return self._numbers[tensor]


def _compute_shapes(module: nn.Module) -> None:
    """Lets a layer of a copy give zeros without reading its weight. One of another type may do more; it stays."""
    if isinstance(module, nn.Conv2d) and type(module) in (nn.Conv2d, StandardConv2d):
        module.forward = partial(_convolved, module)  # type: ignore[method-assign]
    elif isinstance(module, nn.Linear) and type(module) in (nn.Linear, StandardLinear):
        module.forward = partial(_mapped, module)  # type: ignore[method-assign]


def _convolved(layer: nn.Conv2d, x: Tensor) -> Tensor:
    # One channel of the input and one of the output have the whole shape in height and width.
    one = F.conv2d(x[:, :1], x.new_zeros(1, 1, *layer.kernel_size), None, layer.stride, layer.padding, layer.dilation)
    return one.new_zeros(one.shape[0], layer.out_channels, *one.shape[2:])


def _mapped(layer: nn.Linear, x: Tensor) -> Tensor:
    return x.new_zeros(*x.shape[:-1], layer.out_features)


def _kind(module: nn.Module, *, weighted: bool) -> Kind:
    if weighted:
        return "weight"
    match module:
        case nn.modules.batchnorm._BatchNorm() | nn.GroupNorm() | nn.LayerNorm():
            return "norm"
        case nn.ReLU():
            return "relu"
        case nn.MaxPool2d():
            return "max_pool"
        case nn.AdaptiveAvgPool2d() | nn.AvgPool2d():
            return "average"
        case nn.Flatten() | nn.Identity() | nn.Dropout():
            return "view"
    return "other"


def _geometry(module: nn.Module) -> Geometry | None:
    if not isinstance(module, nn.Conv2d) or isinstance(module.padding, str):
        return None
    kernel, stride, padding, dilation = (
        (sizes[0], sizes[1]) for sizes in (module.kernel_size, module.stride, module.padding, module.dilation)
    )
    return Geometry(kernel, stride, padding, dilation, module.groups)


def _padded(module: nn.Module, x: Tensor) -> int:
    if not isinstance(module, nn.Conv2d) or isinstance(module.padding, str):
        return x.numel()
    (vertical, horizontal) = module.padding
    *rest, height, width = x.shape
    outer = 1
    for size in rest:
        outer *= size
    return outer * (height + 2 * vertical) * (width + 2 * horizontal)


def _shares(result: Tensor, alive: Iterable[Tensor]) -> bool:
    return result._base is not None and any(result._base is t or result._base is t._base for t in alive)


def _tensors(args: Any) -> Iterator[Tensor]:
    for arg in args:
        if isinstance(arg, Tensor):
            yield arg
        elif isinstance(arg, list | tuple):
            yield from _tensors(arg)
