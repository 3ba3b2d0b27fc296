"""From a network's code to a program, by `torch.export`."""

from __future__ import annotations

import copy
import operator
import warnings
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram

from hedgerow.compaction.channels import weights_in
from hedgerow.compaction.program import Argument, Program, Ref, Shape, Step, Weight, callable_named
from hedgerow.errors import ModelError

__all__ = ["trace"]


def trace(model: nn.Module, input_shape: tuple[int, int, int]) -> Program:
    """What a network computes in eval mode, for any batch size; `model` is not changed.

    Args:
        model: takes (N, C, H, W) float32, gives one tensor; on the CPU.
        input_shape: (C, H, W).

    Raises:
        ModelError: `torch.export` cannot trace it (control flow that depends on values, say), or it needs more than
            ATen operators.

    >>> [step.op for step in trace(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), (1, 2, 2)).steps]
    ['aten.flatten.using_ints', 'aten.linear.default']
    """
    still = copy.deepcopy(model).eval()
    for parameter in still.parameters():
        parameter.requires_grad_(False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.export's own, about its own future
            exported = torch.export.export(
                still, (torch.zeros(2, *input_shape),), dynamic_shapes=({0: Dim("batch")},), strict=False
            )
            if any(_mutates(node) for node in exported.graph.nodes):
                exported = exported.run_decompositions({})
    except Exception as error:
        # Whatever goes wrong in the user's code or in the tracer, it comes to the same: there is no graph.
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        raise ModelError(
            f"{type(model).__name__} cannot be traced by torch.export ({type(error).__name__}: {reason[:200]})"
        ) from error
    return _program(exported, kind=type(model).__name__)


def _mutates(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _program(exported: ExportedProgram, *, kind: str) -> Program:
    signature = exported.graph_signature
    if len(signature.user_inputs) != 1 or len(signature.user_outputs) != 1 or signature.buffers_to_mutate:
        raise ModelError(f"{kind} has several inputs or outputs, or a state that changes; one of each is supported")
    stored = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    tensors: dict[str, Tensor] = {}
    names: dict[fx.Node, Argument] = {}
    steps: list[Step] = []
    input_shape: Shape = ()
    for node in exported.graph.nodes:
        if node.op == "placeholder" and node.name in stored:
            name = stored[node.name]
            found = exported.state_dict.get(name, exported.constants.get(name))
            assert isinstance(found, Tensor), name
            tensors[name] = found.detach()
            names[node] = Weight(name)
        elif node.op == "placeholder":
            names[node] = Ref(node.name)
            input_shape = _shape(node) or ()
        elif node.op == "call_function" and not _says_nothing(node):
            steps.append(_step(node, names, kind=kind))
            names[node] = Ref(node.name)
        elif node.op == "get_attr":
            raise ModelError(f"{kind} has control flow of its own (torch.cond, …), which is not supported")
    output = names[_output(exported.graph, name=str(signature.user_outputs[0]))]
    if not isinstance(output, Ref) or output.name not in {step.name for step in steps}:
        raise ModelError(f"{kind} gives a constant or its own input; there is nothing to compact")
    read = {name for step in steps for name in weights_in(step)}
    parameters = set(signature.inputs_to_parameters.values())
    # The tracer's own name for the batch means nothing to a reader of the file.
    batch = str(input_shape[0])
    return Program(
        input=str(signature.user_inputs[0]),
        input_shape=_renamed(input_shape, batch),
        steps=tuple(replace(s, shape=None if s.shape is None else _renamed(s.shape, batch)) for s in steps),
        output=output.name,
        tensors={name: tensor for name, tensor in tensors.items() if name in read},
        buffers=frozenset(read - parameters),
    )


def _renamed(shape: Shape, batch: str) -> Shape:
    return tuple(size.replace(batch, "batch") if isinstance(size, str) else size for size in shape)


def _output(graph: fx.Graph, *, name: str) -> fx.Node:
    """What the user gets; a network that writes over its own input has that among the graph's results too."""
    results = graph.output_node().args[0]
    assert isinstance(results, tuple | list)
    (found,) = [node for node in results if isinstance(node, fx.Node) and node.name == name][:1]
    return found


def _says_nothing(node: fx.Node) -> bool:
    """Checks of sizes, which the tracer adds; they give no value."""
    return isinstance(node.target, torch._ops.OpOverload) and not node.target._schema.returns


def _step(node: fx.Node, names: Mapping[fx.Node, Argument], *, kind: str) -> Step:
    def argument(value: object) -> Argument:
        if isinstance(value, fx.Node):
            return names[value]
        if isinstance(value, list | tuple):
            return tuple(argument(item) for item in value)
        if isinstance(value, torch.device):
            return "cpu"
        if value is None or isinstance(value, bool | int | float | str | torch.dtype | torch.memory_format):
            return value
        raise ModelError(f"{kind}: {node.target} has an argument {value!r} that cannot be stored")

    target = node.target
    if target is torch.ops.aten._native_batch_norm_legit_no_training.default:
        # What functionalisation makes of a norm; its first result is all that is used, and the next step takes it.
        x, weight, bias, mean, variance, momentum, eps = (argument(value) for value in node.args)
        given = (x, weight, bias, mean, variance, False, momentum, eps, False)
        target = torch.ops.aten.batch_norm.default
        keys = [a.name for a in target._schema.arguments]
        return Step(node.name, str(target), MappingProxyType(dict(zip(keys, given, strict=True))), _shape(node))
    if target is operator.getitem and _is_norm(node.args[0]):
        alias = {"self": argument(node.args[0])}
        return Step(node.name, "aten.alias.default", MappingProxyType(alias), _shape(node))
    op = str(target)
    if not isinstance(target, torch._ops.OpOverload) and getattr(target, "__module__", None) == "_operator":
        op = f"operator.{getattr(target, '__name__', '')}"
    try:
        callable_named(op)
    except ModelError:
        raise ModelError(f"{kind} needs {op}, which is not supported") from None
    if isinstance(target, torch._ops.OpOverload):
        keys = [a.name for a in target._schema.arguments]
        arguments = dict(zip(keys, map(argument, node.args), strict=False))
        arguments |= {key: argument(value) for key, value in node.kwargs.items()}
    else:
        arguments = {str(position): argument(value) for position, value in enumerate(node.args)}
    return Step(node.name, op, MappingProxyType(arguments), _shape(node))


def _is_norm(value: object) -> bool:
    return isinstance(value, fx.Node) and value.target is torch.ops.aten._native_batch_norm_legit_no_training.default


def _shape(node: fx.Node) -> Shape | None:
    value = node.meta.get("val")
    if isinstance(value, tuple | list) and _is_norm(node):
        value = value[0]
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return None
    return tuple(size if isinstance(size, int) else str(size) for size in value.shape)
