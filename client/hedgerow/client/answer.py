"""What a client does with one request: check, rebuild, train or look, reply. State goes in, state comes out."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace

import torch
from torch import nn

from hedgerow.assembly import ClientNetwork, dataset_of, exchange_of, model_of, network_of, parts_of
from hedgerow.budget.deciding import Calibrate
from hedgerow.client.extrusion import Extrusion
from hedgerow.client.growth import Grown, largest
from hedgerow.client.looking import Looker, losses, moments_of, statistics, told
from hedgerow.client.memory import ClientState, Memories
from hedgerow.client.planning import Planner, Room, exhausted, more_guarded
from hedgerow.client.pool import pool_in
from hedgerow.client.readjusting import OwnMask, first_steps, own_mask
from hedgerow.client.training import Trained, joined, step_count, train
from hedgerow.codec import (
    Candidate,
    Header,
    Section,
    Sections,
    decode_candidates,
    decode_payload,
    encode_payload,
    has_mask,
)
from hedgerow.config import Experiment
from hedgerow.data import Dataset, Indices, Samples
from hedgerow.errors import DataError, OverrunError, PayloadError
from hedgerow.exchange import Measures, Version, asked_levels, marked_counts, own_mask_section, plan_reply
from hedgerow.files import sealed
from hedgerow.privacy import Draw, seeded_words
from hedgerow.pruning import Mask, marked
from hedgerow.seeds import derive_seed, numpy_generator
from hedgerow.sparse import KeptNetwork, read_vector, write_vector
from hedgerow.telemetry.memory import Resident
from hedgerow.units import clean_text, size_text
from hedgerow.v1 import payload_pb2 as pb

__all__ = ["Answer", "Workshop"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Answer:
    """A client's reply, and its new state.

    Attributes:
        payload: the reply.
        state: what the client remembers from now on.
        held: bytes that the process held at most while it trained; None where that was not measured.
    """

    payload: bytes
    state: ClientState
    held: int | None = None


@dataclass(frozen=True, slots=True)
class _Built:
    """The network for one mask, and the settings that it is trained by here. The mask itself is not kept: it has a bit
    for every weight of the dense network."""

    digest: bytes
    layers: tuple[int, ...]
    client: ClientNetwork
    experiment: Experiment


class Workshop:
    """What one process needs to train as any client of one experiment: data, architecture, the network being trained.

    Everything in it can be rebuilt from its arguments; what a client must remember is in its `ClientState`.

    Args:
        experiment: what is trained.
        dataset: a device's own samples; those that the experiment names when None.
        parts: how many parts the training samples are divided into; as many as the experiment has clients when None.
        calibrate: see `hedgerow.client.planning.Planner`.

    Raises:
        DataError: the samples are missing or corrupt, or cannot be divided so.
        ModelError: the model cannot be built or does not fit them.
    """

    def __init__(
        self,
        experiment: Experiment,
        *,
        dataset: Dataset | None = None,
        parts: int | None = None,
        calibrate: Calibrate | None = None,
    ) -> None:
        self.experiment = experiment
        self.dataset = dataset_of(experiment) if dataset is None else dataset
        self._parts = _parts(experiment, self.dataset, count=parts)
        self.exchange = exchange_of(experiment, self._model())
        self._experiment_digest = bytes.fromhex(experiment.digest())
        self._planner = Planner(
            experiment, model=self._model, input_shape=self.dataset.input_shape, calibrate=calibrate
        )
        self._built: _Built | None = None

    def answer(
        self,
        request: bytes,
        *,
        client: int,
        state: ClientState,
        part: int | None = None,
        draw: Draw | None = None,
        room: Room | None = None,
        resident: Resident | None = None,
    ) -> Answer:
        """Does what `request` asks for: trains a network, or looks at some.

        Args:
            request: the payload.
            client: decides what is random.
            state: what the client remembers.
            part: which part of the samples is its own; that of number `client` when None.
            draw: where the noise of privacy comes from; when None, the seed, which makes a simulation repeatable and
                protects nobody.
            room: memory that it plans for; None: it trains as the settings say.
            resident: measures what the process holds for it; nobody does when None.

        Raises:
            BudgetError: there is too little memory to train this network in any way.
            OverrunError: there was too little memory although it was planned for.
            PayloadError: the request is damaged, for another experiment, for a mask or networks that this client does
                not have, or for a task that it does not know.
            DataError: there is no such part.
            TrainingError: a loss is not finite, or there are too few samples.
        """
        if resident is not None:
            resident.begin(aside=self.copied_bytes(client if part is None else part))
        try:
            return self._answered(
                request, client=client, state=state, part=part, draw=draw, room=room, resident=resident
            )
        except (MemoryError, RuntimeError) as error:
            if room is None or not exhausted(error):
                raise
            # What it had made so far is not to count against the next request.
            self._built, reason = None, str(error)
        raise OverrunError(
            f"{size_text(room.budget)} of memory were not enough, other than planned; it plans with more to spare from "
            f"now on ({clean_text(reason, 100)})",
            guard=more_guarded(room.guard),
        )

    def copied_bytes(self, part: int) -> int:
        """Bytes of the samples of a part, which are copied for each request; 0 where all samples are a client's own.

        A device has its samples before its first request, so that they are in none of its requests' budgets.
        """
        if self._parts is None or part >= len(self._parts):
            return 0
        train, count = self.dataset.train, len(self._parts[part])
        return count * (train.images.nbytes + train.labels.nbytes) // len(train)

    def _answered(
        self,
        request: bytes,
        *,
        client: int,
        state: ClientState,
        part: int | None,
        draw: Draw | None,
        room: Room | None,
        resident: Resident | None,
    ) -> Answer:
        header, sections = decode_payload(request, limit=self._limit(networks=self.experiment.selection.candidates))
        if header.experiment != self._experiment_digest:
            raise PayloadError("the request is for another experiment; use the coordinator's settings here")
        self.exchange.architecture.require(header.tensors)
        samples = self._samples(client if part is None else part)
        looker = self._looker(samples, round=header.round, client=client)
        match header.task:
            case pb.TASK_TRAIN:
                if len(request) > self._limit():
                    raise PayloadError(f"a request to train of {len(request)} bytes", kind="bounds")
                return self._trained(
                    header, sections, state, samples=samples, client=client, draw=draw, room=room, resident=resident
                )
            case pb.TASK_RECALIBRATE:
                return self._recalibrated(request, header, sections, state, looker=looker, room=room)
            case pb.TASK_EVALUATE:
                return self._evaluated(request, header, state, looker=looker)
            case pb.TASK_PLAN if room is not None:
                levels = asked_levels(header, architecture=self.exchange.architecture)
                said = plan_reply(self._planner.said(levels, room))
                return Answer(encode_payload(header.of_reply(), [said]), state)
        raise PayloadError(f"task {header.task} is not known here; give both ends one version", kind="mismatch")

    def _trained(
        self,
        header: Header,
        sections: Sections,
        state: ClientState,
        *,
        samples: Samples,
        client: int,
        draw: Draw | None,
        room: Room | None,
        resident: Resident | None,
    ) -> Answer:
        memories = Memories(self.exchange, state, limit=self._limit())
        built, version = self._started(header, sections, memories, room=room)
        sent, layers = built.digest, built.layers
        began, seed = time.perf_counter(), self.experiment.seed
        own, start, asked = None, version, any(asked.count for asked in header.growth)
        residuals = memories.residuals(sent, layers=layers)
        if asked and self.experiment.adjustment.by == "devices":
            steps = step_count(len(samples), built.experiment.training)
            first = first_steps(steps, after=self.experiment.adjustment.after)
            trained = self._train(built, samples, header, start, client=client, part=slice(first))
            own = self._own_mask(built, header, memories, samples=samples, client=client)
            # There is room for one network.
            del built
            built = self._build(own.mask, room=room)
            write_vector(built.client.network.kept, own.kept)
            write_vector(built.client.network.floats, own.floats)
            start = self.exchange.carried(version, own.moves, mask_digest=own.mask.digest)
            if first < steps:
                rest = self._train(built, samples, header, start, client=client, part=slice(first, None))
                trained = joined(trained, rest)
            residuals = own.residual(residuals[0]), residuals[1]
        else:
            extrusion = self._extrusion(header, version, layers=layers)
            trained = self._train(built, samples, header, start, client=client, extrusion=extrusion)
        network = built.client.network
        measures = _measures(trained, seconds=time.perf_counter() - began, native_share=network.native_share())
        vectors = read_vector(network.kept), read_vector(network.floats)
        said = self.exchange.reply(
            *vectors,
            version=start,
            layers=layers,
            memory=residuals,
            generator=numpy_generator(seed, "reply", header.round, client),
            draw=seeded_words(numpy_generator(seed, "privacy", header.round, client)) if draw is None else draw,
        )
        found: list[Section] = []
        if own is not None:
            measures = replace(measures, growth_bytes=own.peak_bytes)
            found.append(own_mask_section(own.mask, sent=own.sent, exchange=self.exchange))
            said = own.remembered(said[0]), said[1]
        elif asked:
            if self.experiment.adjustment.gradient == "sent":
                self._start(network, version)
            # Of what this one network holds for the backward some may be rounded at random.
            built.client.storage.reseed(derive_seed(seed, "growth", header.round, client))
            grown = self._largest(built, header, memories, samples=samples, client=client)
            measures = replace(measures, growth_bytes=grown.peak_bytes)
            found += [grown.section, *([] if grown.kept is None else [grown.kept])]
        held = None if resident is None else resident.held()
        measures = replace(measures, held_bytes=held or 0)
        sections_up = [*(one.section for one in said), measures.section(), *found]
        payload = encode_payload(header.of_reply(), sections_up)
        after = memories.after(header, version, layers=layers, said=said, sections=sections)
        # Once a network is trained, the choice is made.
        return Answer(payload, replace(after, pool=b""), held)

    def _train(
        self,
        built: _Built,
        samples: Samples,
        header: Header,
        version: Version,
        *,
        client: int,
        part: slice | None = None,
        extrusion: Extrusion | None = None,
    ) -> Trained:
        """Trains all or a part of the steps of a round that began with what `version` says."""
        seed = self.experiment.seed
        start = self.exchange.starts(version) if built.experiment.training.proximal else None
        # What a part draws does not depend on how the one before it was computed.
        draw = (header.round, client) if part is None or not part.start else (header.round, client, part.start)
        # One network serves many clients, whose results must not depend on who trained before.
        built.client.storage.reseed(derive_seed(seed, "activations", *draw))
        # A user's model may draw from torch's global generator, in dropout for example.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(derive_seed(seed, "training", *draw))
            return train(
                built.client.network,
                samples,
                dataset=self.dataset,
                experiment=built.experiment,
                round=header.round,
                generator=numpy_generator(seed, "batches", header.round, client),
                extrusion=extrusion,
                part=part,
                start=start,
            )

    def _own_mask(self, built: _Built, header: Header, memories: Memories, *, samples: Samples, client: int) -> OwnMask:
        """What this device makes of the mask in the midst of its training."""
        built.client.storage.reseed(derive_seed(self.experiment.seed, "growth", header.round, client))
        return own_mask(
            built.client.network,
            memories.read_mask(header),
            growth=header.growth,
            representation=self.exchange.representation,
            samples=samples,
            dataset=self.dataset,
            experiment=built.experiment,
            round=header.round,
            client=client,
        )

    def _extrusion(self, header: Header, version: Version, *, layers: tuple[int, ...]) -> Extrusion | None:
        """What presses the weights that the request marks; None where it marks none."""
        counts = marked_counts(header.growth, layers=layers)
        if not any(counts):
            return None
        settings = self.experiment.extrusion
        if settings.penalty == 0:
            raise PayloadError("weights are marked, but extrusion.penalty is 0 here", kind="mismatch")
        scores = self.exchange.representation.drop_scores(self.exchange.starts(version)[0])
        bits = marked(scores, layers=layers, counts=counts)
        return Extrusion.of(settings, bits, layers=layers, rate=self.experiment.weights.learning_rate)

    def _largest(self, built: _Built, header: Header, memories: Memories, *, samples: Samples, client: int) -> Grown:
        """What is asked about pruned weights, where the others have the values of the network."""
        return largest(
            built.client.network,
            memories.read_mask(header),
            growth=header.growth,
            samples=samples,
            dataset=self.dataset,
            experiment=built.experiment,
            round=header.round,
            client=client,
        )

    def _recalibrated(
        self,
        request: bytes,
        header: Header,
        sections: Sections,
        state: ClientState,
        *,
        looker: Looker,
        room: Room | None,
    ) -> Answer:
        candidates = self._candidates(request)
        if not candidates:
            # It is not trained, so what is remembered stays what it was.
            memories = Memories(self.exchange, state, limit=self._limit())
            built, _ = self._started(header, sections, memories, room=room)
            said = told([moments_of(built.client, looker)], looker)
            return Answer(encode_payload(header.of_reply(), said), state)
        if sections:
            raise PayloadError("a request with networks to choose from and with one of its own")
        # The device has room for one network.
        self._built = None
        payload = encode_payload(header.of_reply(), statistics(candidates, looker))
        return Answer(payload, replace(state, pool=sealed(request)))

    def _evaluated(self, request: bytes, header: Header, state: ClientState, *, looker: Looker) -> Answer:
        candidates = pool_in(state.pool, header, self._candidates(request), read=self._candidates)
        self._built = None
        return Answer(encode_payload(header.of_reply(), losses(candidates, looker)), state)

    def _candidates(self, request: bytes) -> list[Candidate]:
        most = self.experiment.selection.candidates
        return decode_candidates(request, limit=self._limit(networks=most), most=most)

    def _looker(self, samples: Samples, *, round: int, client: int) -> Looker:
        return Looker(
            experiment=self.experiment,
            exchange=self.exchange,
            model=self._model,
            dataset=self.dataset,
            samples=samples,
            round=round,
            client=client,
        )

    def _limit(self, *, networks: int = 1) -> int:
        # The largest honest request: a mask in bits, every weight in float32, all floats, the tensors and the envelope.
        architecture = self.exchange.architecture
        values = architecture.weights + architecture.float_count
        one = architecture.weights // 8 + 4 * values + 256 * len(architecture.tensors()) + 4096
        return max(1, networks) * one

    def _started(
        self, header: Header, sections: Sections, memories: Memories, *, room: Room | None
    ) -> tuple[_Built, Version]:
        """The network of a request with the values that it starts from, and the version that says them."""
        built = self._network(header, sections, memories, room=room)
        version = self._version(header, sections, memories, layers=built.layers)
        self._start(built.client.network, version)
        return built, version

    def _start(self, network: KeptNetwork, version: Version) -> None:
        for tensors, start in zip((network.kept, network.floats), self.exchange.starts(version), strict=True):
            write_vector(tensors, start)

    def _network(self, header: Header, sections: Sections, memories: Memories, *, room: Room | None) -> _Built:
        """The network for the mask of a request, which brings it, whole or as what changed, or is for the one held."""
        if has_mask(sections) or pb.KIND_MASK_DELTA in sections:
            return self._build(memories.new_mask(header, sections), room=room)
        # Who lacks the mask is refused, whatever was built for others.
        memories.mask(header.mask_digest)
        built = self._built
        known = built is not None and built.digest == header.mask_digest
        if built is not None and known and built.experiment == self._planned(built.layers, room):
            return built
        return self._build(memories.read_mask(header), room=room)

    def _version(self, header: Header, sections: Sections, memories: Memories, *, layers: tuple[int, ...]) -> Version:
        base = None
        if header.base:
            base = memories.version(header.base, header.mask_digest, layers=layers)
        return self.exchange.decode(
            sections, round=header.round, mask_digest=header.mask_digest, base=base, layers=layers
        )

    def _build(self, mask: Mask, *, room: Room | None) -> _Built:
        layers = tuple(mask.layer_kept().values())
        experiment = self._planned(layers, room)
        # A mask serves many rounds, and every value of the network is overwritten before each.
        if self._built is None or (self._built.digest, self._built.experiment) != (mask.digest, experiment):
            self._built = None
            client = network_of(experiment, self._model(), mask, input_shape=self.dataset.input_shape)
            for line in [] if client.choice is None else client.choice.lines():
                _log.info("%s", line)
            self._built = _Built(mask.digest, layers, client, experiment)
        return self._built

    def _planned(self, layers: tuple[int, ...], room: Room | None) -> Experiment:
        """The settings that a network with so many kept weights is trained by here."""
        if room is None:
            return self.experiment
        kept = dict(zip(self.exchange.architecture.prunable, layers, strict=True))
        return self._planner.required(kept, room).chosen.applied(self.experiment)

    def _model(self) -> nn.Module:
        # A device has no room for the dense weights, and is sent all that it needs, unless their sizes are frozen in.
        signs = self.experiment.representation == "signs" and self.experiment.signs.magnitude == "random"
        frozen = signs or self.experiment.representation == "supermask"
        return model_of(self.experiment, self.dataset, hollow=not frozen)

    def _samples(self, part: int) -> Samples:
        train = self.dataset.train
        if self._parts is None:
            return train
        if part >= len(self._parts):
            raise DataError(f"partition {part} does not exist: there are {len(self._parts)}, counted from 0")
        indices = self._parts[part]
        return Samples(train.images[indices], train.labels[indices])


def _parts(experiment: Experiment, dataset: Dataset, *, count: int | None) -> list[Indices] | None:
    # A device with data of its own divides nothing, whatever the experiment asks of its simulated clients.
    if count == 1:
        return None
    if count is not None and count != experiment.fleet.clients:
        fleet = experiment.fleet.model_copy(update={"clients": count})
        experiment = experiment.model_copy(update={"fleet": fleet})
    return parts_of(experiment, dataset)


def _measures(trained: Trained, *, seconds: float, native_share: float) -> Measures:
    return Measures(
        examples=trained.examples,
        loss=trained.loss,
        seconds=seconds,
        forward_bytes=trained.peaks.forward,
        backward_bytes=trained.peaks.backward,
        update_bytes=trained.peaks.update,
        native_share=native_share,
    )
