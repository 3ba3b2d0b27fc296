"""Which layers take the native path: where it is faster on this machine, which is measured once and remembered."""

from __future__ import annotations

import math
import platform
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any, Literal, TypeAlias

import torch
from torch import nn

from hedgerow.native.library import status
from hedgerow.sparse.conversion import kernel_layers, set_paths
from hedgerow.sparse.layers import KernelLayer, Path, SparseOther
from hedgerow.sparse.measuring import LayerSeconds, Precision, input_shapes, layer_seconds, step_seconds, undisturbed
from hedgerow.sparse.network import NATIVE_BELOW, KeptNetwork
from hedgerow.sparse.path_cache import remembered

__all__ = ["LayerChoice", "PathChoice", "choose_paths", "processor"]

_VERSION = 1
# A native step stores less; it need not be faster to be the better one.
_AS_FAST = 1.02
# Layers one by one are measured less well than all of them, and changing the layout takes memory.
_CLEARLY_FASTER = 0.97

Source: TypeAlias = Literal["measured", "remembered", "rule", "only"]
"""How paths were chosen: by measuring now or earlier; by density, as nothing can be kept; or there is only one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerChoice:
    """One layer's path.

    Attributes:
        name: of the layer.
        kept: number of its kept weights.
        density: kept fraction of its weight.
        path: what was chosen; `unconverted` where there was nothing to choose.
        native_seconds: forward and backward of the layer alone by the native kernels; None when not measured.
        dense_seconds: the same by the dense path.
    """

    name: str
    kept: int
    density: float
    path: Literal["native", "dense", "unconverted"]
    native_seconds: float | None = None
    dense_seconds: float | None = None

    def line(self) -> str:
        """Why this layer is on the dense path."""
        if self.native_seconds is None or self.dense_seconds is None:
            return f"{self.name} stays dense"
        times = (f"{1000 * seconds:.2f} ms" for seconds in (self.dense_seconds, self.native_seconds))
        return f"{self.name} stays dense: {' against '.join(times)} by native kernels"


@dataclass(frozen=True, slots=True, kw_only=True)
class PathChoice:
    """The paths of a network and why.

    Attributes:
        layers: every layer with kept positions of its own, in order.
        source: how they were chosen.
        step: seconds of a whole step, forward and backward, by how its layers compute: `native`, `dense`, and `mixed`
            where each layer takes what is faster for it alone. Empty when not measured.
        chosen: the one of these that was taken; `rule` without measurements.
        kept: number of all kept weights.
        batch_size: samples of a step.
        precision: of the dense path.
        machine: what the measurement holds for.
        unconverted: modules that stay torch's own, each with the reason.
    """

    layers: tuple[LayerChoice, ...]
    source: Source
    step: Mapping[str, float]
    chosen: str
    kept: int
    batch_size: int
    precision: Precision
    machine: Mapping[str, str | int]
    unconverted: tuple[str, ...]

    @property
    def native_share(self) -> float:
        """Fraction of the kept weights that the native kernels compute with."""
        return sum(layer.kept for layer in self.layers if layer.path == "native") / max(1, self.kept)

    @property
    def step_ratio(self) -> float | None:
        """How many times as long an all-dense step takes as the chosen one; None when not measured."""
        chosen = self.step.get(self.chosen)
        return self.step["dense"] / chosen if chosen else None

    def lines(self) -> list[str]:
        """For people: what was chosen, what it rests on, and what stays dense and why."""
        native = sum(layer.path == "native" for layer in self.layers)
        share = f"{native} of {len(self.layers)} layers, {self.native_share:.0%} of kept weights"
        return [
            f"native kernels compute {share}{self._reason()}",
            *(layer.line() for layer in self.layers if self.chosen == "mixed" and layer.path == "dense"),
            *(f"no native kernels for {reason}" for reason in self.unconverted),
        ]

    def _reason(self) -> str:
        if self.step:
            figures = ", ".join(f"{name} {1000 * seconds:.1f} ms" for name, seconds in self.step.items())
            return f" ({self.source}: a step of {self.batch_size} samples takes {figures})"
        if self.source == "rule":
            return " (by density, since what is measured cannot be kept on this machine)"
        return "" if status().available else f" ({status().reason})"

    def as_record(self) -> dict[str, Any]:
        """For JSON, seconds in float."""
        names = ("name", "kept", "density", "path", "native_seconds", "dense_seconds")
        step = {name: self.step.get(name) for name in ("native", "dense", "mixed")}
        return {
            "layers": [{name: getattr(layer, name) for name in names} for layer in self.layers],
            "source": self.source,
            "step": {**step, "chosen": self.chosen},
            "native_share": self.native_share,
            "step_ratio": self.step_ratio,
            "machine": dict(self.machine),
            "batch_size": self.batch_size,
            "precision": self.precision,
            "unconverted": list(self.unconverted),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Decision:
    paths: tuple[Path, ...]
    layers: tuple[tuple[float, float] | None, ...]
    step: dict[str, float]
    chosen: str


def choose_paths(
    network: KeptNetwork, input_shape: tuple[int, int, int], *, batch_size: int, precision: Precision
) -> PathChoice:
    """Gives each layer of a network of `auto` kernels the path that is faster on this machine, and says why.

    The first time, layers and steps are measured, which takes some seconds; the decision is kept for this machine,
    kernels, torch, number of threads, precision, batch size and network, whose densities count in steps of 19 %. So it
    is the same every time, whatever the machine is busy with. Values, gradients, running statistics and torch's random
    state are left as they were.

    Args:
        network: its layers' paths are set; one that was made with `kernels="dense"` has nothing to choose.
        input_shape: (C, H, W) of one sample.
        batch_size: samples of a training step.
        precision: `bf16`: the dense path runs under autocast.
    """
    module = network.module
    layers = kernel_layers(module)
    machine = _machine()

    def choice(source: Source, decision: _Decision | None = None) -> PathChoice:
        seconds = iter(decision.layers if decision else ())
        return PathChoice(
            layers=tuple(_layers(module, seconds)),
            source=source,
            step=decision.step if decision else {},
            chosen=decision.chosen if decision else "rule",
            kept=sum(tensor.numel() for tensor in network.kept),
            batch_size=batch_size,
            precision=precision,
            machine=machine,
            unconverted=network.unconverted,
        )

    if not network.converted or not layers:
        return choice("only")
    found = remembered(
        _key(module, layers, machine, input_shape=input_shape, batch_size=batch_size, precision=precision),
        read=lambda record: _read(record, count=len(layers)),
        measure=lambda: _measure(module, layers, (batch_size, *input_shape), precision=precision),
    )
    if found is None:
        path: Path = "native" if _density(layers) <= NATIVE_BELOW else "dense"
        set_paths(module, dict.fromkeys(layers, path))
        return choice("rule")
    decision, fresh = found
    set_paths(module, dict(zip(layers, decision.paths, strict=True)))
    return choice("measured" if fresh else "remembered", decision)


def processor() -> str:
    """What this machine computes with, as far as the system tells."""
    try:
        text = FilePath("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    match = re.search(r"^(?:model name|Model|Hardware)\s*:\s*(.+)$", text, re.MULTILINE)
    return match[1].strip() if match else platform.processor() or platform.machine()


def _machine() -> dict[str, str | int]:
    return {
        "processor": processor(),
        "isa": status().isa,
        "kernels": status().digest,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def _key(
    module: nn.Module,
    layers: Mapping[str, KernelLayer],
    machine: Mapping[str, str | int],
    *,
    input_shape: tuple[int, int, int],
    batch_size: int,
    precision: Precision,
) -> dict[str, Any]:
    return {
        "version": _VERSION,
        "machine": dict(machine),
        "input": [batch_size, *input_shape],
        "precision": precision,
        "modules": [f"{name}: {type(m).__name__} {_settings(m)}" for name, m in module.named_modules()],
        "layers": [_signature(layer) for layer in layers.values()],
    }


def _settings(module: nn.Module) -> str:
    # What layers print differs with every mask; their signature says the rest.
    return "" if isinstance(module, KernelLayer | SparseOther) else module.extra_repr()


def _signature(layer: KernelLayer) -> list[Any]:
    geometry, storage = layer.geometry, layer.activations
    settings = [geometry.stride, geometry.padding, geometry.dilation, geometry.groups]
    stores = [type(storage.inputs).__name__, type(storage.values).__name__]
    signed = layer.magnitude is not None
    shown = [list(layer.dense_shape), settings, _bucket(layer), signed, layer.bias is not None, stores]
    # What was measured before there were such layers stays known.
    return [*shown, "standard"] if layer.standard else shown


def _bucket(layer: KernelLayer) -> int | None:
    kept = layer.trained.numel()
    return round(4 * math.log2(kept / layer.dense_shape.numel())) if kept else None


def _density(layers: Mapping[str, KernelLayer]) -> float:
    sizes = sum(layer.dense_shape.numel() for layer in layers.values())
    return sum(layer.trained.numel() for layer in layers.values()) / max(1, sizes)


def _measure(
    module: nn.Module, layers: Mapping[str, KernelLayer], shape: tuple[int, ...], *, precision: Precision
) -> dict[str, Any]:
    with undisturbed(module):
        images = torch.randn(shape)
        inputs = input_shapes(module, images)
        # A layer that was not reached does not matter.
        seconds = {n: layer_seconds(layers[n], size, precision=precision) for n, size in inputs.items()}
        everywhere: tuple[Path, ...] = ("native", "dense")
        candidates: dict[str, dict[str, Path]] = {path: dict.fromkeys(layers, path) for path in everywhere}
        mixed: dict[str, Path] = {n: _faster(seconds[n]) if n in seconds else "native" for n in layers}
        # What the layers promise alone is the most that mixing can bring.
        alone = sum(native for native, _, _ in seconds.values())
        best = sum(min(native, dense + change) for native, dense, change in seconds.values())
        if mixed not in candidates.values() and best < alone * _CLEARLY_FASTER:
            candidates["mixed"] = mixed
        steps = step_seconds(module, images, candidates, precision=precision)
    pure = "native" if steps["native"] <= steps["dense"] * _AS_FAST else "dense"
    chosen = "mixed" if steps.get("mixed", math.inf) < steps[pure] * _CLEARLY_FASTER else pure
    return {
        "paths": list(candidates[chosen].values()),
        "layers": [list(seconds[n][:2]) if n in seconds else None for n in layers],
        "step": steps,
        "chosen": chosen,
    }


def _faster(seconds: LayerSeconds) -> Path:
    native, dense, change = seconds
    return "dense" if dense + change < native else "native"


def _read(record: Any, *, count: int) -> _Decision:
    """A decision from JSON; ValueError, KeyError or TypeError where it is none for `count` layers."""
    paths, layers, step = tuple(record["paths"]), tuple(record["layers"]), dict(record["step"])
    if len(paths) != count or len(layers) != count or not set(paths) <= {"native", "dense"}:
        raise ValueError("the decision is for another network")
    seconds = tuple(None if pair is None else (float(pair[0]), float(pair[1])) for pair in layers)
    steps = {str(name): float(value) for name, value in step.items()}
    chosen = str(record["chosen"])
    if chosen not in steps or "dense" not in steps or min(steps.values()) <= 0:
        raise ValueError("the decision has no times")
    return _Decision(paths=paths, layers=seconds, step=steps, chosen=chosen)


def _layers(module: nn.Module, seconds: Iterator[tuple[float, float] | None]) -> Iterator[LayerChoice]:
    for name, layer in module.named_modules():
        if not isinstance(layer, KernelLayer):
            continue
        kept = layer.trained.numel()
        density = kept / max(1, layer.dense_shape.numel())
        if isinstance(layer, SparseOther):
            yield LayerChoice(name=name, kept=kept, density=density, path="unconverted")
            continue
        native, dense = next(seconds, None) or (None, None)
        yield LayerChoice(
            name=name, kept=kept, density=density, path=layer.path, native_seconds=native, dense_seconds=dense
        )
