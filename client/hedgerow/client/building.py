"""The one network that a process has room for: built for a mask, planned for the memory, filled with a request."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from torch import nn

from hedgerow.assembly import ClientNetwork, exchange_of, model_of, network_of
from hedgerow.budget.deciding import Calibrate
from hedgerow.client.memory import Memories
from hedgerow.client.planning import Planner, Room
from hedgerow.codec import Header, Sections, has_mask
from hedgerow.config import Experiment
from hedgerow.data import Dataset
from hedgerow.exchange import Version
from hedgerow.pruning import Mask
from hedgerow.sparse import KeptNetwork, write_vector
from hedgerow.v1 import payload_pb2 as pb

__all__ = ["Builder", "Built"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Built:
    """The network for one mask, and the settings that it is trained by here. The mask itself is not kept: it has a bit
    for every weight of the dense network."""

    digest: bytes
    layers: tuple[int, ...]
    client: ClientNetwork
    experiment: Experiment


class Builder:
    """Builds the networks of one experiment, and keeps the last one.

    Args:
        experiment: what is trained; of one with a finish in float, what its rounds or those before do.
        dataset: the samples that it is trained on.
        calibrate: see `hedgerow.client.planning.Planner`.

    Attributes:
        experiment: the settings of those rounds that it builds for; see `Experiment.at`.
        exchange: what both ends make of the experiment.
        planner: plans for the memory that a client has.
        built: the network that there is; None where there is none.

    Raises:
        ModelError: the model cannot be built or does not fit the samples.
    """

    def __init__(self, experiment: Experiment, dataset: Dataset, *, calibrate: Calibrate | None = None) -> None:
        self.experiment, self._dataset = experiment, dataset
        self.exchange = exchange_of(experiment, self.model())
        self.planner = Planner(experiment, model=self.model, input_shape=dataset.input_shape, calibrate=calibrate)
        self.built: Built | None = None

    def model(self) -> nn.Module:
        """The dense network: without weights, unless what is frozen comes from them."""
        # A device has no room for the dense weights, and is sent all that it needs, unless their sizes are frozen in.
        signs = self.experiment.representation == "signs" and self.experiment.signs.magnitude == "random"
        frozen = signs or self.experiment.representation == "supermask"
        return model_of(self.experiment, self._dataset, hollow=not frozen)

    def limit(self, *, networks: int = 1) -> int:
        """Bytes of the largest honest request: a mask in bits, every weight in float32, all floats, the tensors and the
        envelope; of `networks` of them.
        """
        architecture = self.exchange.architecture
        values = architecture.weights + architecture.float_count
        one = architecture.weights // 8 + 4 * values + 256 * len(architecture.tensors()) + 4096
        return max(1, networks) * one

    def started(
        self, header: Header, sections: Sections, memories: Memories, *, room: Room | None
    ) -> tuple[Built, Version]:
        """The network of a request with the values that it starts from, and the version that says them.

        Raises:
            BudgetError: there is too little memory to train this network in any way.
            PayloadError: the request is damaged, or for a mask that this client does not have.
        """
        built = self._network(header, sections, memories, room=room)
        version = self._version(header, sections, memories, layers=built.layers)
        self.start(built.client.network, version)
        return built, version

    def start(self, network: KeptNetwork, version: Version) -> None:
        """Gives a network the values that a version says."""
        for tensors, start in zip((network.kept, network.floats), self.exchange.starts(version), strict=True):
            write_vector(tensors, start)

    def build(self, mask: Mask, *, room: Room | None) -> Built:
        """The network for a mask; the last one where that is the same.

        Raises:
            BudgetError: there is too little memory to train it in any way.
        """
        layers = tuple(mask.layer_kept().values())
        experiment = self._planned(layers, room)
        # A mask serves many rounds, and every value of the network is overwritten before each.
        if self.built is None or (self.built.digest, self.built.experiment) != (mask.digest, experiment):
            self.built = None
            client = network_of(experiment, self.model(), mask, input_shape=self._dataset.input_shape)
            for line in [] if client.choice is None else client.choice.lines():
                _log.info("%s", line)
            self.built = Built(mask.digest, layers, client, experiment)
        return self.built

    def forget(self) -> None:
        """Gives the memory of the last network back."""
        self.built = None

    def _network(self, header: Header, sections: Sections, memories: Memories, *, room: Room | None) -> Built:
        """The network for the mask of a request, which brings it, whole or as what changed, or is for the one held."""
        if has_mask(sections) or pb.KIND_MASK_DELTA in sections:
            return self.build(memories.new_mask(header, sections), room=room)
        # Who lacks the mask is refused, whatever was built for others.
        memories.mask(header.mask_digest)
        built = self.built
        known = built is not None and built.digest == header.mask_digest
        if built is not None and known and built.experiment == self._planned(built.layers, room):
            return built
        return self.build(memories.read_mask(header), room=room)

    def _version(self, header: Header, sections: Sections, memories: Memories, *, layers: tuple[int, ...]) -> Version:
        base = None
        if header.base:
            base = memories.version(header.base, header.mask_digest, layers=layers)
        return self.exchange.decode(
            sections, round=header.round, mask_digest=header.mask_digest, base=base, layers=layers
        )

    def _planned(self, layers: tuple[int, ...], room: Room | None) -> Experiment:
        """The settings that a network with so many kept weights is trained by here."""
        if room is None:
            return self.experiment
        kept = dict(zip(self.exchange.architecture.prunable, layers, strict=True))
        return self.planner.required(kept, room).chosen.applied(self.experiment)
