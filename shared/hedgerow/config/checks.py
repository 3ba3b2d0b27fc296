"""What the axes of an experiment ask of each other. Each check says in one sentence what to change."""

from __future__ import annotations

from hedgerow.config.axes import Axes
from hedgerow.config.masks import AdjustmentSettings

__all__ = ["check"]


def check(axes: Axes) -> None:
    """Raises ValueError for the first thing that does not go together."""
    for one in _CHECKS:
        one(axes)


def _budgets_are_planned_for(axes: Axes) -> None:
    budget = axes.budget
    asking = {
        "fleet.devices says how much memory clients have": bool(axes.fleet.devices),
        f"budget.levels has {len(budget.levels)} parts of the network": len(budget.levels) > 1,
        "budget.hard limits memory": budget.hard,
    }
    for what in [what for what, asked in asking.items() if asked and not budget.plan]:
        raise ValueError(f"{what}, but budget.plan is false, so nobody plans for it; set it to true, or leave that out")
    if budget.hard and axes.training.kernels == "auto":
        raise ValueError(
            'budget.hard limits memory, but training.kernels is "auto", and to measure which are faster takes more '
            'than to train; set it to "native" or "dense"'
        )


def _replies_fit(axes: Axes) -> None:
    needed, asked = axes.aggregation.min_replies, axes.fleet.cohort
    if needed > asked:
        raise ValueError(f"aggregation.min_replies is {needed}, but fleet.cohort is only {asked}")


def _votes_fit(axes: Axes) -> None:
    if axes.signs.abstain and axes.aggregation.signs != "drift":
        raise ValueError(
            f"signs.abstain is {axes.signs.abstain}, but only drifts can abstain; set it to 0, or "
            f'aggregation.signs to "drift" instead of {axes.aggregation.signs!r}'
        )


def _proximal_fits(axes: Axes) -> None:
    if axes.training.proximal and axes.representation != "weights":
        raise ValueError(
            f"training.proximal is {axes.training.proximal:g}, but representation is {axes.representation!r}, "
            'whose scores are no weights to stay near; set it to 0, or representation to "weights"'
        )


def _supermasks_fit(axes: Axes) -> None:
    if axes.representation != "supermask":
        return
    asking = {
        f"adjustment.every is {axes.adjustment.every}": axes.adjustment.every > 0,
        f"selection.candidates is {axes.selection.candidates}": axes.selection.candidates > 0,
        f"budget.levels has {len(axes.budget.levels)} parts": len(axes.budget.levels) > 1,
    }
    for what in [what for what, asked in asking.items() if asked]:
        raise ValueError(
            f'representation is "supermask", which learns itself what to keep, but {what}; leave that out, or set '
            'representation to "signs" or "weights"'
        )


def _finish_fits(axes: Axes) -> None:
    rounds, share = axes.finish.rounds, axes.finish.share
    named = f"finish.rounds is {rounds}" if rounds else f"finish.share is {share}"
    if not rounds and (not share or axes.representation == "weights"):
        return
    if axes.representation != "signs":
        raise ValueError(
            f"{named}, but representation is {axes.representation!r}, and only signs end in float; "
            'set it to 0, or representation to "signs"'
        )
    if axes.finish_rounds >= axes.rounds:
        raise ValueError(
            f"{named}, but there are {axes.rounds} rounds, so none would train signs; set it to "
            f'{axes.rounds - 1} or less, or representation to "weights"'
        )
    if axes.privacy.vote_epsilon is not None and not axes.privacy.noise:
        raise ValueError(
            f"{named}, but float weights are sent without the noise that privacy.vote_epsilon gives "
            "votes; set it to 0, or set privacy.clip and privacy.noise"
        )


def _norms_fit(axes: Axes) -> None:
    norm, training = axes.model.norm, axes.training
    if training.topk_layers == "standardised" and (norm != "nsconv" or training.activations != "topk"):
        raise ValueError(
            f'training.topk_layers is "standardised", but model.norm is {norm!r} and training.activations is '
            f'{training.activations!r}; set these to "nsconv" and "topk", or topk_layers to "all"'
        )
    asking = {
        "selection.candidates": axes.selection.candidates > 0,
        "evaluation.recalibrate": bool(axes.evaluation.recalibrate),
    }
    for name in [name for name, asks in asking.items() if asks and norm == "nsconv"]:
        raise ValueError(
            f'{name} asks devices for batch-norm statistics, which there are none of with model.norm = "nsconv"; '
            'leave it out, or set model.norm to "batch"'
        )


def _candidates_differ(axes: Axes) -> None:
    if axes.selection.candidates and axes.first_density == 1:
        name = "pruning.density" if axes.adjustment.density == "constant" else "adjustment.start_density"
        raise ValueError(
            f"selection.candidates is {axes.selection.candidates}, but with {name} 1 all masks are one; "
            "set it to 0, or prune"
        )


def _public_samples_have_a_use(axes: Axes) -> None:
    selection, looks = axes.selection, axes.pruning.saliency == "snip" and not axes.selection.candidates
    if looks and selection.public_samples < 2:
        raise ValueError(
            'pruning.saliency is "snip", which looks at samples that the coordinator has for itself, but '
            f"selection.public_samples is {selection.public_samples}; set it to the size of one batch, such as 128"
        )
    if selection.public_samples and not selection.candidates and not looks:
        raise ValueError(
            f"selection.public_samples is {selection.public_samples}, but selection.candidates is 0, so nothing is "
            "made of them; set both"
        )


def _adjustments_can_be_made(axes: Axes) -> None:
    every, last = axes.adjustment.every, axes.adjustment.last(axes.rounds)
    if every and axes.pruning.density == 1:
        raise ValueError(
            f"adjustment.every is {every}, but with pruning.density 1 no weight is pruned that could grow; set it "
            "to 0, or prune"
        )
    if every > last:
        raise ValueError(
            f"adjustment.every is {every}, but round {last} is the last that may adjust, so none does; set every "
            f"to {last} or less, or until to {every} or more"
        )
    asks = every > 0 and axes.adjustment.density == "constant"
    if asks and (axes.privacy.noise or axes.privacy.vote_epsilon is not None):
        raise ValueError(
            f"adjustment.every is {every}, but the gradients that it asks for are sent without noise, which would "
            "break what privacy.noise and privacy.vote_epsilon promise; set it to 0, or do without those"
        )


def _density_falls(axes: Axes) -> None:
    adjustment, end = axes.adjustment, axes.pruning.density
    every, start = adjustment.every, adjustment.start_density
    if adjustment.density == "constant":
        if start is not None:
            raise ValueError(
                f'adjustment.start_density is {start:g}, but adjustment.density is "constant", so it would not '
                'fall; leave it out, or set adjustment.density to "cubic"'
            )
        return
    if start is None or start <= end:
        raise ValueError(
            f'adjustment.density is "cubic", but adjustment.start_density is {start}; set it to a density above '
            f"pruning.density, which is {end:g}"
        )
    if every == 0 or adjustment.last(axes.rounds) < 2 * every:
        raise ValueError(
            f'adjustment.density is "cubic", but with adjustment.every {every} and until '
            f"{adjustment.last(axes.rounds)} fewer than two rounds adjust; set every to 1 or more, and until to at "
            "least twice that"
        )
    if adjustment.blocks != 1:
        raise ValueError(
            f'adjustment.density is "cubic", which prunes all tensors in each adjustment, but adjustment.blocks is '
            f"{adjustment.blocks}; leave it out"
        )


def _marks_are_pruned(axes: Axes) -> None:
    penalty, adjustment = axes.extrusion.penalty, axes.adjustment
    if penalty == 0:
        return
    if adjustment.every == 0:
        raise ValueError(
            f"extrusion.penalty is {penalty:g}, but adjustment.every is 0, so no weight is going to be pruned; set "
            "every, or the penalty to 0"
        )
    if axes.representation == "signs":
        raise ValueError(
            f'extrusion.penalty is {penalty:g}, but representation is "signs", whose sizes are frozen; set the '
            'penalty to 0, or representation to "weights"'
        )
    if adjustment.density == "cubic" and axes.pruning.rule == "global":
        raise ValueError(
            f'extrusion.penalty is {penalty:g}, but by adjustment.density "cubic" and pruning.rule "global" nobody '
            'knows before a round which tensors lose weights; set the rule to "uniform" or "erk", or the penalty '
            "to 0"
        )


def _devices_can_adjust(axes: Axes) -> None:
    adjustment = axes.adjustment
    if adjustment.by == "coordinator":
        if adjustment.after != AdjustmentSettings().after:
            raise ValueError(
                f'adjustment.after is {adjustment.after:g}, but adjustment.by is "coordinator", which adjusts '
                'between rounds; leave it out, or set adjustment.by to "devices"'
            )
        return
    if axes.representation == "signs":
        raise ValueError(
            'adjustment.by is "devices", but representation is "signs", whose votes are about one mask; set '
            'representation to "weights", or adjustment.by to "coordinator"'
        )
    asking = {
        f'adjustment.density is "{adjustment.density}", in which only the coordinator knows how many go': (
            adjustment.density != "constant"
        ),
        'adjustment.gradient is "sent", of weights that a device no longer has': adjustment.gradient == "sent",
        f"extrusion.penalty is {axes.extrusion.penalty:g}, for weights that are known before the round": (
            axes.extrusion.penalty > 0
        ),
        f"budget.levels has {len(axes.budget.levels)} parts, each with one mask": len(axes.budget.levels) > 1,
        'wire.down is "uniform", whose rounding is remembered of one mask': axes.wire.down == "uniform",
    }
    for what in [what for what, asked in asking.items() if asked]:
        raise ValueError(f'adjustment.by is "devices", but {what}; leave that out, or set it to "coordinator"')
    if adjustment.every == 0:
        raise ValueError(
            'adjustment.by is "devices", but adjustment.every is 0, so nobody adjusts; set every, or leave it out'
        )


def _gradients_can_decide(axes: Axes) -> None:
    adjustment = axes.adjustment
    if adjustment.criterion == "magnitude":
        return
    if adjustment.every == 0:
        raise ValueError(
            'adjustment.criterion is "gradient", but adjustment.every is 0, so nothing is decided; set every, or '
            "leave it out"
        )
    asking = {
        'representation is "signs", whose gradients are of another size than those of what is pruned': (
            axes.representation == "signs"
        ),
        'adjustment.by is "devices", which adjust by their own gradients alone': adjustment.by == "devices",
        f'adjustment.density is "{adjustment.density}", in which weights only go': adjustment.density != "constant",
        f"adjustment.blocks is {adjustment.blocks}, but all tensors are compared": adjustment.blocks != 1,
        "adjustment.relative is true, in units that kept weights have none of": adjustment.relative,
        f"extrusion.penalty is {axes.extrusion.penalty:g}, for weights that are known before the round": (
            axes.extrusion.penalty > 0
        ),
        f"budget.levels has {len(axes.budget.levels)} parts, and who trains one knows only its gradients": (
            len(axes.budget.levels) > 1
        ),
    }
    for what in [what for what, asked in asking.items() if asked]:
        raise ValueError(f'adjustment.criterion is "gradient", but {what}; leave that out, or set it to "magnitude"')


def _noise_covers_what_is_said(axes: Axes) -> None:
    noisy = axes.privacy.vote_epsilon is not None or axes.privacy.noise > 0
    asking = {
        "selection.candidates": axes.selection.candidates > 0,
        "evaluation.recalibrate": bool(axes.evaluation.recalibrate),
    }
    for name in [name for name, asks in asking.items() if asks and noisy]:
        raise ValueError(
            f"{name} makes devices say statistics of their samples without noise, which would break what "
            "privacy.noise and privacy.vote_epsilon promise; leave it out, or do without those"
        )


_CHECKS = (
    _budgets_are_planned_for,
    _replies_fit,
    _votes_fit,
    _proximal_fits,
    _supermasks_fit,
    _finish_fits,
    _norms_fit,
    _candidates_differ,
    _public_samples_have_a_use,
    _adjustments_can_be_made,
    _density_falls,
    _marks_are_pruned,
    _devices_can_adjust,
    _gradients_can_decide,
    _noise_covers_what_is_said,
)
