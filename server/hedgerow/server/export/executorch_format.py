"""Networks as ExecuTorch programs for the processor (XNNPACK), and their outputs by its runtime."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from hedgerow.errors import ModelError

__all__ = ["run", "write"]


def write(model: nn.Module, input_shape: tuple[int, int, int], metadata: Mapping[str, object]) -> bytes:
    """One ``.pte`` file whose method `forward` takes one image (1, C, H, W) float32 and gives (1, classes).

    Args:
        model: in eval mode.
        input_shape: (C, H, W).
        metadata: not stored; the format has no place for it.

    Raises:
        ModelError: ExecuTorch cannot take this model.
    """
    # An extra that few install; whoever reads the documentation of all modules must be able to import this one.
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exported = torch.export.export(model, (torch.zeros(1, *input_shape),))
            lowered = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()])
            return bytes(lowered.to_executorch().buffer)
    except Exception as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ModelError(
            f"the model cannot be written for ExecuTorch ({reason[:200]}); --to safetensors takes any"
        ) from error


def run(content: bytes, images: Tensor) -> Tensor:
    """The outputs (N, classes) that ExecuTorch computes, an image at a time.

    Args:
        content: of a ``.pte`` file.
        images: (N, C, H, W) float32.

    Raises:
        ModelError: the runtime cannot load or run the file.
    """
    from executorch.runtime import Runtime

    try:
        program = Runtime.get().load_program(content)
        method = program.load_method("forward")
        # What a method gives is its own memory, and the next call writes over it.
        return torch.cat([method.execute([image[None].contiguous()])[0].clone() for image in images])
    except Exception as error:
        raise ModelError(f"ExecuTorch does not run the exported file ({error}); report this") from error
