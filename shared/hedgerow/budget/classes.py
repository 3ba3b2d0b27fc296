"""Which class of devices a simulated client belongs to."""

from __future__ import annotations

import numpy as np

from hedgerow.config import DeviceClass, Experiment
from hedgerow.seeds import numpy_generator

__all__ = ["class_of"]


def class_of(experiment: Experiment, client: int) -> DeviceClass | None:
    """The class of client number `client`, the same at both ends; None where the settings have no classes.

    Clients are shuffled and then dealt out by `FleetSettings.device_counts`, so that a class has as many as its share
    says, whatever data they have.

    >>> class_of(Experiment(), 0) is None
    True
    """
    fleet = experiment.fleet
    if not fleet.devices:
        return None
    assert 0 <= client < fleet.clients
    places = numpy_generator(experiment.seed, "devices").permutation(fleet.clients)
    place = int(np.searchsorted(np.cumsum(fleet.device_counts), places[client], side="right"))
    return fleet.devices[place]
