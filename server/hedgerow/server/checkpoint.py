"""A round's state as the bytes of a file, and back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from hedgerow.errors import HedgerowError, RunError
from hedgerow.pruning import Mask
from hedgerow.server.state import RoundState

__all__ = ["checkpoint_bytes", "read_checkpoint"]

_FORMAT = "hedgerow-checkpoint-3"


def checkpoint_bytes(state: RoundState) -> bytes:
    """The bytes of a checkpoint; the same state gives the same ones."""
    return save(
        {
            "mask": np.frombuffer(state.mask.packed(), dtype=np.uint8),
            "kept": state.kept,
            "floats": state.floats,
            "nodes": np.array(sorted(state.held), dtype=np.uint64),
            "versions": np.array([state.held[node] for node in sorted(state.held)], dtype=np.uint32),
        },
        metadata={
            "hedgerow": json.dumps(
                {"format": _FORMAT, "round": state.round, "since": state.since, "shapes": state.mask.shapes},
            )
        },
    )


def read_checkpoint(path: Path) -> RoundState:
    """The state that a checkpoint holds.

    Raises:
        RunError: it is damaged or from another version.
    """
    try:
        return _read(path)
    except (SafetensorError, HedgerowError, OSError, LookupError, ValueError, TypeError, AttributeError) as error:
        raise RunError(
            f"{path}: damaged or from another version ({error}); delete {path.parent} to start again"
        ) from None


def _read(path: Path) -> RoundState:
    with safe_open(path, framework="numpy") as file:
        metadata = json.loads((file.metadata() or {}).get("hedgerow", "{}"))
        if metadata.get("format") != _FORMAT:
            raise RunError(f"format {metadata.get('format')!r}, expected {_FORMAT}")
        mask = Mask.unpack(file.get_tensor("mask").tobytes(), metadata["shapes"])
        kept, floats = file.get_tensor("kept"), file.get_tensor("floats")
        if kept.shape != (mask.kept,) or not kept.dtype == floats.dtype == np.float32:
            raise RunError(f"{kept.size} values of {kept.dtype} for {mask.kept} kept weights")
        round, nodes, versions = int(metadata["round"]), file.get_tensor("nodes"), file.get_tensor("versions")
        if nodes.dtype != np.uint64 or versions.dtype != np.uint32 or versions.max(initial=0) > round:
            raise RunError(f"versions that nodes cannot hold after round {round}")
        since = int(metadata["since"])
        if not 1 <= since <= round + 1:
            raise RunError(f"a mask since version {since} after round {round}")
        held = dict(zip(nodes.tolist(), versions.tolist(), strict=True))
        return RoundState(round=round, mask=mask, kept=kept, floats=floats, held=held, since=since)
