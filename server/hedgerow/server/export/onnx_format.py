"""Networks as ONNX, by torch's own exporter, and their outputs by onnxruntime."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import onnxruntime
import torch
from torch import Tensor, nn
from torch.export import Dim

from hedgerow.errors import ModelError

__all__ = ["run", "write"]


def write(model: nn.Module, input_shape: tuple[int, int, int], metadata: Mapping[str, object]) -> bytes:
    """One ONNX file: `images` (batch, C, H, W) float32 → `logits` (batch, classes), for any batch size.

    Args:
        model: in eval mode.
        input_shape: (C, H, W).
        metadata: stored as JSON under the key `hedgerow` of the file's metadata.

    Raises:
        ModelError: the exporter cannot turn this model into ONNX.
    """
    try:
        with _quiet():
            program = torch.onnx.export(
                model,
                (torch.zeros(2, *input_shape),),
                dynamo=True,
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes=({0: Dim("batch")},),
                external_data=False,
                verbose=False,
            )
        assert program is not None
        proto = program.model_proto
        entry = proto.metadata_props.add()
        entry.key, entry.value = "hedgerow", json.dumps(metadata)
        content: bytes = proto.SerializeToString()
    except Exception as error:
        # The exporter wraps whatever went wrong, in the user's model too.
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ModelError(f"the model cannot be written as ONNX ({reason[:200]}); --to safetensors takes any") from error
    return content


def run(content: bytes, images: Tensor) -> Tensor:
    """The outputs (N, classes) that onnxruntime computes on the processor.

    Args:
        content: of an ONNX file.
        images: (N, C, H, W) float32.

    Raises:
        ModelError: it cannot load or run the file.
    """
    try:
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        (outputs,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    except Exception as error:
        raise ModelError(f"onnxruntime does not run the exported file ({error}); report this") from error
    return torch.from_numpy(outputs)


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns of its own future, and of packages that nobody needs."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
