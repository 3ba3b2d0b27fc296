"""SynFlow: prune before training and without data, and never cut a layer off.

Tanaka et al. 2020, arXiv 2006.05467: score every weight by its synaptic flow |w · ∂R/∂w| (see `hedgerow.pruning.flow`),
keep the global top density^(k/n), score again, for k = 1..n.

What this adds is a guarantee: a layer that has flow before pruning has flow under the final mask, at any density and
any n, one included. Each step protects the best weight of each layer, and the scores after it (which the next step
needs anyway) tell whether a layer lost its flow all the same. Then the step is undone and bisected, scored anew after
each part that is harmless, down to the single weight whose removal starves the layer; that one is pinned for good. A
layer that has no flow to begin with (a dead end, or weights that are all 0) is not protected and may be emptied.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from hedgerow.errors import PruningError
from hedgerow.pruning.density import kept_count, least_density
from hedgerow.pruning.flow import PathNetwork, chain
from hedgerow.pruning.mask import Mask
from hedgerow.pruning.selection import smallest

__all__ = ["synflow", "synflow_scores"]


@torch.inference_mode(False)  # gradients are needed even where the caller switched them off
def synflow(
    model: nn.Module,
    input_shape: tuple[int, ...],
    *,
    density: float,
    iterations: int = 100,
    progress: Callable[[int, int], None] | None = None,
) -> Mask:
    """The SynFlow mask of exactly ``round(density * N)`` weights; the model is not changed, no random number drawn.

    Costs ``iterations + 1`` evaluations (forward and backward of one all-ones sample), more only where a step would
    starve a layer: about log2 of the step's size for each weight that has to be pinned. Runs in float32 if the
    outermost module is an `nn.Sequential`, else in float64, as flow may then leave the range of float32.

    Args:
        model: of convolutions and linear layers, with any activations, normalisation, pooling and residual sums. An
            activation that is a function call and saturates (`relu6`) blocks flow; use its module.
        input_shape: of one sample, without the batch dimension.
        density: kept fraction of all prunable weights, in (0, 1].
        iterations: n in the formula above.
        progress: called with (steps done, n) after each step.

    Raises:
        PruningError: the density cannot be reached without starving a layer (the message says which can), the model
            has no path from input to output, cannot run on the input, or its flow is not finite.
    """
    if iterations < 1:
        raise PruningError(f"SynFlow was asked for {iterations} iterations: ask for 1 or more")
    search = _Search(model, input_shape)
    kept = kept_count(density, size=search.count, layers=len(search.network.names))
    size = search.count
    for step in range(1, iterations + 1):
        search.shrink(kept if step == iterations else max(kept, round(size * density ** (step / iterations))))
        if progress is not None:
            progress(step, iterations)
    return Mask(search.network.layers(search.alive))


@torch.inference_mode(False)
def synflow_scores(model: nn.Module, input_shape: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """The synaptic flow |w · ∂R/∂w| through every prunable weight of the unpruned model, float64, up to one factor.

    The factor is 1 unless the outermost module is an `nn.Sequential`, where it makes R the number of outputs.

    Raises:
        PruningError: the model cannot run on the input, or its flow is not finite.
    """
    network = PathNetwork(model, input_shape, dtype=torch.float64)
    network.evaluate()
    return network.layers(network.scores)


class _Search:
    """The weights that are still alive, the network they make, and its scores."""

    def __init__(self, model: nn.Module, input_shape: tuple[int, ...]) -> None:
        self.network, self._best = _evaluated(model, input_shape)
        self._must_flow = self.network.scores[self._best] > 0
        if not self._must_flow.any():
            raise PruningError(
                "no path of non-zero weights leads from input to output, so SynFlow cannot rank weights: "
                "initialise the model again, or choose another saliency"
            )
        self.alive: npt.NDArray[np.bool_] = np.ones(self.network.scores.size, dtype=np.bool_)
        self.count = self.alive.size
        self._pinned: list[int] = []

    def shrink(self, target: int) -> None:
        """Remove the weights with the least flow until `target` are left."""
        suspects = 0  # of the weights with the least flow, so many could not be removed together
        while self.count > target:
            protected = self._protected()
            chunk = min(self.count - target, self.count - protected.size)
            if chunk == 0:
                least = least_density(self.count, size=self.alive.size)
                raise PruningError(
                    f"{target} weights cannot be kept without cutting a layer off from input or output: "
                    f"the least density that SynFlow reached is {least}"
                )
            if suspects:
                chunk = min(chunk, max(1, suspects // 2))
            dropped = self._least(chunk, protected)
            if self._drop(dropped, careful=suspects > 0):
                suspects = max(0, suspects - chunk)
            elif chunk > 1:
                suspects = chunk
            else:
                self._pinned.append(int(dropped.argmax()))
                suspects = 0

    def _least(self, chunk: int, protected: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        scores = self.network.scores
        real = scores[protected]
        scores[protected] = np.inf
        dropped = smallest(scores, self.alive, chunk)
        scores[protected] = real
        return dropped

    def _protected(self) -> npt.NDArray[np.int64]:
        """Pinned weights, and the best weight of each layer that none of them keeps alive."""
        pinned = np.array(self._pinned, dtype=np.int64)
        needs_best = self._must_flow.copy()
        needs_best[self.network.layer_of(pinned)] = False
        return np.concatenate([pinned, self._best[needs_best]])

    def _drop(self, dropped: npt.NDArray[np.bool_], *, careful: bool) -> bool:
        """Remove these weights and score again, or leave all as it was if that starves a layer.

        If `careful`, failure is likely: a copy of the scores then saves evaluating them once more.
        """
        before = (self._best, self.network.scores.copy()) if careful else None
        self.alive ^= dropped
        self.network.keep(self.alive)
        self._best = self.network.evaluate()
        if (self.network.scores[self._best] > 0)[self._must_flow].all():
            self.count -= int(np.count_nonzero(dropped))
            return True
        self.alive ^= dropped
        self.network.restore(self.alive)
        if before is None:
            self._best = self.network.evaluate()
        else:
            self._best, self.network.scores[:] = before
        return False


def _evaluated(model: nn.Module, input_shape: tuple[int, ...]) -> tuple[PathNetwork, npt.NDArray[np.int64]]:
    if len(chain(model)) > 1:
        network = PathNetwork(model, input_shape, dtype=torch.float32)
        try:
            best = network.evaluate()
            # A layer without any flow may be cut off, or just too faint for float32.
            if (network.scores[best] > 0).all():
                return network, best
        except PruningError:
            pass
    network = PathNetwork(model, input_shape, dtype=torch.float64)
    return network, network.evaluate()
