"""Whether the clients of a simulation have memory enough, asked before there are any."""

from __future__ import annotations

from hedgerow.budget import Refusal
from hedgerow.budget.deciding import Decider, estimated_levels
from hedgerow.budget.words import refusal_text
from hedgerow.config import Experiment
from hedgerow.errors import BudgetError
from hedgerow.server.bench import Bench

__all__ = ["require_memory"]


def require_memory(experiment: Experiment, *, bench: Bench) -> None:
    """Makes sure that each class of clients can train the network in some way.

    There is no mask yet, so where that decides how many weights a tensor keeps this is only about right; clients find
    out for themselves.

    Raises:
        BudgetError: names the first class that has too little, and says what would do; or candidates are to be chosen
            from and nobody has memory for a whole network.
    """
    devices = experiment.fleet.devices
    if not devices:
        return
    levels, whole = estimated_levels(experiment, bench.initial), False
    for settings in experiment.stretches:
        decider = Decider(settings, bench.initial, input_shape=bench.dataset.input_shape, levels=levels)
        for device in devices:
            found = decider.decide(device.memory_bytes)
            if isinstance(found, Refusal):
                advice = f"give class {device.name!r} of fleet.devices {{least}} or more, or train a smaller model"
                raise BudgetError(refusal_text(found, settings, advice=advice))
            # Candidates are chosen from before the first round.
            whole = whole or (settings is experiment and found.chosen.level == 0)
    if experiment.selection.candidates and not whole:
        raise BudgetError(
            "selection.candidates are whole networks, and no class of fleet.devices has memory for more than a part; "
            "give one of them more, or make selection.candidates 0"
        )
