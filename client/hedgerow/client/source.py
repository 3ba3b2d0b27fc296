"""Whose samples a client trains on, from its node's configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from hedgerow.data import DataFacts, Dataset, load_dataset
from hedgerow.errors import ConfigError, DataError, ModelError
from hedgerow.references import is_reference

__all__ = ["Source", "source_in"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a client's samples are.

    Attributes:
        client: number that seeds use.
        part: which of the parts is its own.
        parts: how many parts the training samples are divided into; as many as the experiment has clients when None.
        data: name of a data set of its own; that of the experiment when None.
        path: file or folder of `data`.
        allowed_model: `package.module:function` that its user lets a coordinator name.
        facts: of the coordinator's data set, as JSON; only for `data`.
        memory: bytes that it may train in; what is free when None.
        measure: whether small training steps put predictions right for its machine, where its data are its own.
    """

    client: int
    part: int
    parts: int | None
    data: str | None = None
    path: str | None = None
    allowed_model: str | None = None
    facts: str | None = None
    memory: int | None = None
    measure: bool = True

    def shared(self) -> Source:
        """Without what tells it from the other clients of a process."""
        return replace(self, client=0, part=0)

    def dataset(self) -> Dataset | None:
        """Its own samples, described as the coordinator's; None where the experiment's are used.

        Raises:
            DataError: they are missing or damaged, or do not fit the coordinator's.
        """
        if self.data is None:
            return None
        dataset = load_dataset(self.data, path=None if self.path is None else Path(self.path))
        return dataset if self.facts is None else DataFacts.parse(self.facts).apply(dataset)

    def check_model(self, name: str) -> None:
        """Refuses code that is named from elsewhere; a client of the experiment's own data runs where that was written.

        Raises:
            ModelError: `name` is a reference that the device's user did not allow.
        """
        if self.data is not None and is_reference(name) and name != self.allowed_model:
            raise ModelError(
                f"the coordinator's model is {name!r}, code that this device runs only when its user allows it; join "
                f"with --allow-model {name} if you trust it"
            )


def source_in(node_config: Mapping[str, object], *, facts: object = None) -> Source:
    """Reads a node's configuration.

    Args:
        node_config: `partition-id` of `num-partitions` for a part of the experiment's own data set; or `data` and
            perhaps `data-path` for all training samples of that one; or all of them for a part of that one. `client`
            is the number that seeds use, else `partition-id`; `allow-model` the model that may be a reference; `memory`
            the bytes that it may train in; `measure=false` if its machine is not to be measured.
        facts: of the coordinator's data set, as JSON.

    Raises:
        ConfigError: neither is there.
        DataError: there is no such part.

    >>> source_in({"partition-id": 3, "num-partitions": 10}).part
    3
    """
    data, number, count = (node_config.get(key) for key in ("data", "partition-id", "num-partitions"))
    if data is None and number is None:
        raise ConfigError(
            "node_config: neither `data` nor `partition-id` is there; start the node with one, for example "
            'partition-id=0 num-partitions=10, or data="digits"'
        )
    part = 0 if number is None else int(str(number))
    parts = int(str(count)) if count is not None and number is not None else None
    if data is not None and number is None:
        parts = 1
    if part < 0 or (parts is not None and part >= parts):
        of = "" if parts is None else f" of {parts}"
        raise DataError(f"partition {part}{of} does not exist; they count from 0")
    path, model, memory = (node_config.get(key) for key in ("data-path", "allow-model", "memory"))
    return Source(
        client=int(str(node_config.get("client", part))),
        part=part,
        parts=parts,
        data=None if data is None else str(data),
        path=None if path is None else str(path),
        allowed_model=None if model is None else str(model),
        facts=None if data is None or facts is None else str(facts),
        memory=None if memory is None else int(str(memory)),
        measure=str(node_config.get("measure", True)).lower() != "false",
    )
