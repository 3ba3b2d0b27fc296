"""`hedgerow plan`: what it says, and how it refuses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import typer
import typer.testing
from click.testing import Result

from hedgerow.client import calibrating
from hedgerow.client.commands.plan import plan
from hedgerow.client.stepping import Step
from hedgerow.config import Experiment
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


def test_a_finish_in_float_has_a_plan_of_its_own() -> None:
    signs = (
        "--recipe=hidenseek",
        "--model=mlp",
        "--data=digits",
        "--set=pruning.rule=erk",
        "--set=finish.rounds=2",
        "--memory=1GB",
    )
    result = ran(*signs)
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    place = lines.index("from round 29 on, in float:")
    first, second = lines[1], lines[place + 1]
    assert first.startswith("fits 1 GB: all kept weights, exact activations, 16 samples at once, ")
    assert "momentum" not in first
    assert second.startswith("fits 1 GB: all kept weights, exact activations, 16 samples at once, momentum, ")
    found = json.loads(ran(*signs, "--json").output)
    assert (found["chosen"]["momentum"], found["finish"]["chosen"]["momentum"]) == (False, True)
    assert "finish" not in json.loads(ran(*MLP, "--memory=1GB", "--json").output)


def test_it_says_whether_this_machine_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    asked = []

    def taken(experiments: Sequence[Experiment], **_: object) -> list[Step | None]:
        asked.append(len(experiments))
        # Far more than is computed, and the same with 2 and with 4 samples.
        kept = {"linear1.weight": 1, "linear2.weight": 1, "output.weight": 1}
        return [Step(forward=10**8, backward=0, update=0, scratch=0, kept=kept) for _ in experiments]

    monkeypatch.setattr(calibrating, "tried_steps", taken)
    options = (*MLP, "--memory=1GB")
    computed, measured, remembered, not_used = (
        ran(*options, *more).output.splitlines() for more in ((), ("--measure",), (), ("--no-measure",))
    )
    assert len(asked) == 1, "only where it is wanted, and once"
    assert (
        "  based on   shapes alone; --measure takes small training steps and puts it right for this machine" in computed
    )
    assert computed == not_used
    assert "  based on   small training steps, measured on this machine" in measured
    assert measured == remembered
    found = [json.loads(ran(*options, "--json", *more).output) for more in ((), ("--no-measure",))]
    assert [one["calibrated"] for one in found] == [True, False]
    assert found[0]["predicted_bytes"] > found[1]["predicted_bytes"] + 90_000_000


def test_where_no_step_can_be_taken_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(calibrating, "tried_steps", lambda experiments, **_: [None for _ in experiments])
    lines = ran(*MLP, "--memory=1GB", "--measure").output.splitlines()
    assert "  based on   shapes alone, as small training steps could not be taken on this machine" in lines
    assert json.loads(ran(*MLP, "--memory=1MB", "--measure", "--json").output)["calibrated"] is False
