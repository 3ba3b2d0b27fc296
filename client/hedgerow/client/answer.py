"""What a client does with one request: check, rebuild, train, reply. State goes in, state comes out."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from hedgerow.assembly import ClientNetwork, dataset_of, model_of, network_of, parts_of, representation_of
from hedgerow.client.training import Trained, train
from hedgerow.codec import (
    Header,
    Sections,
    decode_payload,
    encode_payload,
    floats_section,
    has_mask,
    mask_section,
    read_floats,
    read_mask,
)
from hedgerow.config import Experiment
from hedgerow.data import Dataset, Indices, Samples
from hedgerow.errors import DataError, PayloadError
from hedgerow.pruning import Mask, prunable_tensors
from hedgerow.seeds import derive_seed, numpy_generator
from hedgerow.sparse import float_tensors, read_vector, write_vector

__all__ = ["Answer", "ClientState", "Workshop"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ClientState:
    """What a client keeps from one round to the next.

    Attributes:
        rounds: how many rounds it has trained.
        mask: the payload that holds the mask it was last given; empty before that.
    """

    rounds: int = 0
    mask: bytes = b""


@dataclass(frozen=True, slots=True)
class Answer:
    """A client's reply: the payload, what it measured, and its new state."""

    payload: bytes
    metrics: Mapping[str, float]
    state: ClientState


@dataclass(frozen=True, slots=True)
class _Built:
    """The network for one mask. The mask itself is not kept: it has a byte for every weight of the dense network."""

    digest: bytes
    kept: int
    client: ClientNetwork


class Workshop:
    """What one process needs to train as any client of one experiment: data, architecture, the network being trained.

    Everything in it can be rebuilt from its arguments; what a client must remember is in its `ClientState`.

    Args:
        experiment: what is trained.
        dataset: a device's own samples; those that the experiment names when None.
        parts: how many parts the training samples are divided into; as many as the experiment has clients when None.

    Raises:
        DataError: the samples are missing or corrupt, or cannot be divided so.
        ModelError: the model cannot be built or does not fit them.
    """

    def __init__(self, experiment: Experiment, *, dataset: Dataset | None = None, parts: int | None = None) -> None:
        self.experiment = experiment
        self.dataset = dataset_of(experiment) if dataset is None else dataset
        self.representation = representation_of(experiment)
        self._parts = _parts(experiment, self.dataset, count=parts)
        model = self._model()
        self.shapes = {name: tuple(w.shape) for name, w in prunable_tensors(model).items()}
        self.size = sum(int(np.prod(shape)) for shape in self.shapes.values())
        self._floats = sum(t.numel() for t in float_tensors(model))
        self._experiment_digest = bytes.fromhex(experiment.digest())
        self._built: _Built | None = None
        del model

    def answer(self, request: bytes, *, client: int, state: ClientState, part: int | None = None) -> Answer:
        """Trains on what `request` asks.

        Args:
            request: the payload.
            client: decides what is random.
            state: what the client remembers.
            part: which part of the samples is its own; that of number `client` when None.

        Raises:
            PayloadError: the request is damaged, for another experiment, or for a mask that this client does not have.
            DataError: there is no such part.
            TrainingError: a loss is not finite.
        """
        header, sections = decode_payload(request, limit=self._limit())
        if header.experiment != self._experiment_digest:
            raise PayloadError("the request is for another experiment; use the coordinator's settings here")
        mask, state = self._mask(header, sections, state)
        start = self.representation.receive(sections, mask.kept)
        floats = read_floats(sections, self._floats)
        built = mask.client if isinstance(mask, _Built) else self._build(mask)
        del mask
        network = built.network
        write_vector(network.kept, start)
        write_vector(network.floats, floats)
        began, seed = time.perf_counter(), self.experiment.seed
        # One network serves many clients, whose results must not depend on who trained before.
        built.storage.reseed(derive_seed(seed, "activations", header.round, client))
        # A user's model may draw from torch's global generator, in dropout for example.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(derive_seed(seed, "training", header.round, client))
            trained = train(
                network,
                self._samples(client if part is None else part),
                dataset=self.dataset,
                experiment=self.experiment,
                round=header.round,
                generator=numpy_generator(seed, "batches", header.round, client),
            )
        seconds = time.perf_counter() - began
        reply = self.representation.reply(read_vector(network.kept), start=start)
        payload = encode_payload(header, [reply, floats_section(read_vector(network.floats))])
        metrics = _metrics(trained, seconds=seconds, native_share=network.native_share())
        return Answer(payload, metrics, ClientState(rounds=state.rounds + 1, mask=state.mask))

    def _limit(self) -> int:
        # The largest honest request: a mask in bits, every weight in float32, all floats, and the envelope.
        return self.size // 8 + 4 * self.size + 4 * self._floats + 4096

    def _mask(self, header: Header, sections: Sections, state: ClientState) -> tuple[Mask | _Built, ClientState]:
        """The mask that a request is for; what was built for it where that is so."""
        mask: Mask | _Built
        if has_mask(sections):
            mask = self._read_mask(sections)
            kept = encode_payload(header, [mask_section(mask.flat())])
            state = ClientState(rounds=state.rounds, mask=kept)
        elif not state.mask:
            raise PayloadError("this client has no mask yet; the coordinator has to send it again")
        else:
            stored, sections = decode_payload(state.mask, limit=self._limit())
            if stored.mask_digest != header.mask_digest:
                raise PayloadError("this client has another mask; the coordinator has to send it again")
            built = self._built
            mask = built if built and built.digest == stored.mask_digest else self._read_mask(sections)
        if mask.digest != header.mask_digest:
            raise PayloadError("the mask does not match its digest; the coordinator has to send it again")
        return mask, state

    def _read_mask(self, sections: Sections) -> Mask:
        return Mask.unpack(np.packbits(read_mask(sections, self.size)).tobytes(), self.shapes)

    def _build(self, mask: Mask) -> ClientNetwork:
        # A mask serves many rounds, and every value of the network is overwritten before each.
        if self._built is None or self._built.digest != mask.digest:
            self._built = None
            client = network_of(self.experiment, self._model(), mask, input_shape=self.dataset.input_shape)
            for line in [] if client.choice is None else client.choice.lines():
                _log.info("%s", line)
            self._built = _Built(mask.digest, mask.kept, client)
        return self._built.client

    def _model(self) -> nn.Module:
        # A device has no room for the dense weights, and is sent all that it needs, unless their sizes are frozen in.
        frozen = self.experiment.representation == "signs" and self.experiment.signs.magnitude == "random"
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


def _metrics(trained: Trained, *, seconds: float, native_share: float) -> dict[str, float]:
    return {
        "examples": trained.examples,
        "steps": trained.steps,
        "loss": trained.loss,
        "seconds": seconds,
        "forward-bytes": trained.peaks.forward,
        "backward-bytes": trained.peaks.backward,
        "update-bytes": trained.peaks.update,
        "native-share": native_share,
    }
