"""What a client does with one request: check, train, reply; and that nothing but the request decides the reply."""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.assembly import mask_of, model_of
from hedgerow.client.answer import Answer, Workshop
from hedgerow.client.memory import ClientState
from hedgerow.client.source import Source, source_in
from hedgerow.client.training import batches
from hedgerow.codec import (
    Bits,
    Floats,
    Header,
    PackedBits,
    Section,
    Votes,
    decode_payload,
    encode_payload,
    mask_section,
    plain_bits_section,
)
from hedgerow.config import Experiment
from hedgerow.data import DataFacts, Dataset, Samples, load_dataset
from hedgerow.errors import ConfigError, DataError, ModelError, PayloadError, TrainingError
from hedgerow.exchange import Measures, Version
from hedgerow.native.library import status
from hedgerow.pruning import Mask, prunable_tensors
from hedgerow.representation import Heard
from hedgerow.schedules import step_scale
from hedgerow.sparse import float_tensors, read_vector
from hedgerow.telemetry.memory import allocation_peak
from hedgerow.v1 import payload_pb2 as pb

LIMIT = 10**7


class Setting:
    """A tiny federation of one process: the workshop, its mask, and the first version."""

    def __init__(self, *, training: Mapping[str, object] = MappingProxyType({}), **changes: object) -> None:
        self.experiment = experiment_with(training=training, **changes)
        self.workshop = Workshop(self.experiment)
        self.exchange = self.workshop.builder.exchange
        dataset = self.workshop.dataset
        model = model_of(self.experiment, dataset)
        self.mask = mask_of(self.experiment, model, dataset.input_shape)
        self.layers = tuple(self.mask.layer_kept().values())
        weights = {name: w.detach() for name, w in prunable_tensors(model).items()}
        self.start = self.exchange.representation.initial(weights, self.mask)
        self.floats = read_vector(float_tensors(model))

    def header(self, *, round: int = 1, mask: Mask | None = None) -> Header:
        return Header(bytes.fromhex(self.experiment.digest()), round, (mask or self.mask).digest)

    def version(self, *, round: int = 1, start: Floats | None = None, floats: Floats | None = None) -> Version:
        return self.exchange.version(
            round,
            self.mask.digest,
            kept=self.start if start is None else start,
            floats=self.floats if floats is None else floats,
            layers=list(self.mask.layer_kept().values()),
        )

    def request(
        self, version: Version | None = None, *, mask: Mask | None = None, round: int = 1, base: Version | None = None
    ) -> bytes:
        """With `mask`, the request brings that one; without, it refers to the setting's. With `base` it is a delta."""
        version = self.version(round=round) if version is None else version
        body = self.exchange.encode(version, base=base, layers=self.layers)
        header = replace(self.header(round=version.round, mask=mask), base=0 if base is None else base.round)
        if mask is None:
            return encode_payload(header, body)
        header = replace(header, tensors=self.exchange.architecture.tensors())
        return encode_payload(header, [mask_of_bits(mask), *body])

    def heard(self, answer: Answer, *, version: Version | None = None) -> tuple[Heard, Heard]:
        """What the coordinator reads of a reply to `version`, by default that of round 1."""
        _, sections = decode_payload(answer.payload, limit=LIMIT)
        version = self.version() if version is None else version
        return self.exchange.read_reply(sections, version=version, layers=self.layers)

    def votes(self, answer: Answer) -> Bits:
        votes = self.heard(answer)[0].values
        assert isinstance(votes, Votes)
        return votes.to_floats() > 0

    def values(self, answer: Answer) -> Floats:
        values = self.heard(answer)[0].values
        assert isinstance(values, np.ndarray)
        return values

    def floats_of(self, answer: Answer, *, version: Version | None = None) -> Floats:
        values = self.heard(answer, version=version)[1].values
        assert isinstance(values, np.ndarray)
        return values


def measures_of(answer: Answer) -> Measures:
    return Measures.read(decode_payload(answer.payload, limit=LIMIT)[1])


def said(payload: bytes) -> tuple[Header, tuple[Section, ...], int, float]:
    """All of a reply but seconds and bytes, which differ each time that they are measured."""
    header, sections = decode_payload(payload, limit=LIMIT)
    measures = Measures.read(sections)
    trained = tuple(section for kind, section in sections.items() if kind != pb.KIND_COUNTS)
    return header, trained, measures.examples, measures.loss


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
    return mask_section(mask.bits(), shapes=list(mask.shapes.values()))


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
    assert header == signs.header().of_reply()
    assert set(sections) == {pb.KIND_FLIPS, pb.KIND_FLOATS, pb.KIND_COUNTS}
    assert signs.votes(answer).shape == signs.start.shape
    assert np.isfinite(signs.floats_of(answer)).all()
    measures = measures_of(answer)
    assert measures.examples == len(signs.workshop.samples.of(0))
    assert measures.loss > 0
    assert measures.seconds > 0
    assert answer.state.rounds == 1


def test_training_changes_signs_and_floats(signs: Setting) -> None:
    answer = signs.workshop.answer(signs.request(mask=signs.mask), client=0, state=ClientState())
    assert 0 < np.count_nonzero(signs.votes(answer) != (signs.start >= 0)) < signs.mask.kept
    assert not np.array_equal(signs.floats_of(answer), signs.floats)


def test_a_request_without_a_mask_to_a_client_without_one_is_refused(signs: Setting) -> None:
    with pytest.raises(PayloadError, match="this client has no mask yet"):
        signs.workshop.answer(signs.request(), client=0, state=ClientState())


def test_the_second_request_finds_the_mask_of_the_first(signs: Setting) -> None:
    first = signs.workshop.answer(signs.request(mask=signs.mask), client=0, state=ClientState())
    second = signs.workshop.answer(signs.request(), client=0, state=first.state)
    assert said(second.payload) == said(first.payload)  # the same round, with the mask sent or remembered
    assert second.state == replace(first.state, rounds=2)


def test_a_remembered_mask_serves_a_process_that_never_saw_it(signs: Setting) -> None:
    first = signs.workshop.answer(signs.request(mask=signs.mask), client=0, state=ClientState())
    fresh = Workshop(signs.experiment)
    assert said(fresh.answer(signs.request(), client=0, state=first.state).payload) == said(first.payload)


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
    body = signs.exchange.encode(signs.version(), base=None, layers=signs.layers)
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
    start, floats = signs.exchange.encode(signs.version(), base=None, layers=signs.layers)
    fewer = [*signs.layers[:-1], signs.layers[-1] - 1]
    short = signs.exchange.representation.encode(signs.version().kept[:-1], base=None, layers=fewer)
    less = signs.exchange.floats.encode(signs.floats[:-1], base=None, groups=[signs.floats.size - 1])
    bodies = [
        [short, floats],
        [start, less],
        [start],
        [floats],
        [plain_bits_section(pb.KIND_SIGNS, PackedBits.from_bools(signs.start >= 0)), floats],
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
    alone = said(Workshop(setting.experiment).answer(asked, client=3, state=ClientState()).payload)
    for other in (7, 3, 12):
        workshop.answer(asked, client=other, state=ClientState())
        torch.rand(5)  # a global generator must not matter either
        assert said(workshop.answer(asked, client=3, state=ClientState()).payload) == alone
    inverse = Mask({name: ~bits for name, bits in setting.mask.items()})
    with pytest.raises(PayloadError):  # builds another mask, and then finds too few values
        workshop.answer(setting.request(mask=inverse), client=3, state=ClientState())
    assert said(workshop.answer(asked, client=3, state=ClientState()).payload) == alone


def test_a_process_that_trained_another_mask_builds_the_one_it_is_asked_for(signs: Setting) -> None:
    turned = Mask({name: bits.flip(1) for name, bits in signs.mask.items()})
    asked = signs.request(mask=turned)
    signs.workshop.answer(signs.request(mask=signs.mask), client=0, state=ClientState())
    after_another = signs.workshop.answer(asked, client=0, state=ClientState())
    alone = Workshop(signs.experiment).answer(asked, client=0, state=ClientState())
    assert said(after_another.payload) == said(alone.payload)


def test_clients_and_rounds_differ(signs: Setting) -> None:
    replies = set()
    for client, round in ((0, 1), (1, 1), (0, 2)):
        asked = signs.request(mask=signs.mask, round=round)
        replies.add(said(signs.workshop.answer(asked, client=client, state=ClientState()).payload)[1])
    assert len(replies) == 3


def test_a_training_that_broke_off_leaves_no_trace(signs: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = signs.request(mask=signs.mask)
    expected = said(signs.workshop.answer(asked, client=0, state=ClientState()).payload)

    def out_of_memory(*args: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr("hedgerow.client.optimisers.NormalisedSGD.step", out_of_memory)
        with pytest.raises(MemoryError):
            signs.workshop.answer(asked, client=1, state=ClientState())
    assert said(signs.workshop.answer(asked, client=0, state=ClientState()).payload) == expected


def test_frozen_signs_and_norms_come_back_unchanged(frozen: Setting) -> None:
    answer = frozen.workshop.answer(frozen.request(mask=frozen.mask), client=0, state=ClientState())
    assert np.array_equal(frozen.votes(answer), frozen.start >= 0)
    model = model_of(frozen.experiment, frozen.workshop.dataset)
    trained = sum(p.numel() for p in model.parameters()) - frozen.mask.size
    floats = frozen.floats_of(answer)
    assert np.array_equal(floats[:trained], frozen.floats[:trained])
    assert not np.array_equal(floats[trained:], frozen.floats[trained:])  # statistics of the data are no training


def test_weights_of_a_sparse_network_train(weights: Setting) -> None:
    answer = weights.workshop.answer(weights.request(mask=weights.mask), client=0, state=ClientState())
    values = weights.values(answer)
    assert values.shape == weights.start.shape
    assert 0 < np.abs(values - weights.start).max() < 1


def test_a_loss_that_is_not_finite_is_a_training_error(weights: Setting) -> None:
    huge = np.full_like(weights.floats, 3e38)
    asked = weights.request(weights.version(floats=huge), mask=weights.mask)
    with pytest.raises(TrainingError, match=r"the loss became (nan|inf) at step 1; lower the step sizes"):
        weights.workshop.answer(asked, client=0, state=ClientState())
    # and the process goes on
    weights.workshop.answer(weights.request(mask=weights.mask), client=0, state=ClientState())


def test_bf16_trains(signs: Setting) -> None:
    half = Setting(training={"precision": "bf16"})
    answer = half.workshop.answer(half.request(mask=half.mask), client=0, state=ClientState())
    full = signs.workshop.answer(signs.request(mask=signs.mask), client=0, state=ClientState())
    assert measures_of(answer).loss == pytest.approx(measures_of(full).loss, rel=0.1)


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
        found.append(setting.values(answer))
    assert not np.array_equal(found[0], found[1])
    np.testing.assert_allclose(found[0], found[1], atol=0.01)


@pytest.mark.parametrize("representation", ["signs", "weights"])
def test_running_blocks_again_changes_no_bit(representation: str) -> None:
    replies = set()
    for recompute in (False, True):
        setting = Setting(
            model={"name": "lenet5"},
            representation=representation,
            training={"recompute": recompute, "kernels": "dense"},
        )
        answer = setting.workshop.answer(setting.request(mask=setting.mask), client=0, state=ClientState())
        replies.add(said(answer.payload)[1:])
    assert len(replies) == 1


def test_dense_and_native_kernels_train_alike() -> None:
    if not status().available:
        pytest.skip("there are no native kernels here")
    shares, losses = [], []
    for kernels in ("native", "dense"):
        setting = Setting(training={"kernels": kernels})
        answer = setting.workshop.answer(setting.request(mask=setting.mask), client=0, state=ClientState())
        shares.append(measures_of(answer).native_share)
        losses.append(measures_of(answer).loss)
    assert shares == [1.0, 0.0]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_what_was_chosen_is_logged_once_for_a_mask(caplog: pytest.LogCaptureFixture) -> None:
    setting = Setting()
    with caplog.at_level("INFO", logger="hedgerow.client"):
        for client in (0, 1):
            setting.workshop.answer(setting.request(mask=setting.mask), client=client, state=ClientState())
    # Of layers that stay dense there may be lines of their own.
    assert sum(message.startswith("native kernels compute ") for message in caplog.messages) == 1


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
    simulated = said(signs.workshop.answer(asked, client=7, state=ClientState()).payload)
    joined = Workshop(signs.experiment, dataset=signs.workshop.dataset, parts=30)
    assert said(joined.answer(asked, client=7, part=7, state=ClientState()).payload) == simulated
    assert said(joined.answer(asked, client=7, part=8, state=ClientState()).payload) != simulated
    assert said(joined.answer(asked, client=8, part=7, state=ClientState()).payload) != simulated


def test_the_samples_are_divided_into_as_many_parts_as_are_asked_for(signs: Setting) -> None:
    workshop = Workshop(signs.experiment, parts=4)
    asked = signs.request(mask=signs.mask)
    answers = [workshop.answer(asked, client=0, part=k, state=ClientState()) for k in range(4)]
    counts = [measures_of(answer).examples for answer in answers]
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
    body = setting.exchange.encode(setting.version(), base=None, layers=setting.layers)
    header = replace(setting.header(), experiment=bytes.fromhex(experiment.digest()))
    request = encode_payload(header, [mask_of_bits(setting.mask), *body])
    assert measures_of(workshop.answer(request, client=5, part=0, state=ClientState())).examples == 40


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

    monkeypatch.setattr("hedgerow.client.training_task.train", no_training)

    def built() -> None:
        with pytest.raises(TrainingError, match="not here"):
            Workshop(setting.experiment).answer(request, client=0, state=ClientState())

    _, peak = allocation_peak(built)
    assert 4 * setting.mask.kept < peak < 4 * setting.exchange.architecture.weights / 2
