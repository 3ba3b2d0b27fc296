"""The messages of a few hidenseek rounds, envelopes included, beside the sum of their sections' entropies.

The rounds are played by the coordinator's and the clients' own code in one process, and what they say is wrapped and
encoded as it would travel.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from flwr.app import Message

from benchmarks.recipes import FEDERATED, QUICK
from hedgerow.assembly import mask_of
from hedgerow.client.answer import Workshop
from hedgerow.client.memory import ClientState
from hedgerow.codec import Header
from hedgerow.config import Experiment, load_experiment
from hedgerow.data import Dataset, Samples, load_dataset
from hedgerow.server.bench import Bench
from hedgerow.server.fleet import Reply, Request
from hedgerow.server.history import MemoryHistory
from hedgerow.server.outgoing import Outgoing
from hedgerow.server.progress import Observer
from hedgerow.server.rounds import play_round
from hedgerow.server.state import RoundState
from hedgerow.wire.flower import assign_message_id, content_of, encode_message, identify_process

__all__ = ["few_images", "measured"]

_CLIENTS = 4
_IMAGES = 600 * _CLIENTS


@dataclass(slots=True)
class _Clients:
    """All clients, one after the other; `payloads` are the lengths of what they said in the last round."""

    workshop: Workshop
    states: dict[int, ClientState] = field(default_factory=lambda: dict.fromkeys(range(_CLIENTS), ClientState()))
    payloads: list[int] = field(default_factory=list)

    def nodes(self) -> Sequence[int]:
        return range(_CLIENTS)

    def wait_for(self, count: int, *, observer: Observer) -> Sequence[int]:
        return self.nodes()

    def name(self, node: int) -> str:
        return f"client-{node}"

    def exchange(self, requests: Iterable[Request], *, round: int, over: Callable[[], bool]) -> Iterator[Reply]:
        self.payloads = []
        for request in requests:
            asked = _message(request.payload, node=request.node, round=round)
            answer = self.workshop.answer(request.payload, client=request.node, state=self.states[request.node])
            self.states[request.node] = answer.state
            self.payloads.append(len(answer.payload))
            said = encode_message(Message(content_of(answer.payload), reply_to=asked))
            yield Reply(request.node, answer.payload, None, {}, len(encode_message(asked)), len(said))


def measured(*, quick: bool) -> dict[str, float]:
    """Figures of a request with the mask, of one that is whole, of one that says what changed, and of a reply."""
    experiment = _experiment(quick=quick)
    bench = Bench.of(experiment)
    clients, history = _Clients(Workshop(experiment, dataset=bench.dataset)), MemoryHistory(most=32)
    state = bench.start(mask_of(experiment, bench.initial, bench.dataset.input_shape))
    identify_process()
    found: dict[str, list[tuple[int, int, float]]] = {}
    for number in range(1, experiment.rounds + 1):
        whole = _whole(state, experiment=experiment, bench=bench)
        played = play_round(
            state, experiment=experiment, exchange=bench.exchange, fleet=clients, observer=Observer(), history=history
        )
        assert not played.fold.failures, played.fold.failures
        replies = len(played.fold.clients)
        envelope = len(encode_message(_message(b"", node=1, round=number)))
        down = played.fold.bytes_down // replies
        found.setdefault("first" if number == 1 else "delta", []).append(
            (down, down - envelope, played.entropy_down / replies)
        )
        if number > 1:
            found.setdefault("whole", []).append(whole)
        up = zip([played.fold.bytes_up / replies] * replies, clients.payloads, played.fold.entropies, strict=True)
        found.setdefault("reply", []).extend((int(message), payload, entropy) for message, payload, entropy in up)
        state = played.state
    figures: dict[str, float] = {"message.kept": state.mask.kept, "message.floats": state.floats.size}
    for name, sizes in found.items():
        message, payload, entropy = (statistics.mean(column) for column in zip(*sizes, strict=True))
        figures |= {
            f"message.{name}.bytes": message,
            f"message.{name}.payload_bytes": payload,
            f"message.{name}.entropy": entropy,
            f"message.{name}.share": message / entropy,
            f"message.{name}.payload_share": payload / entropy,
        }
    return figures


def few_images() -> Dataset:
    """As many training images of Fashion-MNIST for each client as one of a hundred has."""
    whole = load_dataset("fashion-mnist")
    train = Samples(whole.train.images[:_IMAGES], whole.train.labels[:_IMAGES])
    test = Samples(whole.test.images[:500], whole.test.labels[:500])
    return Dataset(whole.name, train=train, test=test, classes=whole.classes, mean=whole.mean, std=whole.std)


def _experiment(*, quick: bool) -> Experiment:
    base = {**FEDERATED, **QUICK} if quick else {**FEDERATED, "data.name": "benchmarks.wire.message:few_images"}
    own = {"fleet.clients": _CLIENTS, "fleet.cohort": _CLIENTS, "data.partition": "iid", "rounds": 4}
    return load_experiment(recipe="hidenseek", overrides={**base, **own}.items())


def _whole(state: RoundState, *, experiment: Experiment, bench: Bench) -> tuple[int, int, float]:
    """Message, payload and entropy of the request to a client who has the mask and no version."""
    number, node = state.round + 1, 0
    header = Header(bytes.fromhex(experiment.digest()), number, state.mask.digest)
    version = bench.exchange.version(
        number, state.mask.digest, kept=state.kept, floats=state.floats, layers=list(state.mask.layer_kept().values())
    )
    outgoing = Outgoing(header, version, exchange=bench.exchange, state=state, history=MemoryHistory(most=0))
    (request,) = outgoing.requests([node])
    return (
        len(encode_message(_message(request.payload, node=1, round=number))),
        len(request.payload),
        sum(section.entropy for section in outgoing.sections([node]).values()),
    )


def _message(payload: bytes, *, node: int, round: int) -> Message:
    message = Message(content_of(payload), node, "train", group_id=str(round))
    assign_message_id(message)
    return message
