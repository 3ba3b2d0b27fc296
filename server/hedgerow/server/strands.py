"""The levels of one round: the parts of the network that devices train, each with a mask and requests of its own."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hedgerow.codec import Bits, Growth, Header
from hedgerow.exchange import Exchange
from hedgerow.exchange.growth import marked_counts
from hedgerow.pruning import Mask
from hedgerow.pruning.marks import marked
from hedgerow.server.fleet import Request
from hedgerow.server.history import History
from hedgerow.server.outgoing import Outgoing
from hedgerow.server.reading import Reader
from hedgerow.server.state import RoundState
from hedgerow.telemetry import SectionBytes

__all__ = ["Strands", "level_growth"]


@dataclass(frozen=True, slots=True)
class Strands:
    """What is sent to the nodes of each level, and what their replies have to be.

    Attributes:
        outgoing: the requests, by level.
        readers: of the replies, by level.
        levels: of the nodes that train another part of the network than the whole.
    """

    outgoing: Mapping[int, Outgoing]
    readers: Mapping[int, Reader]
    levels: Mapping[int, int]

    @classmethod
    def of(
        cls,
        state: RoundState,
        cohort: Collection[int],
        *,
        experiment: bytes,
        growth: Sequence[Growth],
        exchange: Exchange,
        history: History,
        own_masks: bool = False,
    ) -> Strands:
        """Those of the round after `state`.

        Args:
            state: what it starts from; its plans say who trains which level.
            cohort: who is asked.
            experiment: 6 bytes, the digest that names it.
            growth: what is asked of those who have the whole mask.
            exchange: codes what travels.
            history: the versions before.
            own_masks: whether each device changes the mask itself, by no more than `growth` says.
        """
        number, outgoing, readers = state.round + 1, {}, {}
        levels = {node: state.plans[node] for node in cohort if state.plans.get(node)}
        marks = _marked(state, number, growth, exchange=exchange) if state.nests else None
        layers = list(state.mask.layer_kept().values())
        whole = exchange.version(number, state.mask.digest, kept=state.kept, floats=state.floats, layers=layers)
        for level in sorted({0} if not state.nests else {levels.get(node, 0) for node in cohort}):
            part = state.part(level)
            places, asked = state.places(level), tuple(growth)
            if places is not None:
                asked = level_growth(growth, whole=state.mask, places=places, marks=marks)
            header = Header(experiment, number, part.mask.digest, growth=asked)
            version, layers = whole, list(part.mask.layer_kept().values())
            if places is not None:
                version = exchange.part(whole, part.mask.digest, places=places, floats=part.floats)
            outgoing[level] = Outgoing(header, version, exchange=exchange, state=part, history=history, level=level)
            readers[level] = Reader(
                header, version, layers, exchange, part.mask if level else None, part.mask if own_masks else None
            )
        return cls(outgoing, readers, levels)

    def requests(self, cohort: Sequence[int]) -> Iterator[Request]:
        """One request for each node of the cohort."""
        for node in cohort:
            yield from self.outgoing[self.levels.get(node, 0)].requests([node])

    def sections(self, cohort: Collection[int]) -> dict[str, SectionBytes]:
        """What all requests together hold, by kind and codec."""
        lengths: Counter[str] = Counter()
        entropies: dict[str, list[float]] = {}
        for level, nodes in self._by_level(cohort).items():
            for label, found in self.outgoing[level].sections(nodes).items():
                lengths[label] += found.bytes
                entropies.setdefault(label, []).append(found.entropy)
        return {
            label: SectionBytes(bytes=lengths[label], entropy=math.fsum(entropies[label])) for label in sorted(lengths)
        }

    def bases(self, cohort: Collection[int]) -> Counter[int]:
        """How many nodes are sent what changed since each version; see `Outgoing.bases`."""
        found: Counter[int] = Counter()
        for level, nodes in self._by_level(cohort).items():
            found.update(self.outgoing[level].bases(nodes))
        return found

    def _by_level(self, cohort: Collection[int]) -> dict[int, list[int]]:
        nodes: dict[int, list[int]] = {level: [] for level in self.outgoing}
        for node in cohort:
            nodes[self.levels.get(node, 0)].append(node)
        return nodes


def level_growth(
    growth: Sequence[Growth], *, whole: Mask, places: Bits, marks: Bits | None = None
) -> tuple[Growth, ...]:
    """What is asked of devices that have a part of the mask, where `growth` is asked of those that have the whole.

    The largest gradients where such a device keeps nothing may lie at weights that others keep, which it knows nothing
    of; so it is asked for more, by the share that these have among all that it may speak of.

    Args:
        growth: what is asked of the whole.
        whole: the mask of the network.
        places: which of its kept weights the devices have, (whole.kept,) bool.
        marks: which of them are marked, (whole.kept,) bool; none when None.
    """
    sizes, kept = [math.prod(shape) for shape in whole.shapes.values()], list(whole.layer_kept().values())
    own = _counts(places, kept)
    marks_of = [0] * len(kept) if marks is None else _counts(places & marks, kept)
    asked = []
    for one in growth:
        size, has = sizes[one.tensor], own[one.tensor]
        # Of the weights that the device does not keep so many are pruned for all.
        count = -(-one.count * (size - has) // (size - kept[one.tensor])) if one.count else 0
        # A device has room for no more gradients than kept weights.
        asked.append(Growth(one.tensor, min(count, has), marks_of[one.tensor]))
    return tuple(one for one in asked if one.count or one.marked)


def _counts(bits: Bits, layers: Sequence[int]) -> list[int]:
    return [int(np.count_nonzero(part)) for part in np.split(bits, np.cumsum(layers)[:-1])]


def _marked(state: RoundState, number: int, growth: Sequence[Growth], *, exchange: Exchange) -> Bits | None:
    if not any(one.marked for one in growth):
        return None
    layers = list(state.mask.layer_kept().values())
    version = exchange.version(number, state.mask.digest, kept=state.kept, floats=state.floats, layers=layers)
    scores = exchange.representation.drop_scores(exchange.starts(version)[0])
    return marked(scores, layers=layers, counts=marked_counts(growth, layers=layers))
