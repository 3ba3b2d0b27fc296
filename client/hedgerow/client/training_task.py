"""A request to train: train what it brings, look for what could grow, and say what came of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from hedgerow.client.building import Builder, Built
from hedgerow.client.extrusion import Extrusion
from hedgerow.client.growth import Grown, GrowthBatch, largest
from hedgerow.client.memory import ClientState, Memories
from hedgerow.client.planning import Room
from hedgerow.client.readjusting import OwnMask, first_steps, own_mask
from hedgerow.client.training import Trained, joined, step_count, train
from hedgerow.codec import Header, Section, Sections, encode_payload
from hedgerow.config import Experiment
from hedgerow.data import Dataset, Samples
from hedgerow.errors import PayloadError
from hedgerow.exchange import Measures, Version, marked_counts, own_mask_section
from hedgerow.privacy import Draw, seeded_words
from hedgerow.pruning import marked
from hedgerow.seeds import derive_seed, numpy_generator
from hedgerow.sparse import read_vector, write_vector
from hedgerow.telemetry.memory import Resident

__all__ = ["TrainingTask"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingTask:
    """One request to train.

    Attributes:
        experiment: the settings.
        dataset: tells how images are normalised.
        builder: makes the network.
        header: the request's.
        sections: the request's.
        samples: the client's own.
        client: decides what is random.
        room: memory that is planned for; None: it trains as the settings say.
        draw: where the noise of privacy comes from; the seed when None.
        resident: measures what the process holds for it; nobody does when None.
    """

    experiment: Experiment
    dataset: Dataset
    builder: Builder
    header: Header
    sections: Sections
    samples: Samples
    client: int
    room: Room | None
    draw: Draw | None
    resident: Resident | None

    def answer(self, state: ClientState) -> tuple[bytes, ClientState, int | None]:
        """Trains; gives the reply, what the client remembers from now on, and what the process held at most in bytes.

        Raises:
            BudgetError: there is too little memory to train this network in any way.
            PayloadError: the request is damaged, or for a mask that this client does not have.
            TrainingError: a loss is not finite, or there are too few samples.
        """
        header, builder = self.header, self.builder
        memories = Memories(builder.exchange, state, limit=builder.limit())
        _, version = builder.started(header, self.sections, memories, room=self.room)
        sent, layers, began = self._built.digest, self._built.layers, time.perf_counter()
        start, own, residuals = version, None, memories.residuals(sent, layers=layers)
        asked = any(asked.count for asked in header.growth)
        if asked and self.experiment.adjustment.by == "devices":
            trained, own = self._trained_around_own_mask(memories, version)
            start = builder.exchange.carried(version, own.moves, mask_digest=own.mask.digest)
            residuals = own.residual(residuals[0]), residuals[1]
        else:
            trained = self._train(version, extrusion=self._extrusion(version, layers=layers))
        network = self._built.client.network
        measures = _measures(trained, seconds=time.perf_counter() - began, native_share=network.native_share())
        said = builder.exchange.reply(
            read_vector(network.kept),
            read_vector(network.floats),
            version=start,
            layers=layers,
            memory=residuals,
            generator=self._generator("reply"),
            draw=seeded_words(self._generator("privacy")) if self.draw is None else self.draw,
        )
        found: list[Section] = []
        if own is not None:
            measures = replace(measures, growth_bytes=own.peak_bytes)
            found.append(own_mask_section(own.mask, sent=own.sent, exchange=builder.exchange))
            said = own.remembered(said[0]), said[1]
        elif asked:
            grown = self._largest(memories, version)
            measures = replace(measures, growth_bytes=grown.peak_bytes)
            found += [grown.section, *([] if grown.kept is None else [grown.kept])]
        held = None if self.resident is None else self.resident.held()
        measures = replace(measures, held_bytes=held or 0)
        payload = encode_payload(header.of_reply(), [*(one.section for one in said), measures.section(), *found])
        after = memories.after(header, version, layers=layers, said=said, sections=self.sections)
        # Once a network is trained, the choice is made.
        return payload, replace(after, pool=b""), held

    @property
    def _built(self) -> Built:
        # Nobody else holds it, as there is room for one: that of another mask takes its place.
        assert self.builder.built is not None
        return self.builder.built

    def _train(self, version: Version, *, part: slice | None = None, extrusion: Extrusion | None = None) -> Trained:
        """Trains all or a part of the steps of a round that began with what `version` says."""
        built, seed, (round, client) = self._built, self.experiment.seed, self._draw
        start = self.builder.exchange.starts(version) if built.experiment.training.proximal else None
        # What a part draws does not depend on how the one before it was computed.
        draw = self._draw if part is None or not part.start else (round, client, part.start)
        # One network serves many clients, whose results must not depend on who trained before.
        built.client.storage.reseed(derive_seed(seed, "activations", *draw))
        # A user's model may draw from torch's global generator, in dropout for example.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(derive_seed(seed, "training", *draw))
            return train(
                built.client.network,
                self.samples,
                dataset=self.dataset,
                experiment=built.experiment,
                round=round,
                generator=self._generator("batches"),
                extrusion=extrusion,
                part=part,
                start=start,
            )

    def _trained_around_own_mask(self, memories: Memories, version: Version) -> tuple[Trained, OwnMask]:
        """Trains, adjusts the mask, and trains on with that."""
        steps = step_count(len(self.samples), self._built.experiment.training)
        first = first_steps(steps, after=self.experiment.adjustment.after)
        trained = self._train(version, part=slice(first))
        own = self._own_mask(memories)
        network = self.builder.build(own.mask, room=self.room).client.network
        write_vector(network.kept, own.kept)
        write_vector(network.floats, own.floats)
        if first < steps:
            start = self.builder.exchange.carried(version, own.moves, mask_digest=own.mask.digest)
            trained = joined(trained, self._train(start, part=slice(first, None)))
        return trained, own

    def _own_mask(self, memories: Memories) -> OwnMask:
        """What this device makes of the mask in the midst of its training."""
        built = self._built
        built.client.storage.reseed(derive_seed(self.experiment.seed, "growth", *self._draw))
        return own_mask(
            built.client.network,
            memories.read_mask(self.header),
            growth=self.header.growth,
            representation=self.builder.exchange.representation,
            batch=self._growth_batch(),
        )

    def _extrusion(self, version: Version, *, layers: Sequence[int]) -> Extrusion | None:
        """What presses the weights that the request marks; None where it marks none."""
        counts = marked_counts(self.header.growth, layers=layers)
        if not any(counts):
            return None
        settings, exchange = self.experiment.extrusion, self.builder.exchange
        if settings.penalty == 0:
            raise PayloadError("weights are marked, but extrusion.penalty is 0 here", kind="mismatch")
        scores = exchange.representation.drop_scores(exchange.starts(version)[0])
        bits = marked(scores, layers=layers, counts=counts)
        return Extrusion.of(settings, bits, layers=layers, rate=self.experiment.weights.learning_rate)

    def _largest(self, memories: Memories, version: Version) -> Grown:
        """What is asked about pruned weights, where the others have the values of the network."""
        built = self._built
        if self.experiment.adjustment.gradient == "sent":
            self.builder.start(built.client.network, version)
        # Of what this one network holds for the backward some may be rounded at random.
        built.client.storage.reseed(derive_seed(self.experiment.seed, "growth", *self._draw))
        return largest(
            built.client.network,
            memories.read_mask(self.header),
            growth=self.header.growth,
            batch=self._growth_batch(),
            experiment=built.experiment,
        )

    def _growth_batch(self) -> GrowthBatch:
        return GrowthBatch.of(
            self.samples,
            dataset=self.dataset,
            experiment=self._built.experiment,
            round=self.header.round,
            client=self.client,
        )

    @property
    def _draw(self) -> tuple[int, int]:
        return self.header.round, self.client

    def _generator(self, purpose: str) -> np.random.Generator:
        return numpy_generator(self.experiment.seed, purpose, *self._draw)


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
