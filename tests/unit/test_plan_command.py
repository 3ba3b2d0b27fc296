"""`hedgerow plan`: what it says, and how it refuses."""

from __future__ import annotations

import json

import typer
import typer.testing
from click.testing import Result

from hedgerow.client.commands.plan import plan
from hedgerow.errors import BudgetError

MLP = ("--model=mlp", "--data=digits", "--set=representation=weights", "--set=pruning.rule=erk")


def ran(*arguments: str) -> Result:
    app = typer.Typer()
    app.command()(plan)
    return typer.testing.CliRunner().invoke(app, list(arguments))


def test_a_plan_says_what_was_chosen_and_the_least_that_would_do() -> None:
    result = ran(*MLP, "--memory=1GB", "--all")
    assert result.exit_code == 0, result.output
    first, fits, *rest = result.output.splitlines()
    assert first.startswith("mlp on samples of 1 × 8 × 8, ")
    assert first.endswith("kept; batches of 16")
    assert fits.startswith("fits 1 GB: all kept weights, exact activations, 16 samples at once, momentum, ")
    assert any(line.startswith("the least that would do: ") for line in rest)
    assert sum(line.startswith("> ") for line in rest) == 1


def test_too_little_memory_is_refused_with_what_would_do() -> None:
    result = ran(*MLP, "--memory=1MB")
    error = result.exception
    assert isinstance(error, BudgetError)
    assert error.exit_code == 2
    assert str(error).startswith("memory: 1 MB are too few for mlp; ")
    assert "give --memory " in str(error)


def test_as_json_it_says_the_same_and_a_refusal_has_the_same_exit_code() -> None:
    fits, refused = ran(*MLP, "--memory=1GB", "--json"), ran(*MLP, "--memory=1MB", "--json")
    assert (fits.exit_code, refused.exit_code) == (0, 2)
    found, least = json.loads(fits.output), json.loads(refused.output)
    assert (found["fits"], found["budget_bytes"], found["chosen"]["micro_batch"]) == (True, 10**9, 16)
    assert (least["fits"], least["budget_bytes"]) == (False, 10**6)
    assert least["least_bytes"] >= least["smallest"]["predicted_bytes"] > 10**6
