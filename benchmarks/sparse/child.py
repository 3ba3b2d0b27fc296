"""`python -m benchmarks.sparse.child`: reads a request in JSON, trains in this process alone, and prints its answer.

A request names the kind of trainer, its case, and the file of its packed mask. With `limit_bytes`, two steps are
trained under that limit of data beyond what the process holds when torch is there; without, memory is measured. Kind
`drift` names steps and seeds instead.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

from benchmarks.sparse.drift import loss_drift
from benchmarks.sparse.memory import held_bytes, peak_of, resident_peak, status_bytes
from benchmarks.sparse.networks import SHAPE, Case, Trainer, dense_trainer, model_of, sparse_trainer, training_step
from hedgerow.pruning import Mask, prunable_tensors


def main() -> None:
    """Answers the request on standard input."""
    request = json.load(sys.stdin)
    torch.set_num_threads(1)
    case = Case(**request["case"])
    if request["kind"] == "drift":
        drifts = [loss_drift(case, steps=request["steps"], seed=seed) for seed in range(request["seeds"])]
        print(json.dumps({"drifts": [asdict(drift) for drift in drifts]}))
        return
    _load_libraries()
    packed = Path(request["mask"]).read_bytes()

    def make() -> Trainer:
        model = model_of(case)
        mask = Mask.unpack(packed, {name: tuple(weight.shape) for name, weight in prunable_tensors(model).items()})
        if request["kind"] == "dense":
            return dense_trainer(model, mask)
        return sparse_trainer(model, mask, lean=request["kind"] == "lean")

    limit = request.get("limit_bytes")
    print(json.dumps(_measured(make) if limit is None else _limited(make, limit)))


def _load_libraries() -> None:
    # What torch and its libraries take for themselves when they are first used is no network's.
    layer = nn.Sequential(nn.Conv2d(SHAPE[0], 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(3600, 2))
    training_step(layer, list(layer.parameters()))(torch.zeros(2, *SHAPE), torch.tensor([0, 1]))


def _measured(make: Callable[[], Trainer]) -> dict[str, int]:
    held, resident = held_bytes(), status_bytes("VmRSS")
    trainer = make()
    trainer.step()
    trainer.step()
    # Before the profiler, whose own memory stays.
    most = resident_peak(trainer.step)
    peak = peak_of(trainer, before=held)
    return {"lasting": peak.lasting, "transient": peak.transient, "resident": most - resident}


def _limited(make: Callable[[], Trainer], limit: int) -> dict[str, str]:
    most = status_bytes("VmData") + limit
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    try:
        trainer = make()
        losses = [trainer.step() for _ in range(2)]
    except (RuntimeError, MemoryError) as error:
        return {"outcome": "out of memory", "message": f"{type(error).__name__}: {error}".splitlines()[0]}
    return {"outcome": "trained", "message": f"losses {losses}"}


if __name__ == "__main__":
    main()
