"""The model that a run delivers: one small safetensors file, readable without hedgerow.

For each prunable tensor NAME the file holds one of

* `NAME` – the dense tensor, where nothing was pruned;
* `NAME.mask` (packed bits, True = kept) and `NAME.values` – the kept weights, row-major;
* `NAME.mask`, `NAME.signs` (packed bits, True = positive) and `NAME.magnitude` (1 value) – where all kept weights have
  one size.

Bits are packed eight a byte, most significant first, padded with zeros. All other entries of the state dict stand
under their own names. The file's metadata has one key, `hedgerow`: JSON with the format, the shapes, the mask's digest,
and the experiment, its seed included.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from hedgerow.errors import ModelError
from hedgerow.pruning import Mask

__all__ = ["ARTIFACT_FORMAT", "artifact_bytes", "load_artifact"]

ARTIFACT_FORMAT = "hedgerow-model-1"


def artifact_bytes(state_dict: Mapping[str, Tensor], mask: Mask, *, metadata: Mapping[str, object]) -> bytes:
    """The file's bytes.

    Args:
        state_dict: of the dense model, 0 wherever the mask prunes.
        mask: the kept positions.
        metadata: what JSON can hold, to store beside the tensors.
    """
    tensors = {name: t.detach().contiguous() for name, t in state_dict.items() if name not in mask}
    for name, bits in mask.items():
        weight = state_dict[name].detach()
        if bool(bits.all()):
            tensors[name] = weight.contiguous()
        else:
            tensors |= _pruned(name, weight, bits)
    shapes = {name: list(state_dict[name].shape) for name in mask}
    described = {**metadata, "format": ARTIFACT_FORMAT, "shapes": shapes, "mask_digest": mask.digest.hex()}
    # safetensors writes several keys in any order, and the same model has to give the same bytes.
    return save(tensors, metadata={"hedgerow": json.dumps(described)})


def load_artifact(path: Path) -> dict[str, Tensor]:
    """The dense state dict of a stored model, ready for `load_state_dict`.

    Raises:
        ModelError: the file is missing, damaged, or of another format.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {}).get("hedgerow", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict: no iteration
    except (OSError, SafetensorError, json.JSONDecodeError) as error:
        raise ModelError(f"{path}: not a readable model file: {error}") from None
    found = metadata.get("format") if isinstance(metadata, dict) else None
    if found != ARTIFACT_FORMAT:
        raise ModelError(f"{path}: format {found!r}; this version reads {ARTIFACT_FORMAT}")
    try:
        for name, shape in metadata["shapes"].items():
            if f"{name}.mask" in tensors:
                tensors[name] = _dense(name, tensors, tuple(shape))
    except (LookupError, ValueError, RuntimeError, TypeError, AttributeError) as error:
        raise ModelError(f"{path}: damaged ({error!r}); get the file again") from None
    return tensors


def _pruned(name: str, weight: Tensor, bits: Tensor) -> dict[str, Tensor]:
    values = weight[bits]
    entries = {f"{name}.mask": _packed(bits)}
    if values.numel() and bool((values.abs() == values[0].abs()).all()):
        return entries | {f"{name}.signs": _packed(values > 0), f"{name}.magnitude": values[:1].abs()}
    return entries | {f"{name}.values": values}


def _dense(name: str, tensors: dict[str, Tensor], shape: tuple[int, ...]) -> Tensor:
    bits = _unpacked(tensors.pop(f"{name}.mask"), int(np.prod(shape))).view(shape)
    dense = torch.zeros(shape)
    if f"{name}.values" in tensors:
        dense[bits] = tensors.pop(f"{name}.values")
    else:
        signs = _unpacked(tensors.pop(f"{name}.signs"), int(bits.sum()))
        size = tensors.pop(f"{name}.magnitude")
        dense[bits] = torch.where(signs, size, -size)
    return dense


def _packed(bits: Tensor) -> Tensor:
    return torch.from_numpy(np.packbits(bits.numpy().reshape(-1)))


def _unpacked(packed: Tensor, count: int) -> Tensor:
    if packed.numel() != (count + 7) // 8:
        raise ValueError(f"{count} bits in {packed.numel()} bytes")
    return torch.from_numpy(np.unpackbits(packed.numpy(), count=count).astype(np.bool_))
