"""What a client says of networks that it only looks at: statistics and losses, one network after the other."""

import contextlib
import gc
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from hedgerow.assembly import ClientNetwork, mask_of, model_of, network_of
from hedgerow.client.answer import Answer, Workshop
from hedgerow.client.looking import Looker
from hedgerow.client.memory import ClientState
from hedgerow.codec import Candidate, Floats, Header, Section, decode_payload, encode_payload, signs_section
from hedgerow.codec import PackedBits as Packed
from hedgerow.errors import PayloadError, TrainingError
from hedgerow.exchange import LARGEST_LOSS, read_losses, read_samples, read_statistics
from hedgerow.files import sealed
from hedgerow.pruning import prunable_tensors
from hedgerow.recalibration import Moments, collect, norm_channels, pooled, statistics_into
from hedgerow.sparse import float_tensors, scatter_kept, write_vector
from hedgerow.v1 import payload_pb2 as pb
from tests.unit.test_answer import LIMIT, Setting, experiment_with, said

SELECTION: dict[str, Any] = {"candidates": 3, "fraction": 0.5}
NETWORKS = 3


class Choice(Setting):
    """A setting with a pool of three masks, whose weights are those of one dense network."""

    def __init__(self, **changes: Any) -> None:
        super().__init__(**{"representation": "weights", "selection": SELECTION, **changes})
        self.model = model_of(self.experiment, self.workshop.dataset)
        shape = self.workshop.dataset.input_shape
        seeds = [self.experiment.model_copy(update={"seed": seed}) for seed in range(NETWORKS)]
        self.masks = [mask_of(one, self.model, shape) for one in seeds]
        weights = {name: w.detach() for name, w in prunable_tensors(self.model).items()}
        assert len({mask.digest for mask in self.masks}) == NETWORKS
        self.kept = [self.exchange.representation.initial(weights, mask) for mask in self.masks]
        self.channels = sum(norm.channels for norm in norm_channels(self.model))

    def asking(self, task: pb.Task, *, round: int = 0) -> Header:
        return Header(bytes.fromhex(self.experiment.digest()), round, b"", task=task)

    def candidate(self, number: int, floats: Floats | None = None, kept: Floats | None = None) -> Candidate:
        mask = self.masks[number]
        version = self.exchange.version(
            0,
            mask.digest,
            kept=self.kept[number] if kept is None else kept,
            floats=self.floats if floats is None else floats,
            layers=list(mask.layer_kept().values()),
        )
        body = self.exchange.encode(version, base=None, layers=list(mask.layer_kept().values()))
        return Candidate(mask.digest, {s.kind: s for s in (self.exchange.encode_mask(mask), *body)})

    def pool(self, candidates: Sequence[Candidate] | None = None) -> bytes:
        candidates = [self.candidate(k) for k in range(NETWORKS)] if candidates is None else candidates
        return encode_payload(self.asking(pb.TASK_RECALIBRATE), [], candidates=candidates)

    def evaluation(self, floats: Sequence[Floats]) -> bytes:
        found = [self.candidate(k, one) for k, one in enumerate(floats)]
        bare = [Candidate(c.mask_digest, {pb.KIND_FLOATS: c.sections[pb.KIND_FLOATS]}) for c in found]
        return encode_payload(self.asking(pb.TASK_EVALUATE), [], candidates=bare)

    def statistics(self, answer: Answer, *, networks: int = NETWORKS) -> list[Moments]:
        _, sections = decode_payload(answer.payload, limit=LIMIT)
        return read_statistics(sections, networks=networks, channels=self.channels)

    def pooled(self, answers: Sequence[Answer]) -> list[Floats]:
        told = [self.statistics(answer) for answer in answers]
        return [statistics_into(self.floats, self.model, pooled([one[k] for one in told])) for k in range(NETWORKS)]

    def losses(self, answer: Answer) -> Floats:
        return read_losses(decode_payload(answer.payload, limit=LIMIT)[1], networks=NETWORKS)

    def looker(self, *, round: int = 0, client: int = 0) -> Looker:
        return self.workshop._looker(self.workshop.samples.of(client), round=round, client=client)

    def dense(self, number: int, floats: Floats) -> nn.Module:
        """The network that the coordinator would evaluate."""
        model = model_of(self.experiment, self.workshop.dataset)
        scatter_kept(model, self.masks[number], self.kept[number])
        write_vector(float_tensors(model), floats)
        return model


@pytest.fixture(scope="module")
def choice() -> Choice:
    return Choice()


def first(choice: Choice, *, client: int = 0) -> Answer:
    return choice.workshop.answer(choice.pool(), client=client, state=ClientState())


def refused(choice: Choice, request: bytes, state: ClientState | None = None) -> PayloadError:
    with pytest.raises(PayloadError) as caught:
        choice.workshop.answer(request, client=0, state=ClientState() if state is None else state)
    return caught.value


def changed(candidate: Candidate, kind: pb.Kind, **changes: Any) -> Candidate:
    section = replace(candidate.sections[kind], **changes)
    return replace(candidate, sections={**candidate.sections, kind: section})


def test_statistics_are_those_of_the_dense_network_over_the_samples_that_are_drawn(choice: Choice) -> None:
    answer, looker = first(choice), choice.looker()
    header, sections = decode_payload(answer.payload, limit=LIMIT)
    assert header == choice.asking(pb.TASK_RECALIBRATE)
    assert set(sections) == {pb.KIND_STATISTICS, pb.KIND_COUNTS}
    assert read_samples(sections) == looker.looked().size == 32  # half of 48 would be 24, which is no batch
    for number, found in enumerate(choice.statistics(answer)):
        expected = collect(choice.dense(number, choice.floats), (images for images, _ in looker.batches()))
        np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found.variance, expected.variance, rtol=1e-4, atol=1e-7)


def test_losses_are_those_of_the_dense_network_with_the_pooled_statistics(choice: Choice) -> None:
    answers = [first(choice, client=client) for client in range(3)]
    floats = choice.pooled(answers)
    answer = choice.workshop.answer(choice.evaluation(floats), client=2, state=answers[2].state)
    header, sections = decode_payload(answer.payload, limit=LIMIT)
    assert header == choice.asking(pb.TASK_EVALUATE)
    assert set(sections) == {pb.KIND_LOSSES, pb.KIND_COUNTS}
    assert answer.state == answers[2].state
    looker = choice.looker(client=2)
    images, labels = (torch.cat(parts) for parts in zip(*looker.batches(), strict=True))
    assert read_samples(sections) == len(labels)
    for number, loss in enumerate(choice.losses(answer)):
        with torch.no_grad():
            expected = F.cross_entropy(choice.dense(number, floats[number]).eval()(images), labels).item()
        assert loss == pytest.approx(expected, rel=1e-4)


def test_a_process_that_starts_again_answers_the_evaluation_from_what_was_kept(choice: Choice) -> None:
    answer = first(choice)
    asked = choice.evaluation(choice.pooled([answer]))
    here = choice.workshop.answer(asked, client=0, state=answer.state)
    there = Workshop(choice.experiment).answer(asked, client=0, state=ClientState(pool=answer.state.pool))
    assert here.payload == there.payload


def test_a_client_keeps_the_pool_until_it_trains(choice: Choice) -> None:
    answer = first(choice)
    assert answer.state == ClientState(pool=sealed(choice.pool()))
    trained = choice.workshop.answer(choice.request(mask=choice.mask), client=0, state=answer.state)
    assert trained.state.pool == b""
    assert trained.state.rounds == 1


def test_looking_does_not_change_what_is_trained_later(choice: Choice) -> None:
    asked = choice.request(mask=choice.mask)
    alone = Workshop(choice.experiment).answer(asked, client=0, state=ClientState())
    after = choice.workshop.answer(asked, client=0, state=first(choice).state)
    assert said(after.payload) == said(alone.payload)


def test_a_client_without_the_pool_or_with_another_says_so(choice: Choice) -> None:
    answer = first(choice)
    asked = choice.evaluation(choice.pooled([answer]))
    fewer = sealed(choice.pool([choice.candidate(0)]))
    turned = sealed(choice.pool([choice.candidate(k) for k in (1, 0, 2)]))
    flipped = answer.state.pool[:-1] + bytes([answer.state.pool[-1] ^ 1])
    for pool, message in (
        (b"", "no networks to choose from yet"),
        (fewer, "other networks"),
        (turned, "other networks"),
        (flipped, "were damaged"),
        (answer.state.pool[:40], "were damaged"),
    ):
        error = refused(choice, asked, ClientState(pool=pool))
        assert message in str(error)
        assert error.kind == "mismatch"


def test_an_unknown_task_is_refused(choice: Choice) -> None:
    header = replace(choice.asking(pb.TASK_TRAIN), task=77)  # type: ignore[arg-type]  # a later version's
    assert refused(choice, encode_payload(header, [])).kind == "mismatch"


def test_more_networks_than_the_settings_say_are_refused(choice: Choice) -> None:
    assert refused(choice, choice.pool([choice.candidate(0)] * 4)).kind == "bounds"
    none = Choice(selection={})
    assert refused(none, none.pool([none.candidate(0)])).kind == "bounds"


def test_a_request_may_be_long_only_by_the_networks_in_it(choice: Choice) -> None:
    padding = Section(pb.KIND_TOP_K, pb.CODEC_FLOAT32, 0, 0, bytes(choice.workshop.builder.limit()))
    header = choice.header()
    assert refused(choice, encode_payload(header, [padding])).kind == "bounds"
    longer = replace(padding, data=bytes(choice.workshop.builder.limit(networks=NETWORKS)))
    assert refused(choice, encode_payload(choice.asking(pb.TASK_RECALIBRATE), [longer])).kind == "bounds"


def without(kind: pb.Kind) -> Callable[[Candidate], Candidate]:
    return lambda c: replace(c, sections={k: s for k, s in c.sections.items() if k != kind})


def data_of(kind: pb.Kind, change: Callable[[bytes], bytes]) -> Callable[[Candidate], Candidate]:
    return lambda c: changed(c, kind, data=change(c.sections[kind].data))


DAMAGE: Mapping[str, Callable[[Candidate], Candidate]] = {
    "another digest": lambda c: replace(c, mask_digest=bytes(16)),
    "no digest": lambda c: replace(c, mask_digest=b""),
    "no mask": without(pb.KIND_MASK),
    "no weights": without(pb.KIND_WEIGHTS),
    "no floats": without(pb.KIND_FLOATS),
    "a short mask": data_of(pb.KIND_MASK, lambda d: d[:-2]),
    "a changed mask": data_of(pb.KIND_MASK, lambda d: d[:-9] + bytes([d[-9] ^ 4]) + d[-8:]),
    "a long mask": lambda c: changed(c, pb.KIND_MASK, count=2**60),
    "another codec": lambda c: changed(c, pb.KIND_MASK, codec=pb.CODEC_FLOAT32),
    "short weights": data_of(pb.KIND_WEIGHTS, lambda d: d[:-1]),
    "weights of another number": lambda c: changed(c, pb.KIND_WEIGHTS, count=7),
    "weights that are not finite": data_of(pb.KIND_WEIGHTS, lambda d: b"\xff\xff\xff\x7f" + d[4:]),
    "short floats": data_of(pb.KIND_FLOATS, lambda d: d[:-4]),
    "floats that are not finite": data_of(pb.KIND_FLOATS, lambda d: b"\0\0\x80\x7f" + d[4:]),
    "a negative variance": data_of(pb.KIND_FLOATS, lambda d: d[:-4] + b"\0\0\x80\xbf"),
}


@pytest.mark.parametrize("damage", list(DAMAGE))
def test_a_damaged_network_is_refused_and_nothing_is_kept(choice: Choice, damage: str) -> None:
    held = first(choice).state
    damaged = [choice.candidate(0), DAMAGE[damage](choice.candidate(1)), choice.candidate(2)]
    with pytest.raises(PayloadError):
        choice.workshop.answer(choice.pool(damaged), client=0, state=held)
    assert held == first(choice).state
    # The process goes on.
    assert choice.statistics(first(choice))


def test_a_request_to_evaluate_has_the_floats_and_nothing_else(choice: Choice) -> None:
    state = first(choice).state
    whole = encode_payload(
        choice.asking(pb.TASK_EVALUATE), [], candidates=[choice.candidate(k) for k in range(NETWORKS)]
    )
    assert "other sections" in str(refused(choice, whole, state))
    empty = [Candidate(mask.digest, {}) for mask in choice.masks]
    assert "other sections" in str(
        refused(choice, encode_payload(choice.asking(pb.TASK_EVALUATE), [], candidates=empty), state)
    )
    negative = choice.floats.copy()
    negative[-1] = -1.0
    assert refused(choice, choice.evaluation([choice.floats, negative, choice.floats]), state).kind == "bounds"
    short = [Candidate(m.digest, {pb.KIND_FLOATS: _floats(choice.floats[:-1])}) for m in choice.masks]
    assert (
        refused(choice, encode_payload(choice.asking(pb.TASK_EVALUATE), [], candidates=short), state).kind == "mismatch"
    )


def _floats(values: Floats) -> Section:
    return Section(pb.KIND_FLOATS, pb.CODEC_FLOAT32, values.size, 0, values.astype("<f4").tobytes())


@given(st.data())
@settings(max_examples=20, deadline=None)
def test_a_request_with_changed_bytes_is_answered_or_refused_with_a_payload_error(
    choice: Choice, data: st.DataObject
) -> None:
    request = bytearray(choice.pool([choice.candidate(0)]))
    for _ in range(data.draw(st.integers(1, 3))):
        request[data.draw(st.integers(0, min(400, len(request) - 1)))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(PayloadError):
        choice.workshop.answer(bytes(request), client=0, state=ClientState())


def test_a_request_with_networks_to_choose_and_one_of_its_own_is_refused(choice: Choice) -> None:
    own = signs_section(pb.KIND_SIGNS, Packed.from_bools(np.ones(3, dtype=np.bool_)), groups=[3])
    request = encode_payload(choice.asking(pb.TASK_RECALIBRATE), [own], candidates=[choice.candidate(0)])
    assert "one of its own" in str(refused(choice, request))


@pytest.mark.parametrize("trial_steps", [0, 2])
def test_one_network_at_a_time_is_in_memory(trial_steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    choice = Choice(selection={**SELECTION, "trial_steps": trial_steps}, training={"epochs": 1, "batch_size": 16})
    choice.workshop.answer(choice.request(mask=choice.mask), client=0, state=ClientState())
    networks: list[weakref.ref[nn.Module]] = []

    def counted(*args: Any, **kwargs: Any) -> ClientNetwork:
        assert choice.workshop.builder.built is None
        assert not any(network() is not None for network in networks)
        built = network_of(*args, **kwargs)
        networks.append(weakref.ref(built.network.module))
        return built

    monkeypatch.setattr("hedgerow.client.looking.network_of", counted)
    gc.disable()  # what only the collector finds may stay for long
    try:
        answer = first(choice)
        choice.workshop.answer(choice.evaluation(choice.pooled([answer])), client=0, state=answer.state)
    finally:
        gc.enable()
    assert len(networks) == 2 * NETWORKS
    assert not any(network() is not None for network in networks)


def test_trial_training_is_repeatable_and_lowers_the_loss() -> None:
    settings = {"training": {"batch_size": 8}, "fleet": {"clients": 4, "cohort": 2}}
    losses = []
    for steps in (0, 60, 60):
        choice = Choice(selection={**SELECTION, "fraction": 0.2, "trial_steps": steps}, **settings)
        answer = first(choice)
        torch.rand(3)
        asked = choice.evaluation(choice.pooled([answer]))
        losses.append(choice.losses(choice.workshop.answer(asked, client=0, state=answer.state)))
    assert np.array_equal(losses[1], losses[2])
    assert (losses[1] < 0.9 * losses[0]).all()


def test_a_network_whose_training_fails_does_not_lose_the_others() -> None:
    choice = Choice(selection={**SELECTION, "trial_steps": 2})
    huge = np.full_like(choice.kept[1], 3e38)
    candidates = [choice.candidate(0), choice.candidate(1, kept=huge), choice.candidate(2)]
    answer = choice.workshop.answer(choice.pool(candidates), client=0, state=ClientState())
    found = choice.statistics(answer)
    assert all(np.isfinite(one.variance).all() for one in found)
    asked = choice.evaluation(choice.pooled([answer]))
    losses = choice.losses(choice.workshop.answer(asked, client=0, state=answer.state))
    assert losses[1] == LARGEST_LOSS
    assert max(losses[0], losses[2]) < 10


def test_the_samples_of_a_trial_are_not_those_that_are_looked_at() -> None:
    choice = Choice(selection={"candidates": 3, "fraction": 0.2}, training={"batch_size": 8})
    looker = choice.looker()
    looked, trained = set(looker.looked().tolist()), set(looker.trained().tolist())
    assert not looked & trained
    assert looked | trained == set(range(len(looker.samples)))
    few = replace(looker, experiment=choice.experiment.model_copy(update={"selection": SELECTION_ALL}))
    assert set(few.trained().tolist()) == set(range(len(looker.samples)))


SELECTION_ALL = experiment_with(selection={"candidates": 3, "fraction": 0.9}).selection


def test_clients_and_rounds_look_at_other_samples_and_the_fraction_is_the_rounds() -> None:
    choice = Choice(
        selection={"candidates": 3, "fraction": 0.25},
        evaluation={"fraction": 0.5},
        training={"batch_size": 4},
    )
    here, later = choice.looker(), choice.looker(round=3)
    assert (here.looked().size, later.looked().size) == (12, 24)
    assert sorted(set(here.looked().tolist())) == sorted(here.looked().tolist())
    assert not np.array_equal(choice.looker(client=1).looked(), here.looked())
    assert not np.array_equal(choice.looker(round=4).looked(), later.looked())
    assert np.array_equal(choice.looker().looked(), here.looked())


def test_a_device_with_a_single_sample_has_no_statistics(choice: Choice) -> None:
    dataset = choice.workshop.dataset
    one = type(dataset.train)(dataset.train.images[:1], dataset.train.labels[:1])
    workshop = Workshop(choice.experiment, dataset=replace(dataset, train=one), parts=1)
    with pytest.raises(TrainingError, match="give the device more samples"):
        workshop.answer(choice.pool(), client=0, part=0, state=ClientState())


def test_a_network_between_two_rounds_is_recalibrated_whole_or_against_a_base_and_nothing_is_remembered() -> None:
    choice = Choice(representation="signs", wire={"down": "bf16"}, selection={}, evaluation={"recalibrate": True})
    held = choice.workshop.answer(choice.request(mask=choice.mask), client=0, state=ClientState()).state
    later = choice.version(round=2, start=(choice.start * np.float32(0.5)), floats=choice.floats * np.float32(1.5))
    found = []
    for request, state in (
        (choice.request(later, mask=choice.mask), ClientState()),
        (choice.request(later), held),
        (choice.request(later, base=choice.version()), held),
    ):
        header, sections = decode_payload(request, limit=LIMIT)
        asked = encode_payload(replace(header, task=pb.TASK_RECALIBRATE), sections.values())
        answer = choice.workshop.answer(asked, client=0, state=state)
        assert answer.state == state
        found.append(answer.payload)
    assert found[0] == found[1] == found[2]
    (moments,) = choice.statistics(Answer(found[0], held), networks=1)
    assert np.count_nonzero(moments.variance) > choice.channels // 2  # a channel may have lost all its weights
    asked = encode_payload(replace(choice.header(round=2), task=pb.TASK_RECALIBRATE), [])
    assert refused(choice, asked).kind == "mismatch"


def test_replies_about_six_networks_of_conv4_are_as_short_as_the_numbers_in_them() -> None:
    choice = Choice(
        model={"name": "conv4"},
        fleet={"clients": 30, "cohort": 2},
        selection={"candidates": 6, "fraction": 0.1},
        training={"batch_size": 4},
    )
    assert choice.channels == 896
    choice.masks, choice.kept = choice.masks * 2, choice.kept * 2
    candidates = [choice.candidate(k) for k in range(6)]
    answer = choice.workshop.answer(choice.pool(candidates), client=0, state=ClientState())
    asked = choice.evaluation([choice.floats] * 6)
    last = choice.workshop.answer(asked, client=0, state=answer.state)
    bound = 6 * (2 * 896 + 1) * 4 * 1.05
    assert len(answer.payload) + 352 + len(last.payload) + 352 <= bound


@pytest.mark.parametrize("magnitude", ["constant", "random"])
def test_signs_are_chosen_among_too(magnitude: str) -> None:
    choice = Choice(representation="signs", signs={"magnitude": magnitude, "initial_vote": 0.4})
    answer = first(choice)
    losses = choice.losses(
        choice.workshop.answer(choice.evaluation(choice.pooled([answer])), client=0, state=answer.state)
    )
    assert len(set(losses.tolist())) == NETWORKS
    assert (losses < 10).all()


def test_networks_without_batch_norm_are_chosen_by_their_losses_alone() -> None:
    choice = Choice(model={"name": "mlp", "norm": "none"})
    answer = first(choice)
    assert choice.channels == 0
    assert [one.mean.size for one in choice.statistics(answer)] == [0, 0, 0]
    losses = choice.losses(choice.workshop.answer(choice.evaluation([choice.floats] * 3), client=0, state=answer.state))
    assert len(set(losses.tolist())) == NETWORKS
