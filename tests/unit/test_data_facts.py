"""What a device is told of the coordinator's data, and how it fits its own samples to that."""

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.data import DataFacts, Dataset, Samples, load_dataset
from hedgerow.errors import DataError

FACTS = {"input_shape": (1, 8, 8), "classes": 10, "mean": (0.5,), "std": (0.25,)}


def dataset_of(labels: list[int], *, classes: int, shape: tuple[int, int, int] = (1, 8, 8)) -> Dataset:
    channels = shape[0]
    split = Samples(np.zeros((len(labels), *shape), np.uint8), np.array(labels, dtype=np.int64))
    return Dataset("mine", train=split, test=split, classes=classes, mean=(0.1,) * channels, std=(0.2,) * channels)


def test_the_facts_of_a_data_set_survive_json_exactly() -> None:
    digits = load_dataset("digits")
    facts = DataFacts.of(digits)
    assert (facts.input_shape, facts.classes, facts.mean, facts.std) == ((1, 8, 8), 10, digits.mean, digits.std)
    assert DataFacts.parse(facts.model_dump_json()) == facts


@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(min_value=1e-300, allow_infinity=False))
def test_every_float_survives_json_exactly(mean: float, std: float) -> None:
    facts = DataFacts(input_shape=(1, 8, 8), classes=2, mean=(mean,), std=(std,))
    again = DataFacts.parse(facts.model_dump_json())
    assert (again.mean, again.std) == ((mean,), (std,))


def test_the_same_samples_get_the_coordinators_normalisation_and_classes() -> None:
    mine = dataset_of([0, 2], classes=3)
    fitted = DataFacts(input_shape=(1, 8, 8), classes=10, mean=(0.5,), std=(0.25,)).apply(mine)
    assert (fitted.classes, fitted.mean, fitted.std) == (10, (0.5,), (0.25,))
    assert fitted.train.images is mine.train.images
    assert (mine.classes, mine.mean) == (3, (0.1,)), "the argument is left as it is"
    # A black pixel: (0 - 0.5) / 0.25.
    assert set(fitted.normalised(mine.train.images).flatten().tolist()) == {-2.0}


def test_its_own_facts_change_nothing() -> None:
    digits = load_dataset("digits")
    fitted = DataFacts.of(digits).apply(digits)
    assert (fitted.classes, fitted.mean, fitted.std) == (digits.classes, digits.mean, digits.std)


def test_images_of_another_shape_are_refused() -> None:
    mine = dataset_of([0, 1], classes=2, shape=(3, 8, 8))
    with pytest.raises(DataError, match=r"mine: images have the shape \(3, 8, 8\), .* takes \(1, 8, 8\)"):
        DataFacts(input_shape=(1, 8, 8), classes=2, mean=(0.5,), std=(0.25,)).apply(mine)


def test_labels_outside_the_coordinators_classes_are_refused() -> None:
    facts = DataFacts(input_shape=(1, 8, 8), classes=5, mean=(0.5,), std=(0.25,))
    with pytest.raises(DataError, match=r"mine: a training label is 5, .* 5 classes \(0 to 4\)"):
        facts.apply(dataset_of([0, 5], classes=10))
    facts.apply(dataset_of([0, 4], classes=10))


@pytest.mark.parametrize(
    "changed",
    [
        {"input_shape": (1, 8)},
        {"input_shape": (0, 8, 8)},
        {"input_shape": (1, 65536, 65536)},
        {"input_shape": (2, 8, 8)},
        {"input_shape": ("1", 8, 8)},
        {"classes": 1},
        {"classes": 100_001},
        {"classes": True},
        {"mean": ()},
        {"mean": (math.nan,)},
        {"std": (0.0,)},
        {"std": (-1.0,)},
        {"std": (math.inf,)},
        {"std": (0.1, 0.1)},
        {"code": "theirs:model"},
    ],
)
def test_impossible_facts_are_refused(changed: dict[str, Any]) -> None:
    assert DataFacts.model_validate(FACTS)
    with pytest.raises(ValueError, match="validation error"):
        DataFacts.model_validate({**FACTS, **changed})


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", "null", '{"input_shape":[1,8,8],"classes":10,"mean":[0.5],"std":[NaN]}']
)
def test_text_that_describes_no_data_set_is_a_data_error(text: str) -> None:
    with pytest.raises(DataError, match="the coordinator describes no possible data set"):
        DataFacts.parse(text)


@given(st.text(max_size=50))
def test_arbitrary_text_is_a_data_error(text: str) -> None:
    with pytest.raises(DataError):
        DataFacts.parse(text)


def test_a_data_set_that_devices_cannot_take_is_refused_at_the_coordinator() -> None:
    with pytest.raises(DataError, match=r"mine: devices cannot train on it \(classes: .*\); make it smaller"):
        DataFacts.of(dataset_of([0, 1], classes=200_000))


def named(names: tuple[str, ...], labels: list[int]) -> Dataset:
    return replace(dataset_of(labels, classes=len(names)), class_names=names)


def test_classes_are_matched_by_their_names_where_both_have_some() -> None:
    facts = DataFacts.of(named(("cat", "dog", "emu"), [0, 1, 2]))
    fitted = DataFacts.parse(facts.model_dump_json()).apply(named(("dog", "emu"), [0, 1, 1]))
    assert fitted.train.labels.tolist() == [1, 2, 2]
    assert (fitted.classes, fitted.class_names) == (3, ("cat", "dog", "emu"))
    assert facts.apply(named(("emu",), [0, 0])).test.labels.tolist() == [2, 2], "one class is enough for a device"


def test_a_class_that_the_coordinator_does_not_know_is_refused() -> None:
    facts = DataFacts.of(named(("cat", "dog"), [0, 1]))
    with pytest.raises(DataError, match="class 'gnu' is none of the coordinator's 2 classes"):
        facts.apply(named(("cat", "gnu"), [0, 1]))


def test_floats_are_not_taken_for_bytes() -> None:
    mine = dataset_of([0, 1], classes=2)
    split = Samples(mine.train.images.astype(np.float32), mine.train.labels)
    with pytest.raises(DataError, match="images are float32, and the coordinator's are uint8"):
        DataFacts.of(mine).apply(replace(mine, train=split, test=split))


def test_names_that_do_not_fit_the_classes_are_refused() -> None:
    with pytest.raises(DataError, match="1 names do not fit 2 classes"):
        DataFacts.parse(json.dumps({**FACTS, "classes": 2, "class_names": ["a", "a"]}))
