"""What a coordinator builds once from an experiment."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import nn

from hedgerow.assembly import dataset_of, exchange_of, model_of
from hedgerow.codec import Floats
from hedgerow.config import Experiment
from hedgerow.data import Dataset
from hedgerow.exchange import Exchange
from hedgerow.pruning import Mask, prunable_tensors
from hedgerow.server.state import RoundState
from hedgerow.sparse import float_tensors, folded, read_vector, sparsify, write_vector

__all__ = ["Bench", "description"]


@dataclass(frozen=True, slots=True)
class Bench:
    """What a coordinator builds once from an experiment.

    Attributes:
        dataset: for the test samples and the shapes.
        initial: the dense network at initialization; never changed.
        exchange: what is said about the network, and how.
    """

    dataset: Dataset
    initial: nn.Module
    exchange: Exchange

    @classmethod
    def of(cls, experiment: Experiment) -> Bench:
        """Loads the data and builds the model; nothing is written.

        Raises:
            DataError: the data is missing or corrupt.
            ModelError: the model cannot be built or does not fit the data.
        """
        dataset = dataset_of(experiment)
        model = model_of(experiment, dataset)
        return cls(dataset, model, exchange_of(experiment, model))

    def at(self, experiment: Experiment, *, round: int) -> Bench:
        """The same for a round of the experiment: for what is trained in it, and for the state that it came to."""
        settings = experiment.at(round)
        return self if settings is experiment else replace(self, exchange=exchange_of(settings, self.initial))

    def start(self, mask: Mask, *, model: nn.Module | None = None) -> RoundState:
        """The state before the first round, with what `mask` keeps of a model; of `initial` when None."""
        model = self.initial if model is None else model
        weights = {name: weight.detach() for name, weight in prunable_tensors(model).items()}
        kept = self.exchange.representation.initial(weights, mask)
        return RoundState(round=0, mask=mask, kept=kept, floats=read_vector(float_tensors(model)))

    def network(self, state: RoundState) -> nn.Module:
        """The dense network that a state stands for, of torch's own layers (see `folded`)."""
        return folded(self.initial, state.mask, kept=self.weights(state), floats=state.floats)

    def kept_network(self, state: RoundState) -> nn.Module:
        """The same network of kept weights only, to run: with native kernels where the mask is sparse enough."""
        network = sparsify(self.initial, state.mask)
        for tensors, values in ((network.kept, self.weights(state)), (network.floats, state.floats)):
            write_vector(tensors, values)
        return network.module

    def weights(self, state: RoundState) -> Floats:
        """The values of the kept weights of that network, (state.mask.kept,) float32."""
        return self.exchange.representation.kept_weights(state.kept, self.initial, state.mask)


def description(experiment: Experiment, bench: Bench) -> str:
    """One line about an experiment."""
    fleet, pruning = experiment.fleet, experiment.pruning
    weights = sum(w.numel() for w in prunable_tensors(bench.initial).values())
    candidates = experiment.selection.candidates
    how = f"one of {candidates} masks" if candidates else pruning.saliency
    finish = f", the last {experiment.finish.rounds} in float" if experiment.finish.rounds else ""
    return (
        f"{experiment.recipe}: {experiment.model.name} on {bench.dataset.name}, "
        f"{round(pruning.density * weights):,} of {weights:,} weights kept ({how}), "
        f"{fleet.clients} clients, {fleet.cohort} a round, {experiment.rounds} rounds{finish}"
    )
