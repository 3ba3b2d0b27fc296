"""The samples that one process trains on: a device's own, or the parts of simulated clients."""

from __future__ import annotations

from hedgerow.assembly import parts_of
from hedgerow.config import Experiment
from hedgerow.data import Dataset, Indices, Samples
from hedgerow.errors import DataError

__all__ = ["LocalSamples"]


class LocalSamples:
    """Training samples by part.

    Args:
        experiment: says how they are divided.
        dataset: all that there are here.
        parts: how many parts there are; as many as the experiment has clients when None. With 1 nothing is divided.

    Raises:
        DataError: they cannot be divided so.
    """

    def __init__(self, experiment: Experiment, dataset: Dataset, *, parts: int | None) -> None:
        self._train = dataset.train
        self._parts = _parts(experiment, dataset, count=parts)

    def of(self, part: int) -> Samples:
        """Those of one part; a copy where there are several.

        Raises:
            DataError: there is no such part.
        """
        if self._parts is None:
            return self._train
        if part >= len(self._parts):
            raise DataError(f"partition {part} does not exist: there are {len(self._parts)}, counted from 0")
        indices = self._parts[part]
        return Samples(self._train.images[indices], self._train.labels[indices])

    def copied_bytes(self, part: int) -> int:
        """Bytes of the samples of a part, which are copied for each request; 0 where all samples are a client's own.

        A device has its samples before its first request, so that they are in none of its requests' budgets.
        """
        if self._parts is None or part >= len(self._parts):
            return 0
        train, count = self._train, len(self._parts[part])
        return count * (train.images.nbytes + train.labels.nbytes) // len(train)


def _parts(experiment: Experiment, dataset: Dataset, *, count: int | None) -> list[Indices] | None:
    # A device with data of its own divides nothing, whatever the experiment asks of its simulated clients.
    if count == 1:
        return None
    if count is not None and count != experiment.fleet.clients:
        fleet = experiment.fleet.model_copy(update={"clients": count})
        experiment = experiment.model_copy(update={"fleet": fleet})
    return parts_of(experiment, dataset)
