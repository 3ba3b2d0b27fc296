"""Choosing the mask that training begins with: the devices look at a pool of candidates (FedTiny, arXiv 2212.01977).

In two steps, in both of which devices only run the networks. First they say the statistics of each candidate's batch
norms on a part of their own samples, which are pooled to those of all these samples together. Then they say each
candidate's loss with the pooled statistics. The least loss wins, and its statistics start the training.

Where devices plan for the memory that they have, those are asked only that have enough for each candidate.

A device may leave between the steps; who comes in between is not asked. Nothing is kept on disk until there is a
winner: a coordinator that is killed begins again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from hedgerow.codec import Candidate as Sent
from hedgerow.codec import Header, Section, Sections, encode_payload
from hedgerow.config import Experiment
from hedgerow.exchange import read_losses, read_samples, read_statistics
from hedgerow.recalibration import Moments, norm_channels, pooled, statistics_into
from hedgerow.server.bench import Bench
from hedgerow.server.cohort import cohort_of
from hedgerow.server.fleet import Fleet, Request
from hedgerow.server.looking import look
from hedgerow.server.pool import Candidate
from hedgerow.server.progress import Observer
from hedgerow.server.roomy import roomy
from hedgerow.server.state import RoundState
from hedgerow.telemetry import CandidateRecord, SelectionRecord
from hedgerow.v1 import payload_pb2 as pb

__all__ = ["Selected", "select"]


@dataclass(frozen=True, slots=True)
class Selected:
    """The winner, with the pooled statistics, and how it came to be."""

    state: RoundState
    record: SelectionRecord


def select(
    pool: Sequence[Candidate],
    *,
    experiment: Experiment,
    bench: Bench,
    fleet: Fleet,
    observer: Observer,
    least: int | None = None,
) -> Selected:
    """Lets a cohort choose.

    Args:
        pool: the candidates, one at least.
        experiment: the settings.
        bench: what was built from them.
        fleet: whom to ask.
        observer: is told how it goes.
        least: nodes that have to be there; `fleet.cohort` when None.

    Raises:
        TooFewRepliesError: in one of the steps, fewer usable replies than `aggregation.min_replies`; or fewer devices
            have memory for the candidates.
    """
    nodes = fleet.wait_for(experiment.fleet.cohort if least is None else least, observer=observer)
    found = None
    if experiment.budget.plan:
        # Candidates are whole networks, for which not everybody has memory.
        found = roomy(
            nodes, _most(pool), experiment=experiment, exchange=bench.exchange, fleet=fleet, observer=observer
        )
    cohort = cohort_of(experiment, nodes, round=0, least=least) if found is None else found.nodes
    channels = sum(norm.channels for norm in norm_channels(bench.initial))
    header = Header(
        bytes.fromhex(experiment.digest()),
        0,
        b"",
        tensors=bench.exchange.architecture.tensors(),
        task=pb.TASK_RECALIBRATE,
    )

    def moments_in(sections: Sections) -> list[Moments]:
        return read_statistics(sections, networks=len(pool), channels=channels)

    observer.selecting("statistics", clients=len(cohort))
    payload = encode_payload(header, [], candidates=[_whole(candidate, bench) for candidate in pool])
    first = look(
        [Request(node, payload) for node in cohort],
        number=0,
        header=header,
        values=2 * len(pool) * channels,
        read=moments_in,
        experiment=experiment,
        fleet=fleet,
        observer=observer,
    )
    pool = [_recalibrated(c, bench, [said[k] for said in first.values.values()]) for k, c in enumerate(pool)]

    def losses_in(sections: Sections) -> tuple[int, Sequence[float]]:
        return read_samples(sections), read_losses(sections, networks=len(pool)).tolist()

    observer.selecting("losses", clients=len(first.values))
    header = replace(header, tensors=(), task=pb.TASK_EVALUATE)
    payload = encode_payload(header, [], candidates=[_floats(candidate, bench) for candidate in pool])
    second = look(
        [Request(node, payload) for node in first.values],
        number=1,
        header=header,
        values=len(pool),
        read=losses_in,
        experiment=experiment,
        fleet=fleet,
        observer=observer,
    )
    losses = mean_losses(second.values)
    winner = losses.index(min(losses))
    return Selected(
        pool[winner].state,
        SelectionRecord(
            candidates=tuple(
                CandidateRecord(
                    name=c.name, loss=loss, kept=c.state.mask.kept, layer_density=c.state.mask.layer_density()
                )
                for c, loss in zip(pool, losses, strict=True)
            ),
            winner=winner,
            replies=(len(first.values), len(second.values)),
            failures=(*(found.failures if found else ()), *first.failures, *second.failures),
            bytes_up=first.bytes_up + second.bytes_up + (found.bytes_up if found else 0),
            bytes_down=first.bytes_down + second.bytes_down + (found.bytes_down if found else 0),
        ),
    )


def mean_losses(said: Mapping[int, tuple[int, Sequence[float]]]) -> list[float]:
    """Each candidate's mean loss over all samples, from each device's number of samples and mean losses.

    >>> mean_losses({1: (30, [1.0, 2.0]), 2: (10, [2.0, 2.0])})
    [1.25, 2.0]
    """
    samples = sum(count for count, _ in said.values())
    weighted = zip(*([count * loss for loss in losses] for count, losses in said.values()), strict=True)
    # Exact sums: devices answer in any order.
    return [math.fsum(losses) / samples for losses in weighted]


def _recalibrated(candidate: Candidate, bench: Bench, said: Sequence[Moments]) -> Candidate:
    floats = statistics_into(candidate.state.floats, bench.initial, pooled(said))
    return replace(candidate, state=replace(candidate.state, floats=floats))


def _most(pool: Sequence[Candidate]) -> dict[str, int]:
    """Of each tensor the most kept weights in a candidate: who has memory for so many has it for each of them."""
    kept = [candidate.state.mask.layer_kept() for candidate in pool]
    return {name: max(layers[name] for layers in kept) for name in kept[0]}


def _whole(candidate: Candidate, bench: Bench) -> Sent:
    mask = candidate.state.mask
    return _sent(candidate, [bench.exchange.encode_mask(mask), *_version(candidate, bench)])


def _floats(candidate: Candidate, bench: Bench) -> Sent:
    return _sent(candidate, [s for s in _version(candidate, bench) if s.kind == pb.KIND_FLOATS])


def _version(candidate: Candidate, bench: Bench) -> list[Section]:
    state, exchange = candidate.state, bench.exchange
    version = exchange.version(
        0, state.mask.digest, kept=state.kept, floats=state.floats, layers=list(state.mask.layer_kept().values())
    )
    return exchange.encode(version, base=None, layers=list(state.mask.layer_kept().values()))


def _sent(candidate: Candidate, sections: Sequence[Section]) -> Sent:
    return Sent(candidate.state.mask.digest, {section.kind: section for section in sections})
