"""A round's state as the bytes of a file, and back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from hedgerow.errors import HedgerowError, RunError
from hedgerow.pruning import Mask
from hedgerow.server.state import RoundState

__all__ = ["checkpoint_bytes", "read_checkpoint"]

_PLAIN = "hedgerow-checkpoint-3"
_LEVELS = "hedgerow-checkpoint-4"
"""Where there are levels, or nodes were asked for theirs; without any of it a checkpoint is what it was before."""
_MOST_LEVELS = 255


def checkpoint_bytes(state: RoundState) -> bytes:
    """The bytes of a checkpoint; the same state gives the same ones."""
    levelled = bool(state.nests or state.plans)
    metadata = {"format": _LEVELS if levelled else _PLAIN, "round": state.round, "since": state.since}
    metadata |= {"shapes": state.mask.shapes} | ({"trained": state.trained} if levelled else {})
    return save(
        {
            "mask": np.frombuffer(state.mask.packed(), dtype=np.uint8),
            "kept": state.kept,
            "floats": state.floats,
            "nodes": np.array(sorted(state.held), dtype=np.uint64),
            "versions": np.array([state.held[node] for node in sorted(state.held)], dtype=np.uint32),
            **(_levels(state) if levelled else {}),
        },
        metadata={"hedgerow": json.dumps(metadata)},
    )


def _levels(state: RoundState) -> dict[str, npt.NDArray[Any]]:
    kept, floats = state.kept.size, state.floats.size
    nests = [np.packbits(nest) for nest in state.nests]
    return {
        "nests": np.array(nests, dtype=np.uint8).reshape(len(nests), (kept + 7) // 8),
        "own_floats": np.array(state.own_floats, dtype=np.float32).reshape(len(state.own_floats), floats),
        "planned": np.array(sorted(state.plans), dtype=np.uint64),
        "levels": np.array([state.plans[node] for node in sorted(state.plans)], dtype=np.uint8),
    }


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
        form = metadata.get("format")
        if form not in (_PLAIN, _LEVELS):
            raise RunError(f"format {form!r}, expected {_PLAIN} or {_LEVELS}")
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
        state = RoundState(round=round, mask=mask, kept=kept, floats=floats, held=held, since=since)
        return state if form == _PLAIN else _with_levels(state, file, trained=abs(int(metadata["trained"])))


def _with_levels(state: RoundState, file: Any, *, trained: int) -> RoundState:
    packed, own, nodes, levels = (file.get_tensor(name) for name in ("nests", "own_floats", "planned", "levels"))
    kept = state.kept.size
    count = packed.shape[0]
    if packed.dtype != np.uint8 or packed.shape != (count, (kept + 7) // 8) or count >= _MOST_LEVELS:
        raise RunError(f"{packed.shape} bytes for the parts of {kept} kept weights")
    nests = np.unpackbits(packed, axis=1, count=kept).view(np.bool_) if count else np.zeros((0, kept), dtype=np.bool_)
    if (nests[1:] & ~nests[:-1]).any():
        raise RunError("a part that is not inside the one before")
    if own.dtype != np.float32 or own.shape not in ((0, state.floats.size), (count, state.floats.size)):
        raise RunError(f"{own.shape} floats of {count} parts")
    if nodes.dtype != np.uint64 or levels.dtype != np.uint8 or max(levels.max(initial=0), trained) > count:
        raise RunError(f"levels that are not among {count + 1}")
    return replace(
        state,
        nests=tuple(nests),
        own_floats=tuple(own),
        plans=dict(zip(nodes.tolist(), levels.tolist(), strict=True)),
        trained=trained,
    )
