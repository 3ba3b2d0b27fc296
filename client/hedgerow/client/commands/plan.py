"""`hedgerow plan`: how a network is trained in so much memory, and why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hedgerow.errors import BudgetError

if TYPE_CHECKING:
    from hedgerow.config import Experiment
    from hedgerow.data import Dataset

__all__ = ["plan"]


def plan(
    experiment: Annotated[
        Path | None, typer.Argument(metavar="[EXPERIMENT.toml]", help="Settings; the recipe's own where absent.")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="Preset to start from, `hedgerow` when absent; see `hedgerow recipes`.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one setting: --set pruning.density=0.1; repeatable."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="A built-in model's name, or your own package.module:function.")
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Memory to train in, such as 96MB; what `join` would use when absent."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Data set whose samples go through it; colour images of 32 × 32 in 10 classes when absent."),
    ] = None,
    data_path: Annotated[Path | None, typer.Option(help="File or folder of the data set.")] = None,
    measure: Annotated[
        bool | None,
        typer.Option(
            "--measure/--no-measure",
            help="Take small training steps here, where none are remembered, and put the figures right for this "
            "machine; or do not even use those that are remembered.",
        ),
    ] = None,
    ladder: Annotated[bool, typer.Option("--all", help="List what else there is, from most memory to least.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Says how a device with so much memory would train a network, what that costs, and the least that would do."""
    from hedgerow.config.load import load_experiment, parse_override
    from hedgerow.units import parse_bytes

    overrides = [parse_override(text) for text in settings or []]
    shortcuts = {"model.name": model, "data.name": data, "data.path": None if data_path is None else str(data_path)}
    overrides += [(key, value) for key, value in shortcuts.items() if value is not None]
    chosen = load_experiment(experiment, recipe=recipe, overrides=overrides)
    named = experiment is not None or any(key.startswith("data.") for key, _ in overrides)
    budget = None if memory is None else parse_bytes(memory)
    _tell(chosen, named=named, budget=budget, measure=measure, ladder=ladder, as_json=as_json)


def _tell(
    experiment: Experiment, *, named: bool, budget: int | None, measure: bool | None, ladder: bool, as_json: bool
) -> None:
    # torch takes seconds to import; `--help` and a mistaken key must not wait for it.
    import torch

    from hedgerow.assembly import dataset_of, model_of
    from hedgerow.budget import Refusal
    from hedgerow.budget.deciding import Decider, estimated_levels
    from hedgerow.budget.words import candidate_text, ladder_lines, plan_lines, plan_record, refusal_text
    from hedgerow.client.calibrating import Calibrator
    from hedgerow.client.joining.machine import default_budget
    from hedgerow.units import size_text

    # A device trains with one unless its user says otherwise, and each has working memory of its own.
    torch.set_num_threads(1)
    budget = default_budget() if budget is None else budget
    dataset = dataset_of(experiment) if named else _blank()
    network = model_of(experiment, dataset, hollow=True)
    shape = dataset.input_shape
    levels, plans = estimated_levels(experiment, network), []
    for settings in experiment.stretches:
        calibrate = None
        if measure is not False:
            calibrate = Calibrator(
                settings, input_shape=shape, classes=dataset.classes, budget=budget, measure=measure is True
            )
        decider = Decider(settings, network, input_shape=shape, levels=levels, calibrate=calibrate)
        plans.append((settings, decider, decider.decide(budget)))
    refused = [(settings, found) for settings, _, found in plans if isinstance(found, Refusal)]
    if as_json:
        first, *finish = (plan_record(found, decider) for _, decider, found in plans)
        typer.echo(json.dumps({**first, **({"finish": finish[0]} if finish else {})}, indent=2))
        if refused:
            raise typer.Exit(BudgetError.exit_code)
        return
    if refused:
        settings, lacking = refused[0]
        advice = "give --memory {least} or more, or a smaller model"
        raise BudgetError(refusal_text(lacking, settings, advice=advice))
    decider = plans[0][1]
    typer.echo(
        f"{experiment.model.name} on samples of {' × '.join(map(str, shape))}, {decider.weights:,} prunable weights, "
        f"{decider.kept(0):,} kept; batches of {experiment.training.batch_size}"
    )
    for settings, decider, found in plans:
        assert not isinstance(found, Refusal)
        if settings is not experiment:
            typer.echo(f"from round {settings.first_round} on, in float:")
        for line in plan_lines(found, decider):
            typer.echo(line)
        typer.echo(f"  {_grounds(calibrated=decider.step(found.chosen).calibrated, measure=measure)}")
        least = decider.decide(0)
        assert isinstance(least, Refusal)
        smallest = candidate_text(least.smallest, settings)
        typer.echo(f"the least that would do: {size_text(least.least)}, with {smallest}")
        for line in ladder_lines(decider, chosen=found.chosen) if ladder else ():
            typer.echo(line)


def _grounds(*, calibrated: bool, measure: bool | None) -> str:
    """What the figures are based on, in words."""
    if calibrated:
        return "based on   small training steps, measured on this machine"
    if measure:
        return "based on   shapes alone, as small training steps could not be taken on this machine"
    return "based on   shapes alone; --measure takes small training steps and puts it right for this machine"


def _blank() -> Dataset:
    """Samples of a usual size, as only their shape and the number of classes matter."""
    import numpy as np

    from hedgerow.data import Dataset, Samples

    samples = Samples(np.zeros((10, 3, 32, 32), dtype=np.uint8), np.arange(10))
    return Dataset("blank", train=samples, test=samples, classes=10, mean=(0.0,) * 3, std=(1.0,) * 3)
