"""Who takes part: their samples, how many they are, and the memory that they have."""

from __future__ import annotations

from fractions import Fraction as Exact
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from hedgerow.config.values import Count, NotNegative, Positive, Settings, UnitPositive
from hedgerow.units import parse_bytes

__all__ = [
    "BudgetSettings",
    "DataSettings",
    "DeviceClass",
    "FleetSettings",
]


class DataSettings(Settings):
    """Which samples, and how a simulation divides them among its clients."""

    name: str = "digits"
    """`digits`, `fashion-mnist`, `folder`, `idx`, `npz`, or your own `package.module:function`."""
    path: str | None = None
    """File or folder that `name` reads; the default place of the data set when absent."""
    partition: Literal["iid", "dirichlet", "shards"] = "dirichlet"
    alpha: Positive = 0.5
    """Concentration of `dirichlet`: small = each client sees few classes."""
    shards: Count = 2
    """Label-sorted shards a client gets with `shards`."""
    min_samples: Count = 10
    """`dirichlet` is drawn again until every client has at least this many samples."""


class DeviceClass(Settings):
    """Some of a simulation's clients, which have so much memory."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")]
    share: UnitPositive
    """Fraction of the clients."""
    memory: str
    """That such a client may use for training, beside what Python and torch take: `"96MB"`, `"1GiB"`."""

    @field_validator("memory")
    @classmethod
    def _memory_is_a_size(cls, memory: str) -> str:
        parse_bytes(memory)
        return memory

    @property
    def memory_bytes(self) -> int:
        """`memory` as a number."""
        return parse_bytes(self.memory)


class FleetSettings(Settings):
    """How many clients there are and how many of them a round asks."""

    clients: Count = 20
    cohort: Count = 10
    """Usable replies that end a round; so many clients are asked, drawn without replacement from (seed, round)."""
    oversampling: NotNegative = 0.0
    """Clients asked beyond `cohort`, as a fraction of it, so that a round need not wait for its slowest."""
    deadline: Positive | None = None
    """Seconds after which a round ends once `aggregation.min_replies` usable replies are in; never when absent."""
    # Not strict, as TOML has lists only.
    devices: Annotated[tuple[DeviceClass, ...], Field(strict=False, max_length=64)] = ()
    """Classes of a simulation's clients, by memory: `{name, share, memory}` each."""

    @property
    def device_counts(self) -> tuple[int, ...]:
        """How many clients each class has: the nearest whole numbers that add up (largest remainders).

        >>> half = DeviceClass(name="small", share=0.5, memory="8MB")
        >>> other = DeviceClass(name="large", share=0.5, memory="64MB")
        >>> FleetSettings(clients=5, cohort=5, devices=(half, other)).device_counts
        (3, 2)
        """
        shares = [Exact(str(device.share)) for device in self.devices]
        quotas = [self.clients * share / sum(shares) for share in shares]
        counts = [int(quota) for quota in quotas]
        # Of equal remainders the class that is named first gets more; sorting is stable.
        order = sorted(range(len(quotas)), key=lambda place: counts[place] - quotas[place])
        for place in order[: self.clients - sum(counts)] if order else ():
            counts[place] += 1
        return tuple(counts)

    @model_validator(mode="after")
    def _classes_are_of_all(self) -> FleetSettings:
        names = [device.name for device in self.devices]
        if len(set(names)) != len(names):
            raise ValueError(f"fleet.devices names a class twice among {', '.join(names)}; give each its own name")
        total = sum(device.share for device in self.devices)
        if self.devices and abs(total - 1) > 1e-6:
            raise ValueError(f"the shares of fleet.devices add up to {total:g}; make them add up to 1")
        for name, count in zip(names, self.device_counts, strict=True):
            if count == 0:
                raise ValueError(
                    f"class {name!r} of fleet.devices has no client among {self.clients}; raise its share, or "
                    "fleet.clients"
                )
        return self

    @model_validator(mode="after")
    def _cohort_fits(self) -> FleetSettings:
        if self.cohort > self.clients:
            raise ValueError(f"fleet.cohort is {self.cohort}, but fleet.clients is only {self.clients}")
        return self


class BudgetSettings(Settings):
    """Training inside the memory that a device has."""

    plan: bool = False
    """Whether devices choose how they train by the memory that they have: `training` says how they would like to, and
    they depart from it where that does not fit, by what costs the least accuracy."""
    # Not strict, as TOML has lists only.
    levels: Annotated[tuple[float, ...], Field(strict=False, min_length=1, max_length=8)] = (1.0,)
    """Parts of the kept weights that devices may train, as fractions of them: all, and then smaller ones, each inside
    the one before. A device with too little memory for one trains the next."""
    nest: Literal["salient", "random"] = "salient"
    """Which weights a smaller part has: those of the largest scores, or drawn ones."""
    norms: Literal["private", "shared"] = "private"
    """Whether each part of the network has running means and variances of its own."""
    hard: bool = False
    """Let the system refuse a device what goes beyond its memory while it answers, so that a mistaken prediction fails
    the request and takes nothing from others on the machine. Linux only; elsewhere nothing is refused."""

    @field_validator("levels")
    @classmethod
    def _levels_descend(cls, levels: tuple[float, ...]) -> tuple[float, ...]:
        if levels[0] != 1 or not levels[-1] > 0:
            raise ValueError(f"budget.levels is {list(levels)}; begin with 1, which is the whole, and stay above 0")
        for one, next_one in pairwise(levels):
            if next_one > 0.8 * one * (1 + 1e-9):
                raise ValueError(
                    f"budget.levels has {next_one:g} after {one:g}; make each at most 0.8 of the one before"
                )
        return levels
