"""A network in eval mode as data: a list of ATen calls over named tensors.

What is kept of a traced graph is small enough to be analysed, rewritten, written as JSON and made into a module again,
without the code of the model.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeAlias

import torch
from torch import Tensor, fx, nn

from hedgerow.errors import ModelError

__all__ = ["Argument", "Program", "Ref", "Shape", "Step", "Weight", "callable_named", "module_of"]

Shape: TypeAlias = tuple[int | str, ...]
"""Sizes of a value's axes; a text stands for one that is only known when the network runs, such as the batch."""


@dataclass(frozen=True, slots=True)
class Ref:
    """The network's input, or the value of an earlier step."""

    name: str


@dataclass(frozen=True, slots=True)
class Weight:
    """A stored tensor."""

    name: str


Argument: TypeAlias = (
    "Ref | Weight | None | bool | int | float | str | torch.dtype | torch.memory_format | tuple[Argument, ...]"
)


@dataclass(frozen=True, slots=True)
class Step:
    """One call.

    Attributes:
        name: of its value.
        op: such as ``aten.conv2d.default``.
        arguments: by their names in the operator's schema; ``0``, ``1``, … for Python's own operators.
        shape: of its value; None where that is no tensor of floats.
    """

    name: str
    op: str
    arguments: Mapping[str, Argument]
    shape: Shape | None


@dataclass(frozen=True, slots=True)
class Program:
    """A network with one input and one output.

    Attributes:
        input: name of the input.
        input_shape: (N, C, H, W), N a text.
        steps: in order.
        output: name of the step whose value is the result.
        tensors: what the steps read.
        buffers: names of the tensors that are no parameters.
    """

    input: str
    input_shape: Shape
    steps: tuple[Step, ...]
    output: str
    tensors: Mapping[str, Tensor]
    buffers: frozenset[str]


_OPERATORS: MappingProxyType[str, Callable[..., Any]] = MappingProxyType(
    {
        f"operator.{f.__name__}": f
        for f in (operator.add, operator.sub, operator.mul, operator.floordiv, operator.getitem)
    }
)


_CHECKED = frozenset({"_softmax", "_log_softmax", "_to_copy", "_adaptive_avg_pool2d"})


def callable_named(op: str) -> Callable[..., Any]:
    """The function that a step calls: an ATen operator without side effects, or arithmetic on sizes.

    Raises:
        ModelError: there is none of that name, or it could do more than compute.
    """
    if op in _OPERATORS:
        return _OPERATORS[op]
    namespace, *path = op.split(".")
    found: object = torch.ops.aten if namespace == "aten" and len(path) == 2 else None
    for part in path:
        # A leading underscore marks what is internal to ATen, some of which does not check its arguments.
        found = None if part.startswith("_") and part not in _CHECKED else getattr(found, part, None)
    if not isinstance(found, torch._ops.OpOverload):
        raise ModelError(f"{op!r} is no operator that a stored network may use; get the file again")
    schema = found._schema
    if schema.is_mutable or not any("Tensor" in str(argument.type) for argument in schema.arguments):
        raise ModelError(f"{op!r} does more than compute with tensors, so no stored network may use it")
    return found


def module_of(program: Program) -> fx.GraphModule:
    """A module that runs a program and owns copies of its tensors, under their own names."""
    root = nn.Module()
    for name, tensor in program.tensors.items():
        *path, last = name.split(".")
        owner = root
        for part in path:
            if not isinstance(getattr(owner, part, None), nn.Module):
                owner.add_module(part, nn.Module())
            owner = owner.get_submodule(part)
        if name in program.buffers or not tensor.is_floating_point():
            owner.register_buffer(last, tensor.detach().clone())
        else:
            owner.register_parameter(last, nn.Parameter(tensor.detach().clone(), requires_grad=False))
    graph = fx.Graph()
    nodes: dict[str, fx.Node] = {program.input: graph.placeholder(program.input)}
    weights: dict[str, fx.Node] = {}

    def node_of(value: Argument) -> Any:
        match value:
            case Ref(name):
                return nodes[name]
            case Weight(name):
                if name not in weights:
                    weights[name] = graph.get_attr(name)
                return weights[name]
            case tuple():
                return [node_of(item) for item in value]
            case _:
                return value

    for step in program.steps:
        function = callable_named(step.op)
        values = {key: node_of(value) for key, value in step.arguments.items()}
        if isinstance(function, torch._ops.OpOverload):
            nodes[step.name] = graph.call_function(function, kwargs=values)
        else:
            nodes[step.name] = graph.call_function(function, tuple(values.values()))
    graph.output(nodes[program.output])
    return fx.GraphModule(root, graph).eval()
