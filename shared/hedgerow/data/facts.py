"""What a device must know of the coordinator's data set to train the same network on samples of its own."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from hedgerow.data.dataset import Dataset, Labels, Samples
from hedgerow.errors import DataError

__all__ = ["DataFacts"]

_MAX_VALUES = 1 << 26
"""Of one image; a network for more would not fit on a device."""

_MAX_NAMES = 1 << 14
"""Letters; they go to every device in one frame."""

Side = Annotated[int, Field(ge=1, le=1 << 16)]
Mean = Annotated[float, Field(allow_inf_nan=False)]
ClassName = Annotated[str, Field(min_length=1, max_length=200)]
Std = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class DataFacts(BaseModel):
    """The shape, the classes and the normalisation of a data set, bounded, because they come from elsewhere.

    >>> facts = DataFacts(input_shape=(1, 8, 8), classes=10, mean=(0.5,), std=(0.25,))
    >>> DataFacts.model_validate_json(facts.model_dump_json()) == facts
    True
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    input_shape: tuple[Side, Side, Side]
    """(C, H, W) of one image."""
    classes: Annotated[int, Field(ge=2, le=100_000)]
    mean: Annotated[tuple[Mean, ...], Field(max_length=1 << 16)]
    """A value a channel, of images scaled to [0, 1] where they are uint8."""
    std: Annotated[tuple[Std, ...], Field(max_length=1 << 16)]
    """A value a channel, on the same scale, > 0."""
    bytes: bool = True
    """Whether the images are uint8, which are scaled to [0, 1]; else they are floats that are used as they are."""
    class_names: Annotated[tuple[ClassName, ...], Field(max_length=100_000)] | None = None
    """In the order of the labels; None where the labels are only numbers."""

    @model_validator(mode="after")
    def _consistent(self) -> DataFacts:
        channels = self.input_shape[0]
        if math.prod(self.input_shape) > _MAX_VALUES:
            raise ValueError(f"an image of shape {self.input_shape} has more than {_MAX_VALUES} values")
        if len(self.mean) != channels or len(self.std) != channels:
            raise ValueError(f"{len(self.mean)} means and {len(self.std)} deviations do not fit {channels} channels")
        if self.class_names is not None and len(set(self.class_names)) != self.classes:
            raise ValueError(f"{len(set(self.class_names))} names do not fit {self.classes} classes")
        if sum(map(len, self.class_names or ())) > _MAX_NAMES:
            raise ValueError(f"the names of the classes have more than {_MAX_NAMES} letters together")
        return self

    @classmethod
    def of(cls, dataset: Dataset) -> DataFacts:
        """Those of `dataset`.

        Raises:
            DataError: its images or its number of classes are larger than devices take.
        """
        try:
            return cls(
                input_shape=dataset.input_shape,
                classes=dataset.classes,
                mean=dataset.mean,
                std=dataset.std,
                bytes=dataset.train.images.dtype == np.uint8,
                class_names=dataset.class_names,
            )
        except ValueError as error:
            raise DataError(f"{dataset.name}: devices cannot train on it ({_reason(error)}); make it smaller") from None

    @classmethod
    def parse(cls, text: str) -> DataFacts:
        """Reads what `model_dump_json` wrote.

        Raises:
            DataError: it is not that, or out of bounds.
        """
        try:
            return cls.model_validate_json(text)
        except ValueError as error:
            raise DataError(
                f"the coordinator describes no possible data set ({_reason(error)}); both ends need the same version "
                f"of hedgerow"
            ) from None

    def apply(self, dataset: Dataset) -> Dataset:
        """The same images with this normalisation, and labelled as the coordinator labels them; no image is copied.

        Where both have names for their classes, the names decide: a device need not have all classes.

        Raises:
            DataError: the images have another shape or type, or a class is none of the coordinator's.
        """
        if dataset.input_shape != self.input_shape:
            raise DataError(
                f"{dataset.name}: images have the shape {dataset.input_shape}, and the coordinator's network takes "
                f"{self.input_shape} (C, H, W); convert them"
            )
        if (dataset.train.images.dtype == np.uint8) != self.bytes:
            raise DataError(
                f"{dataset.name}: images are {dataset.train.images.dtype}, and the coordinator's are "
                f"{'uint8 from 0 to 255' if self.bytes else 'floats'}; convert them"
            )
        if self.class_names is not None and dataset.class_names is not None:
            numbers = _numbers(dataset.name, dataset.class_names, among=self.class_names)
            train, test = _relabelled(dataset.train, numbers), _relabelled(dataset.test, numbers)
        else:
            train, test = dataset.train, dataset.test
            for split, samples in (("training", train), ("test", test)):
                _check_labels(samples, f"{dataset.name}: a {split} label", classes=self.classes)
        return replace(
            dataset,
            train=train,
            test=test,
            classes=self.classes,
            mean=self.mean,
            std=self.std,
            class_names=self.class_names,
        )


def _numbers(name: str, own: tuple[str, ...], *, among: tuple[str, ...]) -> Labels:
    places = {known: place for place, known in enumerate(among)}
    strangers = [found for found in own if found not in places]
    if strangers:
        raise DataError(
            f"{name}: class {strangers[0]!r} is none of the coordinator's {len(among)} classes, of which the first are "
            f"{', '.join(map(repr, among[:5]))}; rename or remove it"
        )
    return np.array([places[found] for found in own], dtype=np.int64)


def _relabelled(samples: Samples, numbers: Labels) -> Samples:
    return Samples(samples.images, numbers[samples.labels])


def _check_labels(samples: Samples, what: str, *, classes: int) -> None:
    highest = int(samples.labels.max())
    if highest >= classes:
        raise DataError(
            f"{what} is {highest}, and the coordinator's network has {classes} classes (0 to {classes - 1}); use the "
            f"coordinator's classes"
        )


def _reason(error: ValueError) -> str:
    # pydantic's errors are ValueErrors with a list of what is wrong; the first is enough.
    details = error.errors() if hasattr(error, "errors") else []
    if not details:
        return str(error)
    where = ".".join(map(str, details[0]["loc"]))
    return f"{where}: {details[0]['msg']}" if where else str(details[0]["msg"])
