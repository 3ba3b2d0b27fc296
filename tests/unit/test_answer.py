"""What a client does with one request: check, train, reply; and that nothing but the request decides the reply."""

import math
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.assembly import mask_of, model_of
from hedgerow.client.answer import ClientState, Workshop
from hedgerow.client.source import Source, source_in
from hedgerow.client.training import batches
from hedgerow.codec import (
    Floats,
    Header,
    Section,
    decode_payload,
    encode_payload,
    floats_section,
    has_mask,
    mask_section,
    read_floats,
    signs_section,
)
from hedgerow.config import Experiment
from hedgerow.data import DataFacts, Dataset, Samples, load_dataset
from hedgerow.errors import ConfigError, DataError, ModelError, PayloadError, TrainingError
from hedgerow.native.library import status
from hedgerow.pruning import Mask, prunable_tensors
from hedgerow.schedules import step_scale
from hedgerow.sparse import float_tensors, read_vector
from hedgerow.telemetry.memory import allocation_peak

LIMIT = 10**7


class Setting:
    """A tiny federation of one process: the workshop, its mask, and the first broadcast."""

    def __init__(self, *, training: Mapping[str, object] = MappingProxyType({}), **changes: object) -> None:
        self.experiment = experiment_with(training=training, **changes)
        self.workshop = Workshop(self.experiment)
        dataset = self.workshop.dataset
        model = model_of(self.experiment, dataset)
        self.mask = mask_of(self.experiment, model, dataset.input_shape)
        weights = {name: w.detach() for name, w in prunable_tensors(model).items()}
        self.start = self.workshop.representation.initial(weights, self.mask)
        self.floats = read_vector(float_tensors(model))

    def header(self, *, round: int = 1, mask: Mask | None = None) -> Header:
        return Header(bytes.fromhex(self.experiment.digest()), round, (mask or self.mask).digest)

    def request(self, *, mask: Mask | None = None, round: int = 1, floats: Floats | None = None) -> bytes:
        """With `mask`, the request brings that one; without, it refers to the setting's."""
        body = [
            self.workshop.representation.broadcast(self.start).section,
            floats_section(self.floats if floats is None else floats),
        ]
        sections = body if mask is None else [mask_of_bits(mask), *body]
        return encode_payload(self.header(round=round, mask=mask), sections)


def experiment_with(*, training: Mapping[str, object] = MappingProxyType({}), **changes: object) -> Experiment:
    tree: dict[str, object] = {
        "model": {"name": "mlp"},
        "data": {"partition": "iid"},
        "fleet": {"clients": 30, "cohort": 3},
        "pruning": {"saliency": "random", "density": 0.05},
        "aggregation": {"signs": "mean", "levels": 16},
        "signs": {"initial_vote": 0.4, "step": 0.26, "norm_learning_rate": 0.05},
        **changes,
        "training": {"epochs": 1, "batch_size": 32, "hold": 0.0, **training},
    }
    return Experiment.model_validate(tree)


def mask_of_bits(mask: Mask) -> Section:
    packed = np.frombuffer(mask.packed(), dtype=np.uint8)
    return mask_section(np.unpackbits(packed, count=mask.size).astype(np.bool_))


@pytest.fixture(scope="module")
def signs() -> Setting:
    return Setting()


@pytest.fixture(scope="module")
def weights() -> Setting:
    return Setting(representation="weights", weights={"momentum": 0.5})


@pytest.fixture(scope="module")
def stored() -> Setting:
    training = {"activations": "int4", "recompute": True, "micro_batch": 8, "kernels": "dense"}
    return Setting(training=training, representation="weights")


@pytest.fixture(scope="module")
def frozen() -> Setting:
    return Setting(signs={"step": 0.0, "norm_learning_rate": 0.0})


def test_a_request_with_the_mask_is_answered_in_kind(signs: Setting) -> None:
    answer = signs.workshop.answer(signs.request(mask=signs.mask), client=0, state=ClientState())
    header, sections = decode_payload(answer.payload, limit=LIMIT)
    assert header == signs.header()
    assert not has_mask(sections)
    assert signs.workshop.representation.read_reply(sections, signs.mask.kept).dtype == np.bool_
    assert np.isfinite(read_floats(sections, signs.floats.size)).all()
    assert answer.metrics["examples"] == len(signs.workshop._samples(0))
    assert answer.metrics["steps"] == math.ceil(answer.metrics["examples"] / 32)
    assert answer.metrics["loss"] > 0
    assert answer.metrics["seconds"] > 0
    assert answer.state.rounds == 1


def test_training_changes_signs_and_floats(signs: Setting) -> None:
    answer = signs.workshop.answer(signs.request(mask=signs.mask), client=0, state=ClientState())
    _, sections = decode_payload(answer.payload, limit=LIMIT)
    votes = signs.workshop.representation.read_reply(sections, signs.mask.kept)
    assert 0 < np.count_nonzero(votes != (signs.start >= 0)) < signs.mask.kept
    assert not np.array_equal(read_floats(sections, signs.floats.size), signs.floats)


def test_a_request_without_a_mask_to_a_client_without_one_is_refused(signs: Setting) -> None:
    with pytest.raises(PayloadError, match="this client has no mask yet"):
        signs.workshop.answer(signs.request(), client=0, state=ClientState())


def test_the_second_request_finds_the_mask_of_the_first(signs: Setting) -> None:
    first = signs.workshop.answer(signs.request(mask=signs.mask), client=0, state=ClientState())
    second = signs.workshop.answer(signs.request(), client=0, state=first.state)
    assert second.payload == first.payload  # the same round, with the mask sent or remembered
    assert second.state == ClientState(rounds=2, mask=first.state.mask)


def test_a_remembered_mask_serves_a_process_that_never_saw_it(signs: Setting) -> None:
    first = signs.workshop.answer(signs.request(mask=signs.mask), client=0, state=ClientState())
    fresh = Workshop(signs.experiment)
    assert fresh.answer(signs.request(), client=0, state=first.state).payload == first.payload


def test_a_client_with_another_mask_is_told_so(signs: Setting) -> None:
    other = Mask({name: ~bits for name, bits in signs.mask.items()})
    header = Header(bytes(6), 1, other.digest)
    state = ClientState(rounds=1, mask=encode_payload(header, [mask_of_bits(other)]))
    with pytest.raises(PayloadError, match="this client has another mask"):
        signs.workshop.answer(signs.request(), client=0, state=state)


def test_a_mask_that_does_not_match_its_digest_is_refused(signs: Setting) -> None:
    bits = dict(signs.mask.items())
    first = next(iter(bits))
    bits[first].view(-1)[0] ^= True
    representation = signs.workshop.representation
    body = [representation.broadcast(signs.start).section, floats_section(signs.floats)]
    request = encode_payload(signs.header(), [mask_of_bits(Mask(bits)), *body])
    with pytest.raises(PayloadError, match="does not match its digest"):
        signs.workshop.answer(request, client=0, state=ClientState())


def test_a_remembered_mask_that_was_damaged_is_refused(signs: Setting) -> None:
    state = signs.workshop.answer(signs.request(mask=signs.mask), client=0, state=ClientState()).state
    fresh = Workshop(signs.experiment)
    for damaged in (b"\xff", state.mask[:-20], state.mask[:-1] + bytes([state.mask[-1] ^ 1])):
        with pytest.raises(PayloadError):
            fresh.answer(signs.request(), client=0, state=replace(state, mask=damaged))


def test_another_experiment_is_refused(signs: Setting) -> None:
    header = replace(signs.header(), experiment=b"abcdef")
    with pytest.raises(PayloadError, match="another experiment"):
        signs.workshop.answer(encode_payload(header, []), client=0, state=ClientState())


def test_values_of_the_wrong_number_or_kind_are_refused(signs: Setting) -> None:
    start = signs.workshop.representation.broadcast(signs.start).section
    short = signs.workshop.representation.broadcast(signs.start[:-1]).section
    bodies = [
        [short, floats_section(signs.floats)],
        [start, floats_section(signs.floats[:-1])],
        [start],
        [floats_section(signs.floats)],
        [signs_section(signs.start >= 0), floats_section(signs.floats)],
    ]
    for body in bodies:
        request = encode_payload(signs.header(), [mask_of_bits(signs.mask), *body])
        with pytest.raises(PayloadError):
            signs.workshop.answer(request, client=0, state=ClientState())


@given(st.binary(max_size=100))
def test_arbitrary_bytes_are_refused_with_a_payload_error(signs: Setting, data: bytes) -> None:
    with pytest.raises(PayloadError):
        signs.workshop.answer(data, client=0, state=ClientState())


@pytest.mark.parametrize("kind", ["signs", "weights", "stored"])
def test_the_same_request_has_the_same_reply_whoever_was_answered_before(
    kind: str, request: pytest.FixtureRequest
) -> None:
    setting: Setting = request.getfixturevalue(kind)
    workshop, asked = setting.workshop, setting.request(mask=setting.mask)
    alone = Workshop(setting.experiment).answer(asked, client=3, state=ClientState()).payload
    for other in (7, 3, 12):
        workshop.answer(asked, client=other, state=ClientState())
        torch.rand(5)  # a global generator must not matter either
        assert workshop.answer(asked, client=3, state=ClientState()).payload == alone
    inverse = Mask({name: ~bits for name, bits in setting.mask.items()})
    with pytest.raises(PayloadError):  # builds another mask, and then finds too few values
        workshop.answer(setting.request(mask=inverse), client=3, state=ClientState())
    assert workshop.answer(asked, client=3, state=ClientState()).payload == alone


def test_a_process_that_trained_another_mask_builds_the_one_it_is_asked_for(signs: Setting) -> None:
    turned = Mask({name: bits.flip(1) for name, bits in signs.mask.items()})
    asked = signs.request(mask=turned)
    signs.workshop.answer(signs.request(mask=signs.mask), client=0, state=ClientState())
    after_another = signs.workshop.answer(asked, client=0, state=ClientState())
    assert after_another.payload == Workshop(signs.experiment).answer(asked, client=0, state=ClientState()).payload


def test_clients_and_rounds_differ(signs: Setting) -> None:
    replies = {
        signs.workshop.answer(signs.request(mask=signs.mask, round=round), client=client, state=ClientState()).payload
        for client, round in ((0, 1), (1, 1), (0, 2))
    }
    assert len(replies) == 3


def test_a_training_that_broke_off_leaves_no_trace(signs: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = signs.request(mask=signs.mask)
    expected = signs.workshop.answer(asked, client=0, state=ClientState()).payload

    def out_of_memory(*args: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr("hedgerow.client.optimisers.NormalisedSGD.step", out_of_memory)
        with pytest.raises(MemoryError):
            signs.workshop.answer(asked, client=1, state=ClientState())
    assert signs.workshop.answer(asked, client=0, state=ClientState()).payload == expected


def test_frozen_signs_and_norms_come_back_unchanged(frozen: Setting) -> None:
    answer = frozen.workshop.answer(frozen.request(mask=frozen.mask), client=0, state=ClientState())
    _, sections = decode_payload(answer.payload, limit=LIMIT)
    votes = frozen.workshop.representation.read_reply(sections, frozen.mask.kept)
    assert np.array_equal(votes, frozen.start >= 0)
    model = model_of(frozen.experiment, frozen.workshop.dataset)
    trained = sum(p.numel() for p in model.parameters()) - frozen.mask.size
    floats = read_floats(sections, frozen.floats.size)
    assert np.array_equal(floats[:trained], frozen.floats[:trained])
    assert not np.array_equal(floats[trained:], frozen.floats[trained:])  # statistics of the data are no training


def test_weights_of_a_sparse_network_train(weights: Setting) -> None:
    answer = weights.workshop.answer(weights.request(mask=weights.mask), client=0, state=ClientState())
    _, sections = decode_payload(answer.payload, limit=LIMIT)
    values = weights.workshop.representation.read_reply(sections, weights.mask.kept)
    assert values.shape == weights.start.shape
    assert 0 < np.abs(values - weights.start).max() < 1


def test_a_loss_that_is_not_finite_is_a_training_error(weights: Setting) -> None:
    huge = np.full_like(weights.floats, 3e38)
    with pytest.raises(TrainingError, match=r"the loss became (nan|inf) at step 1; lower the step sizes"):
        weights.workshop.answer(weights.request(mask=weights.mask, floats=huge), client=0, state=ClientState())
    # and the process goes on
    weights.workshop.answer(weights.request(mask=weights.mask), client=0, state=ClientState())


def test_bf16_trains(signs: Setting) -> None:
    half = Setting(training={"precision": "bf16"})
    answer = half.workshop.answer(half.request(mask=half.mask), client=0, state=ClientState())
    full = signs.workshop.answer(signs.request(mask=signs.mask), client=0, state=ClientState())
    assert answer.metrics["loss"] == pytest.approx(full.metrics["loss"], rel=0.1)


@pytest.mark.parametrize("activations", ["int8", "int4", "topk"])
def test_each_way_to_keep_activations_trains_a_little_differently(activations: str) -> None:
    found = []
    for kind in ("exact", activations):
        setting = Setting(
            representation="weights",
            model={"name": "mlp", "norm": "none"},
            training={"activations": kind, "keep_ratio": 0.3, "kernels": "dense"},
        )
        answer = setting.workshop.answer(setting.request(mask=setting.mask), client=0, state=ClientState())
        _, sections = decode_payload(answer.payload, limit=LIMIT)
        found.append(setting.workshop.representation.read_reply(sections, setting.mask.kept))
    assert not np.array_equal(found[0], found[1])
    np.testing.assert_allclose(found[0], found[1], atol=0.01)


@pytest.mark.parametrize("representation", ["signs", "weights"])
def test_running_blocks_again_changes_no_bit(representation: str) -> None:
    payloads = set()
    for recompute in (False, True):
        setting = Setting(
            model={"name": "lenet5"},
            representation=representation,
            training={"recompute": recompute, "kernels": "dense"},
        )
        answer = setting.workshop.answer(setting.request(mask=setting.mask), client=0, state=ClientState())
        _, sections = decode_payload(answer.payload, limit=LIMIT)
        payloads.add(b"".join(section.data for section in sections.values()))
    assert len(payloads) == 1


def test_dense_and_native_kernels_train_alike() -> None:
    if not status().available:
        pytest.skip("there are no native kernels here")
    shares, losses = [], []
    for kernels in ("native", "dense"):
        setting = Setting(training={"kernels": kernels})
        answer = setting.workshop.answer(setting.request(mask=setting.mask), client=0, state=ClientState())
        shares.append(answer.metrics["native-share"])
        losses.append(answer.metrics["loss"])
    assert shares == [1.0, 0.0]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_what_was_chosen_is_logged_once_for_a_mask(caplog: pytest.LogCaptureFixture) -> None:
    setting = Setting()
    with caplog.at_level("INFO", logger="hedgerow.client"):
        for client in (0, 1):
            setting.workshop.answer(setting.request(mask=setting.mask), client=client, state=ClientState())
    assert sum("kernels" in message for message in caplog.messages) == 1


@pytest.mark.parametrize(("round", "expected"), [(1, 1.0), (6, 0.55), (11, 0.1)])
def test_cosine_falls_from_one_to_the_final_step(round: int, expected: float) -> None:
    experiment = experiment_with(rounds=10, training={"schedule": "cosine", "final_step": 0.1})
    assert step_scale(experiment, round=round) == pytest.approx(expected)


def test_a_quarter_of_the_cosine() -> None:
    # 0.1 + 0.9 · (1 + cos(π / 4)) / 2 = 0.86819805
    experiment = experiment_with(rounds=4, training={"schedule": "cosine", "final_step": 0.1})
    assert step_scale(experiment, round=2) == pytest.approx(0.86819805)


@pytest.mark.parametrize(("round", "expected"), [(1, 1.0), (5, 1.0), (8, 0.55), (11, 0.1)])
def test_cosine_starts_to_fall_after_the_rounds_that_are_held(round: int, expected: float) -> None:
    # Held for 4 of 10 rounds; 7 of 10 done is half of the way from there.
    experiment = experiment_with(rounds=10, training={"schedule": "cosine", "final_step": 0.1, "hold": 0.4})
    assert step_scale(experiment, round=round) == pytest.approx(expected)


@pytest.mark.parametrize("round", [1, 5, 10])
def test_a_constant_schedule_stays_at_one(round: int) -> None:
    assert step_scale(experiment_with(rounds=10, training={"schedule": "constant"}), round=round) == 1.0


@given(st.integers(0, 100), st.integers(2, 40))
def test_batches_cover_all_samples_but_a_rest_of_one(count: int, size: int) -> None:
    parts = list(batches(count, size=size, generator=np.random.default_rng(0)))
    assert all(2 <= part.size <= size for part in parts)
    seen = [int(i) for part in parts for i in part]
    assert len(set(seen)) == len(seen) == count - (count % size == 1)
    assert set(seen) <= set(range(count))


def test_part_k_of_n_is_what_client_k_of_a_simulation_with_n_clients_trains_on(signs: Setting) -> None:
    asked = signs.request(mask=signs.mask)
    simulated = signs.workshop.answer(asked, client=7, state=ClientState()).payload
    joined = Workshop(signs.experiment, dataset=signs.workshop.dataset, parts=30)
    assert joined.answer(asked, client=7, part=7, state=ClientState()).payload == simulated
    assert joined.answer(asked, client=7, part=8, state=ClientState()).payload != simulated
    assert joined.answer(asked, client=8, part=7, state=ClientState()).payload != simulated


def test_the_samples_are_divided_into_as_many_parts_as_are_asked_for(signs: Setting) -> None:
    workshop = Workshop(signs.experiment, parts=4)
    asked = signs.request(mask=signs.mask)
    counts = [workshop.answer(asked, client=0, part=k, state=ClientState()).metrics["examples"] for k in range(4)]
    assert counts == [360, 360, 359, 359]
    with pytest.raises(DataError, match="partition 4 does not exist: there are 4, counted from 0"):
        workshop.answer(asked, client=0, part=4, state=ClientState())


def test_a_device_trains_on_all_of_its_own_samples_and_never_on_those_that_the_experiment_names() -> None:
    # The experiment's own data set cannot be loaded, and its rule for parts cannot be met by 40 samples.
    settings = {"name": "nowhere:data", "partition": "dirichlet", "min_samples": 1000}
    experiment = experiment_with(data=settings)
    digits = load_dataset("digits")
    few = Samples(digits.train.images[:40], digits.train.labels[:40])
    mine = Dataset("mine", train=few, test=digits.test, classes=10, mean=digits.mean, std=digits.std)
    setting = Setting()
    workshop = Workshop(experiment, dataset=mine, parts=1)
    body = [setting.workshop.representation.broadcast(setting.start).section, floats_section(setting.floats)]
    header = replace(setting.header(), experiment=bytes.fromhex(experiment.digest()))
    request = encode_payload(header, [mask_of_bits(setting.mask), *body])
    assert workshop.answer(request, client=5, part=0, state=ClientState()).metrics["examples"] == 40


@pytest.mark.parametrize(
    ("config", "facts", "expected"),
    [
        ({"partition-id": 3, "num-partitions": 10}, None, Source(client=3, part=3, parts=10)),
        ({"partition-id": 3}, "ignored", Source(client=3, part=3, parts=None)),
        ({"partition-id": 3, "client": 9}, None, Source(client=9, part=3, parts=None)),
        ({"data": "digits"}, None, Source(client=0, part=0, parts=1, data="digits")),
        ({"data": "digits", "num-partitions": 4}, None, Source(client=0, part=0, parts=1, data="digits")),
        (
            {"data": "npz", "data-path": "a.npz", "client": 2**63, "allow-model": "m:f"},
            "{}",
            Source(client=2**63, part=0, parts=1, data="npz", path="a.npz", allowed_model="m:f", facts="{}"),
        ),
        (
            {"data": "digits", "partition-id": 1, "num-partitions": 4},
            None,
            Source(client=1, part=1, parts=4, data="digits"),
        ),
    ],
)
def test_a_node_configuration_says_whose_samples_these_are(
    config: Mapping[str, object], facts: str | None, expected: Source
) -> None:
    assert source_in(config, facts=facts) == expected


def test_a_node_configuration_without_samples_or_with_a_part_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match="neither `data` nor `partition-id` is there"):
        source_in({"num-partitions": 4})
    with pytest.raises(DataError, match=r"partition 4 of 4 does not exist"):
        source_in({"partition-id": 4, "num-partitions": 4})
    with pytest.raises(DataError, match="partition -1 does not exist"):
        source_in({"partition-id": -1})


def test_only_a_device_refuses_code_that_its_user_did_not_allow() -> None:
    joined = source_in({"data": "digits", "allow-model": "mine:model"})
    joined.check_model("lenet5")
    joined.check_model("mine:model")
    with pytest.raises(ModelError, match="join with --allow-model theirs:model if you trust it"):
        joined.check_model("theirs:model")
    source_in({"partition-id": 0}).check_model("theirs:model")


def test_the_facts_of_the_coordinator_are_applied_to_own_data_only() -> None:
    facts = DataFacts(input_shape=(1, 8, 8), classes=12, mean=(0.5,), std=(0.25,)).model_dump_json()
    mine = source_in({"data": "digits"}, facts=facts).dataset()
    assert mine is not None
    assert (mine.classes, mine.mean) == (12, (0.5,))
    assert source_in({"partition-id": 0}, facts=facts).dataset() is None
    with pytest.raises(DataError, match="the coordinator describes no possible data set"):
        source_in({"data": "digits"}, facts="{}").dataset()


@pytest.mark.skipif(not status().available, reason="there are no native kernels")
def test_a_client_never_holds_the_dense_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    pruning = {"saliency": "random", "density": 0.01}
    setting = Setting(model={"name": "resnet18"}, pruning=pruning, training={"kernels": "native"})
    request = setting.request(mask=setting.mask)

    def no_training(*_: object, **__: object) -> None:
        # It has a profiler of its own, and there is one at a time.
        raise TrainingError("not here")

    monkeypatch.setattr("hedgerow.client.answer.train", no_training)

    def built() -> None:
        with pytest.raises(TrainingError, match="not here"):
            Workshop(setting.experiment).answer(request, client=0, state=ClientState())

    _, peak = allocation_peak(built)
    assert 4 * setting.mask.kept < peak < 4 * setting.workshop.size / 2
