"""What is exported: the model of a finished run, and images to check a file with."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import safe_open
from torch import Tensor, nn

from hedgerow.artifact import load_artifact
from hedgerow.assembly import dataset_of
from hedgerow.config import Experiment
from hedgerow.data import Dataset
from hedgerow.errors import HedgerowError, ModelError, RunError
from hedgerow.models import build_model
from hedgerow.seeds import derive_seed

__all__ = ["Source", "model_file", "read_source"]

_IMAGES = 16


@dataclass(frozen=True, slots=True)
class Source:
    """A finished run's model.

    Attributes:
        model: in eval mode, 0 wherever the run's mask prunes.
        name: of the model, as `hedgerow.models.build_model` takes it.
        input_shape: (C, H, W).
        images: (N, C, H, W) float32, normalised, to compare outputs on.
        images_text: what they are.
        metadata: what an exported file says of itself, as JSON can hold it.
    """

    model: nn.Module
    name: str
    input_shape: tuple[int, int, int]
    images: Tensor
    images_text: str
    metadata: Mapping[str, object]


def model_file(run: Path) -> Path:
    """The file of a run's model: `run` itself, or the one in its folder.

    Raises:
        RunError: there is none, and why.
    """
    if run.is_file():
        return run
    path = run / "model.safetensors"
    if path.is_file():
        return path
    if not run.exists():
        raise RunError(f"{run}: there is no such run; name its folder, such as runs/0123456789ab")
    if (run / "experiment.toml").exists():
        raise RunError(
            f"{run}: the run is not done and has no model yet; the command that started it goes on with it, or "
            f"`hedgerow simulate {run / 'experiment.toml'}`"
        )
    raise RunError(f"{run} is not the folder of a run; name one that holds a model.safetensors")


def read_source(path: Path) -> Source:
    """Reads the model of a run, and its data set where that is at hand.

    Args:
        path: as `model_file` gives it.

    Raises:
        ModelError: the file is damaged or of another format, or its model cannot be built here.
    """
    tensors = load_artifact(path)
    try:
        with safe_open(path, framework="pt") as file:
            stored: dict[str, Any] = json.loads(file.metadata()["hedgerow"])
        name, norm = str(stored["model"]), stored["norm"]
        channels, height, width = map(int, stored["input_shape"])
        shape, classes = (channels, height, width), int(stored["classes"])
    except (LookupError, ValueError, TypeError) as error:
        raise ModelError(f"{path}: does not say what its model is ({error!r}); get the file again") from None
    model = build_model(name, input_shape=shape, classes=classes, norm=norm, seed=0)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise ModelError(
            f"{path}: its tensors are not those of {name} ({reason}); has the model changed since?"
        ) from None
    dataset = _dataset(stored, shape=shape)
    metadata: dict[str, object] = {
        "hedgerow": version("hedgerow"),
        "torch": version("torch"),
        **{
            key: stored[key]
            for key in ("model", "norm", "input_shape", "classes", "seed", "experiment")
            if key in stored
        },
    }
    if dataset is not None:
        metadata |= {"mean": dataset.mean, "std": dataset.std, "class_names": dataset.class_names}
    images, text = _images(dataset, shape=shape)
    return Source(model=model.eval(), name=name, input_shape=shape, images=images, images_text=text, metadata=metadata)


def _dataset(stored: Mapping[str, Any], *, shape: tuple[int, int, int]) -> Dataset | None:
    """The run's data set, which a machine that only fetched the model need not have."""
    with contextlib.suppress(HedgerowError, ValidationError):
        dataset = dataset_of(Experiment.model_validate(stored.get("experiment")))
        return dataset if dataset.input_shape == shape else None
    return None


def _images(dataset: Dataset | None, *, shape: tuple[int, int, int]) -> tuple[Tensor, str]:
    generator = torch.Generator().manual_seed(derive_seed(0, "export"))
    noise = torch.randn(_IMAGES, *shape, generator=generator)
    if dataset is None:
        return noise, f"{_IMAGES} images of noise"
    images = dataset.normalised(dataset.test.images[:_IMAGES])
    return torch.cat([images, noise]), f"{len(images)} test images and {_IMAGES} of noise"
