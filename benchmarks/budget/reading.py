"""What a request takes from its first byte to the reply, phase by phase, in a process that does nothing else.

`python -m benchmarks.budget.reading make|measure MODEL FILE` is that process: it writes a request, or does what a
device does with one, and prints its figures in JSON.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch.nn import functional as F

from benchmarks.processes import ROOT
from hedgerow.assembly import exchange_of, mask_of, model_of, network_of
from hedgerow.codec import Header, decode_payload, encode_payload
from hedgerow.config import Experiment
from hedgerow.data import Dataset, Samples
from hedgerow.errors import RunError
from hedgerow.native.library import status
from hedgerow.pruning import prunable_tensors
from hedgerow.sparse import KeptNetwork, float_tensors, read_vector, write_vector
from hedgerow.wire.launch import HUGE_PAGES, QUIET_PROFILER

__all__ = ["reading"]

T = TypeVar("T")

MODELS = ("conv4", "resnet18")
_SHAPE, _CLASSES, _DENSITY, _MICRO_BATCH = (3, 32, 32), 10, 0.05, 8
_LIMIT = 1 << 30
_MOST_SECONDS = 600

_ENVIRONMENT = {
    **HUGE_PAGES,
    **QUIET_PROFILER,
    "OMP_NUM_THREADS": "1",
    # Every block of a tensor's size is mapped, and given back when it is freed, or the peaks would be others'.
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
}


def reading(*, quick: bool) -> dict[str, float]:
    """Peaks of resident memory while a device reads a request, trains a step and replies.

    Returns:
        `reading.MODEL.PHASE_bytes`: beyond what the process held when it had answered one for a small network. None of
        a phase that the kernel cannot tell, as where there is no /proc.
    """
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="hedgerow-bench-") as folder:
        for model in MODELS[:1] if quick else MODELS:
            request = Path(folder) / model
            # What makes it needs more than what reads it, and would leave a heap full of holes.
            _child("make", model, request)
            found = _child("measure", model, request)
            figures |= {f"reading.{model}.{phase}_bytes": float(size) for phase, size in found.items()}
    return figures


def _child(task: str, model: str, request: Path) -> dict[str, int]:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.budget.reading", task, model, str(request)],
        cwd=ROOT,
        env={**os.environ, **_ENVIRONMENT},
        capture_output=True,
        text=True,
        timeout=_MOST_SECONDS,
    )
    if done.returncode != 0:
        raise RunError(f"the benchmark's process to {task} a request ended badly: {done.stderr[-500:].strip()}")
    found: dict[str, int] = json.loads(done.stdout)
    return found


def _experiment(model: str) -> Experiment:
    return Experiment.model_validate(
        {
            "recipe": "reading",
            "representation": "weights",
            "model": {"name": model},
            # The pattern of which the bytes are the most, so that nothing of it is easy to read.
            "pruning": {"density": _DENSITY, "saliency": "random", "rule": "uniform", "iterations": 1},
            "fleet": {"clients": 1, "cohort": 1},
            # Fixed, as choosing by measurement takes memory of its own, once for a machine.
            "training": {
                "epochs": 1,
                "batch_size": _MICRO_BATCH,
                "recompute": True,
                "kernels": "native" if status().available else "dense",
            },
        }
    )


def _dataset() -> Dataset:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (_MICRO_BATCH, *_SHAPE), dtype=np.uint8)
    samples = Samples(images, np.arange(_MICRO_BATCH) % _CLASSES)
    return Dataset("noise", train=samples, test=samples, classes=_CLASSES, mean=(0.5,) * 3, std=(0.25,) * 3)


def _made(model: str) -> bytes:
    """A request to train a network that its reader does not know."""
    experiment = _experiment(model)
    dense = model_of(experiment, _dataset())
    exchange = exchange_of(experiment, dense)
    mask = mask_of(experiment, dense, _SHAPE)
    weights = {name: weight.detach() for name, weight in prunable_tensors(dense).items()}
    kept, layers = exchange.representation.initial(weights, mask), list(mask.layer_kept().values())
    version = exchange.version(1, mask.digest, kept=kept, floats=read_vector(float_tensors(dense)), layers=layers)
    header = Header(bytes.fromhex(experiment.digest()), 1, mask.digest, tensors=exchange.architecture.tensors())
    return encode_payload(header, [exchange.encode_mask(mask), *exchange.encode(version, base=None, layers=layers)])


class _Peaks:
    """Peaks by phase, of this process; `base` is what it holds when the first phase begins."""

    def __init__(self) -> None:
        gc.collect()
        self.base, self.found = _status("VmRSS"), dict[str, int]()

    def of(self, phase: str, work: Callable[[], T]) -> T:
        """Runs `work`."""
        cleared = False
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
            cleared = True
        result = work()
        if cleared and self.base is not None and (most := _status("VmHWM")) is not None:
            self.found[phase] = most - self.base
        return result


def _status(name: str) -> int | None:
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return 1024 * int(line.split()[1])
    return None


def _answered(model: str, request: bytes) -> dict[str, int]:
    """What a device does with a request, without the profiler that a worker measures with: its own memory stays."""
    experiment, dataset = _experiment(model), _dataset()
    exchange = exchange_of(experiment, model_of(experiment, dataset, hollow=True))
    images, labels = dataset.normalised(dataset.train.images), torch.from_numpy(dataset.train.labels)
    peaks = _Peaks()

    def read() -> Any:
        header, sections = decode_payload(request, limit=_LIMIT)
        mask = exchange.decode_mask(sections)
        assert mask.digest == header.mask_digest
        return header, sections, mask

    header, sections, mask = peaks.of("mask", read)
    layers = tuple(mask.layer_kept().values())
    hollow = model_of(experiment, dataset, hollow=True)
    client = peaks.of("build", functools.partial(network_of, experiment, hollow, mask, input_shape=_SHAPE))
    del mask
    network = client.network

    def start() -> Any:
        version = exchange.decode(sections, round=1, mask_digest=header.mask_digest, base=None, layers=layers)
        for tensors, values in zip((network.kept, network.floats), exchange.starts(version), strict=True):
            write_vector(tensors, values)
        return version

    version = peaks.of("version", start)
    peaks.of("step", lambda: _step(network, images, labels))

    def reply() -> bytes:
        vectors, generator = (read_vector(network.kept), read_vector(network.floats)), np.random.default_rng(0)
        said = exchange.reply(
            *vectors,
            version=version,
            layers=layers,
            memory=(None, None),
            generator=generator,
            draw=lambda count: generator.integers(0, 2**32, count, dtype=np.uint32),
        )
        return encode_payload(header.of_reply(), [one.section for one in said])

    peaks.of("reply", reply)
    return peaks.found


def _step(network: KeptNetwork, images: torch.Tensor, labels: torch.Tensor) -> None:
    network.module.train()
    optimiser = torch.optim.SGD(network.module.parameters(), lr=0.1)
    optimiser.zero_grad(set_to_none=True)
    F.cross_entropy(network.module(images), labels).backward()  # type: ignore[no-untyped-call]  # torch does not type it
    optimiser.step()


def main(task: str, model: str, file: str) -> None:
    """The child's task; see the module."""
    torch.set_num_threads(1)
    if task == "make":
        Path(file).write_bytes(_made(model))
        print("{}")
        return
    # What libraries take for themselves when they are first used is no request's.
    _answered("lenet5", _made("lenet5"))
    print(json.dumps(_answered(model, Path(file).read_bytes())))


if __name__ == "__main__":
    main(*sys.argv[1:])
