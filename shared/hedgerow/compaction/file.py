"""A compact network as one safetensors file, and back.

The tensors stand under the names that they have in the model. The file's metadata has one key, `hedgerow`: JSON with

* `format`: ``hedgerow-compact-1``;
* `input`: `name` and `shape` of what the network takes, the batch as a text; `output`: the name of the result;
* `steps`: in order, each with `name`, `op` (an ATen operator), `arguments` and the `shape` of its value. In the
  arguments ``{"tensor": NAME}`` is a tensor of the file and ``{"value": NAME}`` the input or an earlier step's value;
* `buffers`: which tensors are no parameters;
* and whatever the writer adds, such as the run's experiment and how images are normalised.

A network that could not be traced has its whole state dict in the file, and the format ``hedgerow-dense-1`` with
`model`, `norm`, `input_shape` and `classes` in place of the steps.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from hedgerow.compaction.program import Argument, Program, Ref, Step, Weight, callable_named, module_of
from hedgerow.errors import ConfigError, ModelError
from hedgerow.models import build_model, model_names

__all__ = ["COMPACT_FORMAT", "DENSE_FORMAT", "compact_bytes", "dense_bytes", "load"]

COMPACT_FORMAT = "hedgerow-compact-1"
DENSE_FORMAT = "hedgerow-dense-1"


def compact_bytes(program: Program, *, metadata: Mapping[str, object]) -> bytes:
    """The bytes of a file that holds a traced network; the same network gives the same ones.

    Args:
        program: the network.
        metadata: what JSON can hold, to store beside it.
    """
    described = {
        **metadata,
        "format": COMPACT_FORMAT,
        "input": {"name": program.input, "shape": list(program.input_shape)},
        "output": program.output,
        "steps": [
            {
                "name": step.name,
                "op": step.op,
                "arguments": {key: _encoded(value) for key, value in step.arguments.items()},
                "shape": None if step.shape is None else list(step.shape),
            }
            for step in program.steps
        ],
        "buffers": sorted(program.buffers),
    }
    return _saved(program.tensors, described)


def dense_bytes(state_dict: Mapping[str, Tensor], *, metadata: Mapping[str, object]) -> bytes:
    """The bytes of a file that holds a network's state dict as it is.

    Args:
        state_dict: all of it.
        metadata: `model`, `norm`, `input_shape` and `classes` of `hedgerow.models.build_model`, and what else is to be
            stored.
    """
    return _saved(state_dict, {**metadata, "format": DENSE_FORMAT})


def load(path: Path, *, model: nn.Module | None = None) -> nn.Module:
    """The network of a file that `hedgerow export --to safetensors` wrote: (N, C, H, W) float32 → one row an image.

    It is in eval mode, and its tensors are those of the file under their own names.

    Args:
        path: the file.
        model: only for a network of your own that could not be traced (the export said so): the model to fill with
            the file's tensors, as your own function builds it. It is changed and returned.

    Raises:
        ModelError: the file is missing, damaged or of another format; or it needs `model`, or does not fit it.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {}).get("hedgerow", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict: no iteration
    except (OSError, SafetensorError, json.JSONDecodeError, RecursionError) as error:
        raise ModelError(f"{path}: not a readable model file: {error}") from None
    found = metadata.get("format") if isinstance(metadata, dict) else None
    if found == DENSE_FORMAT:
        return _filled(path, metadata, tensors, model=model)
    if found != COMPACT_FORMAT:
        raise ModelError(
            f"{path}: format {found!r}; this reads {COMPACT_FORMAT}, and hedgerow.artifact reads the model of a run"
        )
    try:
        program = _program(metadata, tensors)
        module = module_of(program)
        # Nothing is computed: only shapes have to fit each other.
        meta = {name: tensor.to("meta") for name, tensor in module.state_dict().items()}
        with torch.no_grad():
            result = torch.func.functional_call(module, meta, torch.zeros(2, *_image(program), device="meta"))
        if not isinstance(result, Tensor):
            raise TypeError("the result is no tensor")
    except Exception as error:
        # The operators' own errors are of any kind.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"{path}: damaged ({reason}); export it again") from None
    return module


def _saved(tensors: Mapping[str, Tensor], described: Mapping[str, object]) -> bytes:
    # Two names of one storage are refused by safetensors.
    copies = {name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    return save(copies, metadata={"hedgerow": json.dumps(described)})


def _filled(
    path: Path, metadata: Mapping[str, Any], tensors: dict[str, Tensor], *, model: nn.Module | None
) -> nn.Module:
    try:
        name, shape = metadata["model"], tuple(metadata["input_shape"])
        if model is None and name not in model_names():
            # Not even looked for: a file must not choose what code is run.
            raise ModelError(f"{path}: holds only the tensors of {name}; pass load(path, model={name}(…)) to fill it")
        if model is None:
            model = build_model(name, input_shape=shape, classes=metadata["classes"], norm=metadata["norm"], seed=0)
        model.load_state_dict(tensors)
    except (LookupError, TypeError, RuntimeError, ConfigError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"{path}: does not fit its model ({reason})") from None
    return model.eval()


def _encoded(value: Argument) -> object:
    match value:
        case Ref(name):
            return {"value": name}
        case Weight(name):
            return {"tensor": name}
        case tuple():
            return [_encoded(item) for item in value]
        case torch.dtype():
            return {"dtype": str(value).removeprefix("torch.")}
        case torch.memory_format():
            return {"memory_format": str(value).removeprefix("torch.")}
        case _:
            return value


def _decoded(value: object) -> Argument:
    if isinstance(value, list):
        return tuple(_decoded(item) for item in value)
    if isinstance(value, dict):
        ((kind, name),) = value.items()
        match kind:
            case "value":
                return Ref(str(name))
            case "tensor":
                return Weight(str(name))
            case "dtype" | "memory_format":
                found: object = getattr(torch, str(name))
                if isinstance(found, torch.dtype | torch.memory_format):
                    return found
        raise ValueError(f"argument {value!r}")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError(f"argument {value!r}")


def _program(metadata: Mapping[str, Any], tensors: dict[str, Tensor]) -> Program:
    steps = tuple(
        Step(
            name=str(step["name"]),
            op=str(step["op"]),
            arguments=MappingProxyType({str(key): _decoded(value) for key, value in step["arguments"].items()}),
            shape=None if step["shape"] is None else tuple(step["shape"]),
        )
        for step in metadata["steps"]
    )
    for step in steps:
        callable_named(step.op)
    return Program(
        input=str(metadata["input"]["name"]),
        input_shape=tuple(metadata["input"]["shape"]),
        steps=steps,
        output=str(metadata["output"]),
        tensors=tensors,
        buffers=frozenset(metadata["buffers"]),
    )


def _image(program: Program) -> tuple[int, int, int]:
    channels, height, width = program.input_shape[1:]
    return int(channels), int(height), int(width)
