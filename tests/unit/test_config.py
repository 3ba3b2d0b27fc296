"""From files and texts to an experiment: which layer wins, and errors that say where, what and what is allowed."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from pydantic import ValidationError

from hedgerow.config import (
    DEFAULT_RECIPE,
    AggregationSettings,
    DataSettings,
    Experiment,
    FleetSettings,
    PoolEntry,
    PrivacySettings,
    PruningSettings,
    SelectionSettings,
    SignSettings,
    WireSettings,
    load_experiment,
    parse_override,
    recipe_named,
    recipe_names,
)
from hedgerow.errors import ConfigError

FLEET = [("fleet.clients", 20), ("fleet.cohort", 10)]


def written(folder: Path, text: str) -> Path:
    path = folder / "experiment.toml"
    path.write_text(text, encoding="utf-8")
    return path


def message_for(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_experiment(overrides=[*FLEET, *map(parse_override, overrides)])
    return str(caught.value)


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("bogus=1", ["bogus: unknown key", "allowed here are recipe, seed, rounds"]),
        ("roundz=1", ["roundz: unknown key (did you mean 'rounds'?)"]),
        ("data.nam=x", ["data.nam: unknown key (did you mean 'name'?)", "allowed here are name, path, partition"]),
        ("training.schedule=cosin", ["training.schedule: found 'cosin'", "'cosine'?", "allowed are constant, cosine"]),
        ("representation=5", ["representation: found 5", "allowed are signs, weights"]),
        ("rounds=1.5", ["rounds: found 1.5", "valid integer"]),
        ("rounds=ten", ["rounds: found 'ten'", "valid integer"]),
        ("rounds=true", ["rounds: found True", "valid integer"]),
        ("rounds=0", ["rounds: found 0", "greater than or equal to 1"]),
        ("rounds=", ["rounds: found ''", "valid integer"]),
        ("rounds.x=1", ["rounds: found {'x': 1}", "valid integer"]),
        ("seed=-1", ["seed: found -1", "greater than or equal to 0"]),
        ("seed=9223372036854775808", ["seed: found 9223372036854775808", "less than 9223372036854775808"]),
        ("pruning.density=0", ["pruning.density: found 0", "greater than 0"]),
        ("pruning.density=1.01", ["pruning.density: found 1.01", "less than or equal to 1"]),
        ("pruning.density=nan", ["pruning.density: found nan", "finite number"]),
        ("data.alpha=inf", ["data.alpha: found inf", "finite number"]),
        ("aggregation.levels=256", ["aggregation.levels: found 256", "less than or equal to 255"]),
        ("aggregation.memory=1", ["aggregation.memory: found 1", "less than 1"]),
        ("data.path=5", ["data.path: found 5", "valid string"]),
        ("data=digits", ["data: found 'digits'", "a section with the keys name, path, partition"]),
        ("fleet.oversampling=-0.1", ["fleet.oversampling: found -0.1", "greater than or equal to 0"]),
        ("fleet.deadline=0", ["fleet.deadline: found 0", "greater than 0"]),
        ("fleet.deadline=inf", ["fleet.deadline: found inf", "finite number"]),
        ("fleet.cohort=21", ["fleet.cohort is 21, but fleet.clients is only 20"]),
        ("aggregation.min_replies=11", ["aggregation.min_replies is 11, but fleet.cohort is only 10"]),
        ("training.micro_batch=1", ["training.micro_batch: found 1", "greater than or equal to 2"]),
        ("training.kernels=fast", ["training.kernels: found 'fast'", "allowed are auto, native, dense"]),
        ("training.activations=int", ["training.activations: found 'int'", "allowed are exact, int8, int4, topk"]),
        ("training.keep_ratio=0", ["training.keep_ratio: found 0", "greater than 0"]),
        ("training.recompute=1", ["training.recompute: found 1", "valid boolean"]),
        ("signs.abstain=1", ["signs.abstain: found 1", "less than 1"]),
        ("wire.coder=zip", ["wire.coder: found 'zip'", "allowed are entropy, plain"]),
        ("wire.history=-1", ["wire.history: found -1", "greater than or equal to 0"]),
        ("wire.history=1001", ["wire.history: found 1001", "less than or equal to 1000"]),
        ("wire.down=int8", ["wire.down: found 'int8'", "allowed are fp32, fp16, bf16"]),
        ("wire.up=int4", ["wire.up: found 'int4'", "allowed are fp32, fp16, bf16, int8, uniform"]),
        ("wire.step=0", ["wire.step: found 0", "greater than 0"]),
        ("wire.drop=1", ["wire.drop: found 1", "less than 1"]),
        ("privacy.vote_epsilon=0", ["privacy.vote_epsilon: found 0", "greater than 0"]),
        ("privacy.noise=1", ["privacy.noise is 1.0, which says nothing without privacy.clip; set both"]),
        ("selection.candidates=65", ["selection.candidates: found 65", "less than or equal to 64"]),
        ("selection.pool=[]", ["selection.pool is empty; name one way to make a mask at least, such as 'random/erk'"]),
        ("selection.pool=random/erk", ["selection.pool: found 'random/erk'", "valid tuple"]),
        ("selection.pool=[5]", ["selection.pool.0: found 5", "valid string"]),
        ('selection.pool=["lamp/erk", "lampe/erk"]', ["selection.pool: 'lampe/erk' has the unknown saliency 'lampe'"]),
        ("selection.jitter=1", ["selection.jitter: found 1", "less than 1"]),
        ("selection.public_samples=9", ["selection.public_samples is 9, but selection.candidates is 0", "set both"]),
        (
            "pruning.saliency=snip",
            ["looks at samples that the coordinator has for itself, but selection.public_samples is 0; set it to the"],
        ),
        ("privacy.delta=1", ["privacy.delta: found 1", "less than 1"]),
        (
            "recipe=hidenseak",
            [
                "unknown recipe 'hidenseak' (did you mean 'hidenseek'?)",
                "fedavg, feddst, fedmef, fedpm, fedprox, fedtiny, gmp, hedgerow, hidenseek, prunefl, rigl, static-lamp",
            ],
        ),
        ("recipe=5", ["recipe: expected the name of a recipe in quotes, found 5"]),
    ],
)
def test_an_error_names_the_key_what_was_found_and_what_is_allowed(override: str, parts: list[str]) -> None:
    message = message_for(override)
    assert [part for part in parts if part not in message] == []
    assert "\n" not in message


def test_all_wrong_keys_are_told_at_once() -> None:
    message = message_for("rounds=0", "data.nam=x")
    assert "rounds: found 0" in message
    assert "data.nam: unknown key" in message


def test_an_error_in_a_file_names_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, "rounds = 0")
    with pytest.raises(ConfigError, match="rounds: found 0") as caught:
        load_experiment(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_a_file_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such experiment file"):
        load_experiment(tmp_path / "missing.toml")


@pytest.mark.parametrize("content", [b"rounds = ", b"\xff\xfe", b"a = 1\na = 2"])
def test_a_file_that_is_no_toml_says_so(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "experiment.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"experiment\.toml: (not valid TOML|cannot be read)"):
        load_experiment(path)


def test_a_folder_is_no_experiment_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_experiment(tmp_path)


@pytest.mark.parametrize("text", ["rounds", "=5", ""])
def test_an_override_without_key_or_value_shows_how_it_is_written(text: str) -> None:
    with pytest.raises(ConfigError, match="expected key=value, for example"):
        parse_override(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a=1", ("a", 1)),
        (" a.b = 1e-3 ", ("a.b", 0.001)),
        ("a=true", ("a", True)),
        ('a="5"', ("a", "5")),
        ("a=conv4", ("a", "conv4")),
        ("a=mine.models:build", ("a", "mine.models:build")),
        ("a=x=y", ("a", "x=y")),
        ("a=/data/some folder", ("a", "/data/some folder")),
        ("a=[1, 2]", ("a", [1, 2])),
        ("a=", ("a", "")),
    ],
)
def test_an_override_is_toml_and_a_bare_word_is_a_string(text: str, expected: tuple[str, object]) -> None:
    assert parse_override(text) == expected


def test_an_override_wins_over_the_file_the_file_over_the_recipe_the_recipe_over_defaults(tmp_path: Path) -> None:
    path = written(tmp_path, 'recipe = "fedavg"\nrounds = 7\n[fleet]\ncohort = 4\n')
    experiment = load_experiment(path, overrides=[("fleet.cohort", 3), ("seed", 1), ("seed", 2)])
    assert experiment.representation == "weights"  # recipe
    assert experiment.pruning.density == 1.0  # recipe
    assert experiment.rounds == 7  # file
    assert experiment.fleet.cohort == 3  # override
    assert experiment.seed == 2  # the last override
    assert experiment.fleet.clients == FleetSettings().clients  # default
    assert experiment.recipe == "fedavg"


def test_a_file_changes_single_keys_of_a_section_of_its_recipe(tmp_path: Path) -> None:
    path = written(tmp_path, 'recipe = "fedavg"\n[pruning]\nsaliency = "random"\n')
    assert load_experiment(path).pruning == PruningSettings(density=1.0, saliency="random")
    again = load_experiment(path, overrides=[("pruning.density", 0.5)])
    assert again.pruning == PruningSettings(density=0.5, saliency="random")


def test_the_file_wins_over_the_preset_that_is_given_beside_it(tmp_path: Path) -> None:
    path = written(tmp_path, 'recipe = "hidenseek"\n[pruning]\ndensity = 0.2\n')
    experiment = load_experiment(path, recipe="fedavg")
    assert experiment.recipe == "fedavg"
    assert experiment.representation == "weights"
    assert experiment.pruning.density == 0.2


def test_a_recipe_may_be_chosen_by_an_override_too() -> None:
    experiment = load_experiment(recipe="hidenseek", overrides=[("recipe", "fedavg")])
    assert experiment == load_experiment(recipe="fedavg")


def test_overrides_may_be_an_iterator() -> None:
    assert load_experiment(overrides=iter([("rounds", 3)])).rounds == 3


def test_nothing_at_all_is_the_default_recipe() -> None:
    assert load_experiment() == load_experiment(recipe=DEFAULT_RECIPE)
    assert load_experiment().recipe == DEFAULT_RECIPE == "hedgerow"


def test_batches_may_be_smaller_than_what_the_default_recipe_takes_at_once() -> None:
    """So that a user of the recipe may ask for such batches without knowing of its parts."""
    sizes = {size: load_experiment(overrides=[("training.batch_size", size)]).training.at_once for size in (8, 16, 40)}
    assert sizes == {8: 8, 16: 16, 40: 16}
    assert load_experiment(recipe="fedavg", overrides=[("training.batch_size", 40)]).training.at_once == 40


def test_every_recipe_loads_and_describes_itself() -> None:
    assert recipe_names() == tuple(sorted(recipe_names()))
    assert {"fedavg", "hidenseek"} <= set(recipe_names())
    for name in recipe_names():
        assert load_experiment(recipe=name).recipe == name
        assert recipe_named(name).name == name
        assert len(recipe_named(name).description) > 10


@pytest.mark.parametrize("representation", ["weights", "signs"])
def test_the_recipe_of_ours_keeps_a_mask_by_chance_trains_and_codes(representation: str) -> None:
    assert load_experiment(recipe="hedgerow").representation == "weights"
    experiment = load_experiment(recipe="hedgerow", overrides=[("representation", representation)])
    assert (experiment.pruning.saliency, experiment.pruning.rule) == ("random", "igq")
    assert (experiment.selection.candidates, experiment.selection.public_samples) == (0, 0), "its mask needs no data"
    assert (experiment.adjustment.every, experiment.aggregation.statistics) == (0, 0.2)
    assert experiment.wire.coder == "entropy"
    assert experiment.wire.down == experiment.wire.up == "uniform"
    assert experiment.signs.abstain == load_experiment(recipe="hidenseek").signs.abstain
    floats = [number for number in range(1, 31) if experiment.at(number).representation == "weights"]
    assert floats == list(range(1 if representation == "weights" else 7, 31))


@pytest.mark.parametrize(
    "override",
    [
        ("selection.candidates", 3),
        ("adjustment.every", 12),
        ("aggregation.statistics", 1.0),
        ("wire.coder", "plain"),
        ("wire.up", "fp32"),
        ("representation", "signs"),
        ("finish.share", 0.0),
        ("wire.down", "bf16"),
        ("training.micro_batch", None),
    ],
    ids=str,
)
def test_each_piece_of_it_can_be_turned_off_or_on_alone(override: tuple[str, object]) -> None:
    whole = load_experiment(recipe="hedgerow")
    assert load_experiment(recipe="hedgerow", overrides=[override]).digest() != whole.digest()


def test_loading_twice_does_not_carry_over_changes() -> None:
    changed = load_experiment(recipe="fedavg", overrides=[("pruning.density", 0.5)])
    assert changed.pruning.density == 0.5
    assert load_experiment(recipe="fedavg").pruning.density == 1.0


def test_an_experiment_is_frozen() -> None:
    experiment = Experiment()
    with pytest.raises(ValidationError, match="frozen"):
        experiment.seed = 1
    with pytest.raises(ValidationError, match="frozen"):
        experiment.data.name = "x"


def test_a_digest_is_twelve_hexadecimal_digits() -> None:
    digest = Experiment().digest()
    assert len(bytes.fromhex(digest)) == 6
    assert digest == digest.lower()


def test_a_digest_does_not_depend_on_spelled_out_defaults_or_the_label() -> None:
    plain = Experiment(seed=3)
    spelled = Experiment(
        recipe="mine",
        seed=3,
        rounds=plain.rounds,
        data=DataSettings(alpha=DataSettings().alpha),
        fleet=FleetSettings(clients=FleetSettings().clients),
    )
    assert spelled.digest() == plain.digest()
    assert (
        load_experiment(overrides=[("data.alpha", 1)]).digest()
        == load_experiment(overrides=[("data.alpha", 1.0)]).digest()
    )


def test_a_digest_of_defaults_only_is_that_of_nothing() -> None:
    # printf '{}' | sha256sum: a field that is added with a default never renames a run.
    assert Experiment().digest() == "44136fa355b3"


OLDER = [("fleet.clients", 100), ("fleet.cohort", 10), ("aggregation.min_replies", 5)]
"""An experiment whose digest is older than all that follows, when said on its own and not over a recipe."""


def digest_of(tree: Sequence[tuple[str, object]]) -> str:
    sections: dict[str, dict[str, object]] = {}
    for key, value in tree:
        section, _, name = key.partition(".")
        sections.setdefault(section, {})[name] = value
    return Experiment.model_validate(sections).digest()


def test_the_settings_of_live_fleets_rename_no_older_run() -> None:
    # Both digests were written before `fleet.oversampling` and `fleet.deadline` existed.
    assert load_experiment(recipe="fedavg").digest() == "aed99bfe5bcb"
    assert digest_of(OLDER) == "396c67b88846"
    assert digest_of([*OLDER, ("fleet.oversampling", 0)]) == "396c67b88846"
    assert digest_of([*OLDER, ("fleet.oversampling", 0.0)]) == "396c67b88846"


def test_the_settings_of_sparse_kernels_rename_no_older_run() -> None:
    # Written before there were `training.kernels` and the settings of memory.
    spelled = [
        *OLDER,
        ("training.kernels", "auto"),
        ("training.activations", "exact"),
        ("training.keep_ratio", 0.3),
        ("training.recompute", False),
    ]
    assert digest_of(spelled) == "396c67b88846"


def test_the_settings_of_the_wire_and_of_privacy_rename_no_older_run() -> None:
    # Written before there were `wire`, `privacy` and `signs.abstain`.
    spelled = [
        *OLDER,
        ("signs.abstain", 0),
        ("signs.voters", "random"),
        *((f"wire.{name}", value) for name, value in WireSettings().model_dump().items()),
        *((f"privacy.{name}", value) for name, value in PrivacySettings().model_dump().items()),
    ]
    assert digest_of(spelled) == "396c67b88846"


def test_only_drifts_can_abstain() -> None:
    Experiment(signs=SignSettings(abstain=0.9), aggregation=AggregationSettings(signs="drift"))
    for signs in ("mean", "vote", "innovation"):
        aggregation = AggregationSettings.model_validate({"signs": signs})
        with pytest.raises(ValidationError, match=r"signs\.abstain is 0\.9, but only drifts can abstain; set"):
            Experiment(signs=SignSettings(abstain=0.9), aggregation=aggregation)
        Experiment(signs=SignSettings(abstain=0.0), aggregation=aggregation)


def test_noise_needs_the_norm_that_it_hides() -> None:
    with pytest.raises(ValidationError, match=r"privacy\.noise is 0\.5, which says nothing without privacy\.clip"):
        PrivacySettings(noise=0.5)
    assert PrivacySettings(noise=0.5, clip=2.0).clip == 2.0
    assert PrivacySettings(clip=2.0).noise == 0.0


def test_candidates_that_could_not_differ_are_refused() -> None:
    one, two = SelectionSettings(candidates=1), SelectionSettings(candidates=2)
    with pytest.raises(
        ValidationError, match=r"candidates is 1, but with pruning\.density 1 all masks are one; set it"
    ):
        Experiment(selection=one, pruning=PruningSettings(density=1))
    assert Experiment(selection=two).selection.candidates == 2
    with pytest.raises(ValidationError, match=r"jitter is 0, but with selection\.public_samples it alone tells"):
        SelectionSettings(candidates=2, public_samples=9, jitter=0)
    assert SelectionSettings(candidates=1, public_samples=9, jitter=0).public_samples == 9


def test_a_pool_of_a_file_is_a_list_and_survives_json(tmp_path: Path) -> None:
    path = written(tmp_path, '[selection]\ncandidates = 2\npool = ["random/erk~", "lamp/global"]\n')
    experiment = load_experiment(path)
    assert experiment.selection.pool == ("random/erk~", "lamp/global")
    assert experiment.selection.entries == (
        PoolEntry(saliency="random", rule="erk", jittered=True),
        PoolEntry(saliency="lamp", rule="global"),
    )
    assert Experiment.model_validate_json(experiment.model_dump_json()) == experiment


@pytest.mark.parametrize(
    "change",
    [
        "selection.candidates=8",
        'selection.pool=["lamp/erk"]',
        "training.kernels=dense",
        "training.micro_batch=4",
        "training.activations=int8",
        "training.recompute=true",
        "seed=1",
        "rounds=12345",
        "training.epochs=77",
        "data.path=x",
        "signs.step=0.5",
        "fleet.clients=777",
        "fleet.oversampling=0.5",
        "fleet.deadline=60",
        "signs.abstain=0.123",
        "wire.coder=plain",
        "wire.history=0",
        "wire.down=fp16",
        "wire.up=int8",
        "wire.step=0.5",
        "wire.error_feedback=false",
        "wire.drop=0.5",
        "privacy.vote_epsilon=1",
        "privacy.clip=1",
        "privacy.delta=1e-6",
    ],
)
def test_every_setting_that_decides_a_result_changes_the_digest(change: str) -> None:
    plain = load_experiment(recipe="hidenseek")
    assert load_experiment(recipe="hidenseek", overrides=[parse_override(change)]).digest() != plain.digest()


def test_an_experiment_survives_json() -> None:
    experiment = load_experiment(overrides=[("signs.step", 1e-7), ("data.path", "ä")])
    again = Experiment.model_validate_json(experiment.model_dump_json())
    assert again == experiment
    assert again.digest() == experiment.digest()


def test_settings_that_do_not_fit_each_other_are_refused_in_code_too() -> None:
    with pytest.raises(ValidationError, match=r"fleet\.cohort is 3, but fleet\.clients is only 2"):
        FleetSettings(clients=2, cohort=3)
    with pytest.raises(ValidationError, match=r"aggregation\.min_replies is 3, but fleet\.cohort is only 2"):
        Experiment(fleet=FleetSettings(clients=2, cohort=2), aggregation=AggregationSettings(min_replies=3))
