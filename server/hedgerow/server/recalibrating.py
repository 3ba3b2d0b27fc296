"""Batch-norm statistics of the network between two rounds, from the clients of the last one, for who evaluates it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hedgerow.codec import Header, Sections
from hedgerow.config import Experiment
from hedgerow.errors import TooFewRepliesError
from hedgerow.exchange import read_statistics
from hedgerow.recalibration import Moments, norm_channels, pooled, statistics_into
from hedgerow.server.bench import Bench
from hedgerow.server.finish import begun
from hedgerow.server.fleet import Fleet
from hedgerow.server.history import History
from hedgerow.server.looking import look
from hedgerow.server.outgoing import Outgoing
from hedgerow.server.progress import Observer
from hedgerow.server.state import RoundState
from hedgerow.telemetry import RecalibrationRecord
from hedgerow.v1 import payload_pb2 as pb

__all__ = ["Recalibrated", "recalibrate"]


@dataclass(frozen=True, slots=True)
class Recalibrated:
    """The state with the new statistics, and what they cost; the old one and None where nobody answered."""

    state: RoundState
    record: RecalibrationRecord | None


def recalibrate(
    state: RoundState,
    *,
    cohort: Sequence[int],
    experiment: Experiment,
    bench: Bench,
    fleet: Fleet,
    observer: Observer,
    history: History,
) -> Recalibrated:
    """Asks `cohort` for the statistics of the network that `state` stands for.

    The version that travels is that of the next round, before its statistics are known; nobody remembers it. Where
    devices train parts of the network, it is that of the largest part, and only those that train it are asked.
    """
    channels = sum(norm.channels for norm in norm_channels(bench.initial))
    if not channels:
        return Recalibrated(state, None)
    number, whole, level = state.round + 1, state, state.trained
    exchange = bench.at(experiment, round=number).exchange
    cohort = [node for node in cohort if state.plans.get(node, 0) == level]
    state = begun(state, experiment=experiment, bench=bench).part(level)
    header = Header(bytes.fromhex(experiment.digest()), number, state.mask.digest, task=pb.TASK_RECALIBRATE)
    version = exchange.version(
        number, state.mask.digest, kept=state.kept, floats=state.floats, layers=list(state.mask.layer_kept().values())
    )
    outgoing = Outgoing(header, version, exchange=exchange, state=state, history=history, level=level)

    def moments_in(sections: Sections) -> Moments:
        return read_statistics(sections, networks=1, channels=channels)[0]

    observer.selecting("statistics", clients=len(cohort))
    try:
        said = look(
            outgoing.requests(cohort),
            number=number,
            header=header,
            values=2 * channels,
            read=moments_in,
            experiment=experiment,
            fleet=fleet,
            observer=observer,
        )
    except TooFewRepliesError:
        # What training left serves as well; the round is not lost for it.
        return Recalibrated(whole, None)
    floats = statistics_into(state.floats, bench.initial, pooled(list(said.values.values())))
    record = RecalibrationRecord(replies=len(said.values), bytes_up=said.bytes_up, bytes_down=said.bytes_down)
    return Recalibrated(whole.with_floats(level, floats), record)
