"""Whether devices that plan for their memory live with it: requests answered under a limit of the system's.

`python -m benchmarks.budget.limits make|answer MODEL FOLDER [BUDGET]` is the process that makes the requests and says
the least budget that would do, or the device that has `BUDGET` bytes beyond what it holds when it starts.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from benchmarks.processes import ROOT
from hedgerow.assembly import exchange_of, mask_of, model_of
from hedgerow.budget import GUARD, Refusal
from hedgerow.client.answer import Workshop
from hedgerow.client.memory import ClientState
from hedgerow.client.planning import Planner, Room, base_bytes, limited, tighten, warm
from hedgerow.codec import Header, encode_payload
from hedgerow.config import Experiment
from hedgerow.data import Dataset, Samples
from hedgerow.errors import HedgerowError, OverrunError, RunError
from hedgerow.exchange import growth_of
from hedgerow.native.library import status
from hedgerow.pruning import Mask, prunable_tensors
from hedgerow.sparse import float_tensors, read_vector
from hedgerow.telemetry.memory import unmeasured
from hedgerow.wire.launch import HUGE_PAGES, QUIET_PROFILER

__all__ = ["MODELS", "REQUESTS", "limits"]

MODELS = ("mlp", "conv4", "resnet18", "mobilenetv2")
REQUESTS = ("mask", "changed mask", "gradients")
"""What each of them brings or asks for; all of them train."""
_FACTORS = (1.0, 1.5, 3.0)
"""Budgets, as multiples of the least that the plan says would do."""
_SHAPE, _CLASSES, _DENSITY, _BATCH, _STEPS = (3, 32, 32), 10, 0.05, 16, 2
_MOST_SECONDS = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lived:
    """How a device did. Attributes: requests that it answered, the most bytes that it held, why it failed."""

    answered: int
    held: int
    reason: str = ""


def limits(*, quick: bool, console: Console) -> dict[str, float]:
    """Runs devices of each model at several budgets.

    Returns:
        `limit.MODEL.survived`: fraction of the requests that were answered, at all budgets; `.budget_bytes`: the least
        budget; `.held_bytes`: what was resident of its data at most with it, beyond what was before the first
        request; `.held_share`: the largest part of a budget that was.
    """
    if base_bytes() is None:
        console.print("limits: left out, because this system does not tell a process's data, and cannot limit it")
        return {}
    figures: dict[str, float] = {}
    for model in MODELS[1:2] if quick else MODELS:
        with tempfile.TemporaryDirectory(prefix="hedgerow-bench-") as name:
            folder = Path(name)
            done = _child("make", model, folder)
            if done.returncode != 0:
                raise RunError(f"the benchmark's process to make requests ended badly: {done.stderr[-500:].strip()}")
            least: int = json.loads(done.stdout)
            found = {}
            for factor in _FACTORS[:1] if quick else _FACTORS:
                found[factor] = lived = _device(model, folder, budget=int(factor * least))
                if lived.reason:
                    console.print(f"{model} with {factor * least / 1e6:.0f} MB: {lived.reason}")
        figures |= {
            f"limit.{model}.survived": sum(o.answered for o in found.values()) / (len(REQUESTS) * len(found)),
            f"limit.{model}.budget_bytes": least,
            f"limit.{model}.held_bytes": found[1.0].held,
            f"limit.{model}.held_share": max(lived.held / (factor * least) for factor, lived in found.items()),
        }
    return figures


def _device(model: str, folder: Path, *, budget: int) -> _Lived:
    done = _child("answer", model, folder, str(budget))
    # Who died said how far it came: a line for each request.
    told = [json.loads(line) for line in done.stdout.splitlines()]
    reasons = [one["reason"] for one in told if one["reason"]]
    if done.returncode != 0:
        reasons.append(f"it ended with {done.returncode}: {done.stderr[-300:].strip()}")
    answered = sum(not one["reason"] for one in told)
    return _Lived(answered=answered, held=max((one["held"] for one in told), default=0), reason="; ".join(reasons))


def _child(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.budget.limits", *map(str, arguments)],
        cwd=ROOT,
        # As a device's worker has it.
        env={**HUGE_PAGES, **os.environ, **QUIET_PROFILER, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=_MOST_SECONDS,
    )


def _experiment(model: str) -> Experiment:
    settings: dict[str, Any] = {
        "recipe": "limits",
        "representation": "weights",
        "model": {"name": model},
        "pruning": {"density": _DENSITY, "saliency": "random", "rule": "uniform"},
        "adjustment": {"every": 3},
        "fleet": {"clients": 1, "cohort": 1},
        "training": {
            "epochs": 1,
            "steps": _STEPS,
            "batch_size": _BATCH,
            "kernels": "native" if status().available else "dense",
        },
        "budget": {"plan": True, "hard": True},
    }
    return Experiment.model_validate(settings)


def _dataset() -> Dataset:
    generator, count = np.random.default_rng(0), _STEPS * _BATCH
    images = generator.integers(0, 256, (count, *_SHAPE), dtype=np.uint8)
    samples = Samples(images, np.arange(count) % _CLASSES)
    return Dataset("noise", train=samples, test=samples, classes=_CLASSES, mean=(0.5,) * 3, std=(0.25,) * 3)


def _made(model: str, folder: Path) -> int:
    """Writes the requests; gives the least budget that would do, in bytes."""
    experiment, dataset = _experiment(model), _dataset()
    dense = model_of(experiment, dataset)
    exchange = exchange_of(experiment, dense)
    weights = {name: weight.detach() for name, weight in prunable_tensors(dense).items()}
    first = mask_of(experiment, dense, _SHAPE)
    second = Mask({name: _exchanged(bits) for name, bits in first.items()})
    counts = {name: max(1, count // 5) for name, count in second.layer_kept().items()}
    masks = [exchange.encode_mask(first), exchange.encode_mask(second, base=first), None]
    for number, mask in enumerate((first, second, second)):
        header = Header(bytes.fromhex(experiment.digest()), number + 1, mask.digest)
        if number == 0:
            header = replace(header, tensors=exchange.architecture.tensors())
        if number == 2:
            header = replace(header, growth=growth_of(counts, mask=mask))
        kept, floats = exchange.representation.initial(weights, mask), read_vector(float_tensors(dense))
        layers = list(mask.layer_kept().values())
        version = exchange.version(number + 1, mask.digest, kept=kept, floats=floats, layers=layers)
        said = exchange.encode(version, base=None, layers=layers)
        sections = [section for section in (masks[number], *said) if section is not None]
        (folder / str(number)).write_bytes(encode_payload(header, sections))
    planner = Planner(experiment, model=lambda: model_of(experiment, dataset, hollow=True), input_shape=_SHAPE)
    refused = planner.found([first.layer_kept()], Room(0))
    assert isinstance(refused, Refusal), "nobody trains in nothing"
    return refused.least


def _exchanged(bits: torch.Tensor) -> torch.Tensor:
    """Another pattern that keeps as many: the first tenth of the kept weights goes, and the first pruned ones come."""
    flat = bits.reshape(-1).clone()
    kept, pruned = flat.nonzero().view(-1), (~flat).nonzero().view(-1)
    count = min(len(kept) // 10, len(pruned))
    flat[kept[:count]] = False
    flat[pruned[:count]] = True
    return flat.view(bits.shape)


def _answer(model: str, folder: Path, *, budget: int) -> None:
    """A device's life; a line on each request as JSON."""
    workshop, state, guard = Workshop(_experiment(model), dataset=_dataset()), ClientState(), GUARD
    tighten()
    warm()
    base, resident, files = base_bytes(), _status("VmRSS"), _status("RssFile")
    assert base is not None
    for number in range(len(REQUESTS)):
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        reason = ""
        try:
            request = (folder / str(number)).read_bytes()
            with limited(base + budget), unmeasured():
                answer = workshop.answer(request, client=0, state=state, room=Room(budget, guard))
            state = answer.state
        except HedgerowError as error:
            reason = f"{REQUESTS[number]}: {error}"
            # As a device's app does.
            guard = error.guard if isinstance(error, OverrunError) else guard
        # The limit is one of data. What else is resident are pages of libraries' files, which stay once they are read.
        held = max(0, _status("VmHWM") - resident - max(0, _status("RssFile") - files))
        print(json.dumps({"reason": reason, "held": held}), flush=True)


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def main(task: str, model: str, folder: str, budget: str = "0") -> None:
    """The child's task; see the module."""
    torch.set_num_threads(1)
    if task == "make":
        print(json.dumps(_made(model, Path(folder))))
    else:
        _answer(model, Path(folder), budget=int(budget))


if __name__ == "__main__":
    main(*sys.argv[1:])
