"""What a comparison runs, and that its lines can be compared."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgerow.assembly import parts_of
from hedgerow.config import Experiment, load_experiment, recipe_named, recipe_names
from hedgerow.data import load_dataset
from hedgerow.errors import ConfigError
from hedgerow.server.cohort import cohort_of
from hedgerow.server.comparing.lines import Line, chosen_lines, parse_line, read_lines
from hedgerow.server.comparing.plan import SPLITS, Plan, differing, flat_settings, planned

HIDENSEEK, FEDAVG = Line(name="hidenseek", recipe="hidenseek"), Line(name="fedavg", recipe="fedavg")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "digits.toml"
    path.write_text('rounds = 7\n[data]\nname = "digits"\n[pruning]\niterations = 10\n')
    return path


def experiments(plan: Plan, line: str) -> list[Experiment]:
    return [run.experiment for run in plan.of(line)]


def test_recipes_a_file_and_single_lines_are_lines_in_this_order(tmp_path: Path) -> None:
    path = tmp_path / "lines.toml"
    path.write_text('[sparser]\nrecipe = "fedtiny"\npruning.density = 0.01\n[plain]\n')
    found = chosen_lines(recipes="hidenseek, fedavg", file=path, texts=["calm=fedavg weights.momentum=0"])
    assert found == [
        HIDENSEEK,
        FEDAVG,
        Line(name="sparser", recipe="fedtiny", settings=(("pruning", {"density": 0.01}),)),
        Line(name="plain"),
        Line(name="calm", recipe="fedavg", settings=(("weights.momentum", 0),)),
    ]


@pytest.mark.parametrize(
    ("text", "saying"),
    [
        ("", "expected NAME=RECIPE"),
        ("fedavg", "expected NAME=RECIPE"),
        ("a= rounds=3", "expected NAME=RECIPE"),
        ("a=fedavg rounds", "expected NAME=RECIPE"),
        ("a=fedavg 'rounds=3", "no closing quotation"),
        ("../a=fedavg", "a folder gets this name"),
        ("a/b=fedavg", "a folder gets this name"),
        (f"{'a' * 41}=fedavg", "a folder gets this name"),
        ("a=fedavg seed=3", "all lines run with the same seeds"),
        ("a=fedavg recipe=fedavg", "recipe is named twice"),
    ],
)
def test_a_line_that_is_none_is_refused(text: str, saying: str) -> None:
    with pytest.raises(ConfigError, match=saying):
        parse_line(text)


@pytest.mark.parametrize(
    ("text", "saying"),
    [
        ("a = 1", "a is not a table"),
        ("[a]\nrecipe = 3", "recipe of a is 3"),
        ("[a", "not valid TOML"),
        ("['a b']", "a folder gets this name"),
    ],
)
def test_a_file_that_holds_no_lines_is_refused(text: str, saying: str, tmp_path: Path) -> None:
    (tmp_path / "lines.toml").write_text(text)
    with pytest.raises(ConfigError, match=saying):
        read_lines(tmp_path / "lines.toml")


def test_lines_need_names_of_their_own_and_there_has_to_be_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="line fedavg is there twice"):
        chosen_lines(recipes="fedavg,hidenseek,fedavg", file=None, texts=[])
    with pytest.raises(ConfigError, match="nothing to compare"):
        chosen_lines(recipes=" , ", file=None, texts=[])
    with pytest.raises(ConfigError, match="no such file of lines"):
        chosen_lines(recipes=None, file=tmp_path / "absent.toml", texts=[])


def test_a_lines_settings_win_over_those_of_all_lines_which_win_over_the_file_which_wins_over_the_recipe(
    file: Path,
) -> None:
    own = Line(name="own", recipe="fedavg", settings=(("weights.momentum", 0.1), ("pruning.density", 0.3)))
    plan = planned(
        file,
        title="digits",
        lines=[FEDAVG, own],
        seeds=1,
        settings=[("weights.momentum", 0.2), ("pruning.density", 0.4), ("rounds", 9)],
    )
    (shared,), (found,) = experiments(plan, "fedavg"), experiments(plan, "own")
    assert (shared.weights.momentum, shared.pruning.density, shared.rounds) == (0.2, 0.4, 9)
    assert (found.weights.momentum, found.pruning.density, found.rounds) == (0.1, 0.3, 9)
    assert (found.representation, found.pruning.iterations) == ("weights", 10), "of the recipe, and of the file"
    assert planned(file, title="digits", lines=[FEDAVG], seeds=1).runs[0].experiment.pruning.density == 1.0, (
        "of the recipe"
    )


def test_the_experiment_of_a_run_is_the_one_that_simulate_would_run(file: Path) -> None:
    plan = planned(file, title="digits", lines=[HIDENSEEK, FEDAVG], seeds=2)
    assert [run.experiment for run in plan.runs] == [
        load_experiment(file, recipe=recipe, overrides=[("seed", seed)])
        for seed in (0, 1)
        for recipe in ("hidenseek", "fedavg")
    ]
    assert [run.name for run in plan.runs[:3]] == ["hidenseek, seed 0", "fedavg, seed 0", "hidenseek, seed 1"]


def test_seeds_follow_the_experiments_own(file: Path) -> None:
    plan = planned(file, title="digits", lines=[HIDENSEEK, FEDAVG], seeds=3, settings=[("seed", 5)])
    assert plan.seeds == (5, 6, 7)
    assert [e.seed for e in experiments(plan, "fedavg")] == [5, 6, 7]


def test_without_a_file_there_are_recipes_and_settings_only() -> None:
    plan = planned(None, title="none", lines=[FEDAVG], seeds=1, settings=[("rounds", 3)])
    assert plan.title == "none"
    assert plan.runs[0].experiment == load_experiment(recipe="fedavg", overrides=[("rounds", 3)])


def test_a_line_without_a_recipe_has_the_files(file: Path) -> None:
    file.write_text('recipe = "fedavg"\nrounds = 3')
    plan = planned(file, title="digits", lines=[Line(name="a"), HIDENSEEK], seeds=1)
    assert plan.runs[0].experiment.recipe == "fedavg"
    assert plan.runs[1].experiment.recipe == "hidenseek"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rounds", 8),
        ("data.alpha", 0.1),
        ("data.partition", "iid"),
        ("data.min_samples", 3),
        ("fleet.clients", 30),
        ("fleet.cohort", 5),
        ("fleet.oversampling", 0.5),
        ("fleet.deadline", 9.0),
    ],
)
def test_lines_on_different_splits_are_refused_unless_that_is_allowed(key: str, value: object, file: Path) -> None:
    lines = [HIDENSEEK, Line(name="other", recipe="fedavg", settings=((key, value),))]
    with pytest.raises(ConfigError, match=f"{key} is .* in line hidenseek and {value} in line other"):
        planned(file, title="digits", lines=lines, seeds=2)
    assert planned(file, title="digits", lines=lines, seeds=2, allow_different=True).different == (key,)


def test_public_samples_are_missing_on_clients_and_so_decide_the_splits_too(file: Path) -> None:
    public = (("selection.candidates", 2), ("selection.public_samples", 50), ("pruning.density", 0.1))
    lines = [HIDENSEEK, Line(name="public", recipe="fedavg", settings=public)]
    with pytest.raises(ConfigError, match=r"selection\.public_samples is 0 in line hidenseek and 50 in line public"):
        planned(file, title="digits", lines=lines, seeds=1)


def test_lines_that_are_one_experiment_are_refused(file: Path) -> None:
    same = Line(name="same", recipe="hidenseek", settings=(("pruning.density", 0.05),))
    with pytest.raises(ConfigError, match="lines hidenseek and same are one and the same experiment"):
        planned(file, title="digits", lines=[HIDENSEEK, FEDAVG, same], seeds=2)


def test_a_mistake_in_a_line_is_said_with_its_name(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"line a: .*pruning\.densty: unknown key"):
        planned(file, title="digits", lines=[parse_line("a=fedavg pruning.densty=1")], seeds=1)
    with pytest.raises(ConfigError, match="line hidensek: recipe: unknown recipe 'hidensek'"):
        planned(file, title="digits", lines=[Line(name="hidensek", recipe="hidensek")], seeds=1)
    with pytest.raises(ConfigError, match="--set recipe would give all lines the same"):
        planned(file, title="digits", lines=[FEDAVG], seeds=1, settings=[("recipe", "fedavg")])


def test_what_differs_is_said_by_dotted_key(file: Path) -> None:
    runs = planned(
        file, title="digits", lines=[HIDENSEEK, parse_line("b=hidenseek wire.up=fp32 pruning.density=0.2")], seeds=1
    ).runs
    assert differing(runs) == ["pruning.density", "wire.up"]
    assert differing(runs, only=("wire.",)) == ["wire.up"]


def test_no_recipe_says_what_decides_the_splits() -> None:
    for name in recipe_names():
        plain, own = load_experiment(recipe="fedavg").model_dump(), load_experiment(recipe=name).model_dump()
        assert own["data"] == plain["data"], name
        assert own["rounds"] == plain["rounds"], name
        assert own["fleet"] == plain["fleet"], name
        # SNIP looks at samples, which no client may have then; who compares it with others has to allow that.
        assert (own["selection"]["public_samples"] == 0) == (name != "static-snip"), name
        assert "seed" not in recipe_named(name).settings


DIGITS = load_dataset("digits")


@given(
    recipe=st.sampled_from(recipe_names()),
    changes=st.fixed_dictionaries(
        {},
        optional={
            "training.epochs": st.integers(1, 3),
            "training.batch_size": st.integers(2, 64),
            "model.name": st.sampled_from(("mlp", "conv4", "lenet5")),
            "wire.history": st.integers(0, 4),
            "evaluation.every": st.integers(1, 5),
        },
    ),
    seed=st.integers(0, 2**40),
    fleet=st.tuples(st.integers(1, 30), st.integers(1, 30)).map(sorted),
    alpha=st.sampled_from((0.3, 0.5, 10.0)),
)
@settings(max_examples=25)
def test_partition_and_cohorts_depend_on_data_seed_and_fleet_only(
    recipe: str, changes: dict[str, object], seed: int, fleet: list[int], alpha: float
) -> None:
    cohort, clients = fleet
    splits = {
        "seed": seed,
        "fleet.clients": clients,
        "fleet.cohort": cohort,
        "data.alpha": alpha,
        "data.min_samples": 1,
    }
    plain = load_experiment(recipe="fedavg", overrides=splits.items())
    other = load_experiment(recipe=recipe, overrides=[*changes.items(), *splits.items()])
    for one, two in zip(parts_of(plain, DIGITS), parts_of(other, DIGITS), strict=True):
        np.testing.assert_array_equal(one, two)
    for number in (1, 2, 30):
        assert cohort_of(plain, range(2, 2 + clients), round=number) == cohort_of(
            other, range(2, 2 + clients), round=number
        )


def test_each_setting_that_is_said_to_decide_the_splits_is_one() -> None:
    for prefix in SPLITS:
        assert any(key.startswith(prefix) for key in flat_settings(Experiment())), prefix
