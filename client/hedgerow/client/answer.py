"""What a client does with one request: check, rebuild, train or look, reply. State goes in, state comes out."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

from hedgerow.assembly import dataset_of
from hedgerow.budget.deciding import Calibrate
from hedgerow.client.building import Builder
from hedgerow.client.looking import Looker, losses, moments_of, statistics, told
from hedgerow.client.memory import ClientState, Memories
from hedgerow.client.planning import Room, exhausted, more_guarded
from hedgerow.client.pool import pool_in
from hedgerow.client.samples import LocalSamples
from hedgerow.client.training_task import TrainingTask
from hedgerow.codec import (
    Candidate,
    Header,
    Sections,
    decode_candidates,
    decode_payload,
    encode_payload,
)
from hedgerow.config import Experiment
from hedgerow.data import Dataset, Samples
from hedgerow.errors import OverrunError, PayloadError
from hedgerow.exchange import asked_levels, plan_reply
from hedgerow.files import sealed
from hedgerow.privacy import Draw
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


class Workshop:
    """What one process needs to train as any client of one experiment: data, architecture, the network being trained.

    Everything in it can be rebuilt from its arguments; what a client must remember is in its `ClientState`.

    Args:
        experiment: what is trained.
        dataset: a device's own samples; those that the experiment names when None.
        parts: how many parts the training samples are divided into; as many as the experiment has clients when None.
        calibrator: for the settings of some rounds what `hedgerow.client.planning.Planner` takes.

    Attributes:
        builder: of the round that was asked about last.

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
        calibrator: Callable[[Experiment], Calibrate | None] = lambda _: None,
    ) -> None:
        self.experiment = experiment
        self.dataset = dataset_of(experiment) if dataset is None else dataset
        self.samples = LocalSamples(experiment, self.dataset, parts=parts)
        self._calibrator = calibrator
        self.builder = Builder(experiment, self.dataset, calibrate=calibrator(experiment))
        self._experiment_digest = bytes.fromhex(experiment.digest())

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
            resident.begin(aside=self.samples.copied_bytes(client if part is None else part))
        try:
            return self._answered(
                request, client=client, state=state, part=part, draw=draw, room=room, resident=resident
            )
        except (MemoryError, RuntimeError) as error:
            if room is None or not exhausted(error):
                raise
            # What it had made so far is not to count against the next request.
            self.builder.forget()
            reason = str(error)
        raise OverrunError(
            f"{size_text(room.budget)} of memory were not enough, other than planned; it plans with more to spare from "
            f"now on ({clean_text(reason, 100)})",
            guard=more_guarded(room.guard),
        )

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
        most = self.builder.limit(networks=self.experiment.selection.candidates)
        header, sections = decode_payload(request, limit=most)
        if header.experiment != self._experiment_digest:
            raise PayloadError("the request is for another experiment; use the coordinator's settings here")
        self._begin(header.round)
        self.builder.exchange.architecture.require(header.tensors)
        samples = self.samples.of(client if part is None else part)
        looker = self._looker(samples, round=header.round, client=client)
        match header.task:
            case pb.TASK_TRAIN:
                if len(request) > self.builder.limit():
                    raise PayloadError(f"a request to train of {len(request)} bytes", kind="bounds")
                task = TrainingTask(
                    experiment=self.builder.experiment,
                    dataset=self.dataset,
                    builder=self.builder,
                    header=header,
                    sections=sections,
                    samples=samples,
                    client=client,
                    room=room,
                    draw=draw,
                    resident=resident,
                )
                return Answer(*task.answer(state))
            case pb.TASK_RECALIBRATE:
                return self._recalibrated(request, header, sections, state, looker=looker, room=room)
            case pb.TASK_EVALUATE:
                return self._evaluated(request, header, state, looker=looker)
            case pb.TASK_PLAN if room is not None:
                levels = asked_levels(header, architecture=self.builder.exchange.architecture)
                said = plan_reply(self.builder.planner.said(levels, room))
                return Answer(encode_payload(header.of_reply(), [said]), state)
        raise PayloadError(f"task {header.task} is not known here; give both ends one version", kind="mismatch")

    def _begin(self, round: int) -> None:
        """Has a builder for what a round trains, and gives back the memory of what an earlier one did."""
        settings = self.experiment.at(round)
        if settings != self.builder.experiment:
            self.builder.forget()
            self.builder = Builder(settings, self.dataset, calibrate=self._calibrator(settings))

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
            memories = Memories(self.builder.exchange, state, limit=self.builder.limit())
            built, _ = self.builder.started(header, sections, memories, room=room)
            said = told([moments_of(built.client, looker)], looker)
            return Answer(encode_payload(header.of_reply(), said), state)
        if sections:
            raise PayloadError("a request with networks to choose from and with one of its own")
        # The device has room for one network.
        self.builder.forget()
        payload = encode_payload(header.of_reply(), statistics(candidates, looker))
        return Answer(payload, replace(state, pool=sealed(request)))

    def _evaluated(self, request: bytes, header: Header, state: ClientState, *, looker: Looker) -> Answer:
        candidates = pool_in(state.pool, header, self._candidates(request), read=self._candidates)
        self.builder.forget()
        return Answer(encode_payload(header.of_reply(), losses(candidates, looker)), state)

    def _candidates(self, request: bytes) -> list[Candidate]:
        most = self.experiment.selection.candidates
        return decode_candidates(request, limit=self.builder.limit(networks=most), most=most)

    def _looker(self, samples: Samples, *, round: int, client: int) -> Looker:
        return Looker(
            experiment=self.builder.experiment,
            exchange=self.builder.exchange,
            model=self.builder.model,
            dataset=self.dataset,
            samples=samples,
            round=round,
            client=client,
        )
