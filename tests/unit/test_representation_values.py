"""Vectors of floats in both directions: what a reader makes of what a writer meant, in every format."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.codec import Floats, Header, Section, Sections, decode_payload, encode_payload
from hedgerow.config import PrivacySettings, WireSettings
from hedgerow.errors import PayloadError
from hedgerow.privacy import Draw, seeded_words
from hedgerow.representation import Heard, Published, Said, Values
from hedgerow.v1 import payload_pb2 as pb

DOWN, UP, CHANGES = (
    ("fp32", "fp16", "bf16", "uniform"),
    ("fp32", "fp16", "bf16", "int8", "uniform"),
    ("int8", "uniform"),
)
GROUPS = [300, 40, 0, 1]
FLAT = [False] * 4
VARIANCES = [False, True, True, False]
COUNT = sum(GROUPS)
SPREAD = np.repeat(VARIANCES, GROUPS)


def values_with(privacy: PrivacySettings | None = None, *, drop: float = 0.0, **wire: object) -> Values:
    settings = WireSettings.model_validate(wire)
    return Values(pb.KIND_WEIGHTS, settings, PrivacySettings() if privacy is None else privacy, drop)


def sent(section: Section) -> Sections:
    return decode_payload(encode_payload(Header(bytes(6), 1, bytes(16)), [section]), limit=100_000)[1]


def before(seed: int = 0) -> Floats:
    """Positive, so that each of them may be a variance."""
    return np.random.default_rng(seed).uniform(0.5, 2, COUNT).astype(np.float32)


def after(start: Floats, *, seed: int = 1, size: float = 0.01) -> Floats:
    return (start + np.random.default_rng(seed).normal(0, size, start.size)).astype(np.float32)


def reply(
    channel: Values,
    trained: Floats,
    start: Published,
    *,
    relative: list[bool] = FLAT,
    memory: Floats | None = None,
    seed: int = 0,
    draw: Draw | None = None,
) -> Said:
    generator = np.random.default_rng(seed)
    return channel.reply(
        trained,
        published=start,
        groups=GROUPS,
        relative=relative,
        memory=memory,
        generator=generator,
        draw=seeded_words(generator) if draw is None else draw,
    )


def hear(channel: Values, section: Section, start: Published, *, relative: list[bool] = FLAT) -> Heard:
    return channel.read_reply(sent(section), published=start, groups=GROUPS, relative=relative)


def heard(channel: Values, section: Section, start: Published, *, relative: list[bool] = FLAT) -> Floats:
    found = hear(channel, section, start, relative=relative).values
    assert isinstance(found, np.ndarray)
    assert found.dtype == np.float32
    return found


def step_of(change: Floats, *, up: str) -> Floats:
    """A bound of the error of each value: half a quantiser's step; see `uniform` and `blocks`."""
    bound = np.zeros(COUNT, dtype=np.float32)
    ends = np.cumsum([0, *GROUPS])
    for a, b in itertools.pairwise(ends):
        part = change[a:b].astype(np.float64)
        if part.size:
            # The step is the root mean square, rounded to one of four in an octave; a block's is its largest / 127.
            most = np.abs(part).max()
            bound[a:b] = 1.25 * np.sqrt((part**2).mean()) / 2 if up == "uniform" else 1.25 * most / 127
    return bound + np.float32(1e-6)


@pytest.mark.parametrize("coder", ["entropy", "plain"])
@pytest.mark.parametrize("down", DOWN)
def test_a_version_is_the_same_whatever_it_is_told_against(down: str, coder: str) -> None:
    channel = values_with(down=down, coder=coder)
    old, new = channel.publish(before(), groups=GROUPS), channel.publish(after(before()), groups=GROUPS)
    for base in (None, old):
        section = channel.encode(new, base=base, groups=GROUPS)
        found = channel.decode(sent(section), base=base, groups=GROUPS)
        assert found.tobytes() == new.tobytes()
        assert found.dtype == new.dtype
        assert channel.start(found).dtype == np.float32


@pytest.mark.parametrize(("down", "error"), [("fp32", 0.0), ("fp16", 2.0**-11), ("bf16", 2.0**-8)])
def test_a_version_says_the_values_to_the_last_bit_of_its_precision(down: str, error: float) -> None:
    channel, values = values_with(down=down), before()
    start = channel.start(channel.publish(values, groups=GROUPS))
    assert (np.abs(start - values) <= error * values).all()
    # A second publication changes nothing.
    assert channel.start(channel.publish(start, groups=GROUPS)).tobytes() == start.tobytes()


def test_a_version_says_the_nearest_multiples_of_a_part_of_each_tensors_size() -> None:
    channel, values = values_with(down="uniform", down_step=0.25), before()
    start = channel.start(channel.publish(values, groups=GROUPS))
    for begin, end in itertools.pairwise(np.cumsum([0, *GROUPS])):
        part = values[begin:end]
        if part.size:
            # The step is the nearest of four in an octave.
            assert np.abs(start[begin:end] - part).max() <= 1.13 * 0.25 * np.sqrt((part**2).mean()) / 2
            assert len(np.unique(start[begin:end])) <= 1 + np.ptp(part) / (0.25 * np.sqrt((part**2).mean()) / 1.13)
    finer = values_with(down="uniform", down_step=0.01)
    assert np.abs(finer.start(finer.publish(values, groups=GROUPS)) - values).max() < 0.01


@pytest.mark.parametrize("down", ["fp16", "bf16", "uniform"])
def test_what_did_not_change_is_told_in_nearly_no_bytes(down: str) -> None:
    channel = values_with(down=down, down_step=0.01)
    version = channel.publish(before(), groups=GROUPS)
    assert channel.has_deltas
    assert len(channel.encode(version, base=version, groups=GROUPS).data) < 12
    assert len(channel.encode(version, base=None, groups=GROUPS).data) > 200


def test_single_precision_and_plain_halves_make_no_use_of_a_base() -> None:
    for channel in (values_with(), values_with(down="bf16", coder="plain")):
        old, new = channel.publish(before(), groups=GROUPS), channel.publish(after(before()), groups=GROUPS)
        assert not channel.has_deltas
        assert channel.encode(new, base=old, groups=GROUPS) == channel.encode(new, base=None, groups=GROUPS)


@pytest.mark.parametrize("down", ["fp16", "bf16", "uniform"])
def test_a_version_told_against_another_is_refused_without_it(down: str) -> None:
    channel = values_with(down=down)
    old, new = channel.publish(before(), groups=GROUPS), channel.publish(after(before(), size=1e-3), groups=GROUPS)
    section = channel.encode(new, base=old, groups=GROUPS)
    with pytest.raises(PayloadError) as caught:
        channel.decode(sent(section), base=None, groups=GROUPS)
    assert caught.value.kind == "mismatch"


def test_a_version_in_another_precision_is_refused() -> None:
    for ours, theirs in itertools.permutations(DOWN, 2):
        for coder in ("entropy", "plain"):
            channel, other = values_with(down=ours), values_with(down=theirs, coder=coder)
            section = other.encode(other.publish(before(), groups=GROUPS), base=None, groups=GROUPS)
            with pytest.raises(PayloadError):
                channel.decode(sent(section), base=None, groups=GROUPS)


@pytest.mark.parametrize(("up", "down"), list(itertools.product(UP, DOWN)))
def test_a_reply_says_what_the_client_meant(up: str, down: str) -> None:
    channel = values_with(up=up, down=down)
    start = channel.publish(before(), groups=GROUPS)
    began = channel.start(start)
    trained = after(began)
    found = heard(channel, reply(channel, trained, start).section, start)
    if up == "fp32":
        assert found.tobytes() == trained.tobytes()
    elif up in ("fp16", "bf16"):
        assert (np.abs(found - trained) <= np.abs(trained) * 2.0 ** (-11 if up == "fp16" else -8)).all()
    else:
        assert (np.abs(found - trained) <= step_of(trained - began, up=up)).all()
        assert np.abs(found - trained).max() < 0.5 * np.abs(trained - began).max()


@pytest.mark.parametrize("up", UP)
def test_a_client_that_changed_nothing_says_so(up: str) -> None:
    channel = values_with(up=up, down="bf16")
    start = channel.publish(before(), groups=GROUPS)
    found = heard(channel, reply(channel, channel.start(start), start).section, start)
    assert found.tobytes() == channel.start(start).tobytes()


@pytest.mark.parametrize("up", UP)
def test_only_rounded_changes_are_remembered_and_only_where_they_are_fed_back(up: str) -> None:
    trained = after(before())
    assert (reply(values_with(up=up), trained, before()).memory is not None) == (up in CHANGES)
    assert reply(values_with(up=up, error_feedback=False), trained, before()).memory is None
    assert reply(values_with(PrivacySettings(clip=1.0), up=up), trained, before()).memory is None
    assert reply(values_with(up=up, drop=0.5), trained, before()).memory is None or up not in CHANGES


@pytest.mark.parametrize(("up", "step"), [("int8", 1.0), ("uniform", 1.0), ("uniform", 2.0)])
def test_what_rounding_left_over_comes_later_so_that_replies_add_up_to_the_truth(up: str, step: float) -> None:
    channel, start, memory = values_with(up=up, step=step), before(), None
    meant, told = np.zeros(COUNT), np.zeros(COUNT)
    for round in range(20):
        trained = after(start, seed=round)
        said = reply(channel, trained, start, memory=memory)
        memory = said.memory
        meant += trained - start
        told += heard(channel, said.section, start) - start
    assert memory is not None
    # All that is missing is what is still remembered, up to the roundings of float32.
    np.testing.assert_allclose(told + memory, meant, atol=20 * 2e-7)
    without = values_with(up=up, step=step, error_feedback=False)
    lost = sum(heard(without, reply(without, after(start, seed=r), start).section, start) - start for r in range(20))
    assert np.abs(meant - told).sum() < 0.7 * np.abs(meant - lost).sum()


def test_a_memory_is_not_used_by_a_client_that_does_not_feed_back() -> None:
    trained, memory = after(before()), np.full(COUNT, 5, dtype=np.float32)
    for channel in (
        values_with(up="int8", error_feedback=False),
        values_with(PrivacySettings(clip=1.0), up="int8"),
        values_with(up="fp32"),
    ):
        assert reply(channel, trained, before(), memory=memory).section == reply(channel, trained, before()).section


@pytest.mark.parametrize("up", CHANGES)
def test_what_is_dropped_stays_at_the_start(up: str) -> None:
    channel, start = values_with(up=up, drop=0.75, step=0.05), before()
    trained = start + np.float32(0.25)
    found = heard(channel, reply(channel, trained, start).section, start)
    moved = found != start
    # Five standard deviations of a binomial number of 341.
    assert abs(np.count_nonzero(moved) - 0.25 * COUNT) < 5 * (COUNT * 0.25 * 0.75) ** 0.5
    # What is sent is four times what it was: within half a step of a twentieth, rounded to one of four in an octave.
    assert np.abs(found[moved] - start[moved] - 1.0).max() < 0.04


@pytest.mark.parametrize("up", CHANGES)
def test_dropping_is_right_on_average_over_clients(up: str) -> None:
    channel, start = values_with(up=up, drop=0.5, step=0.05), before()
    trained, total, clients = after(start), np.zeros(COUNT), 400
    for seed in range(clients):
        total += heard(channel, reply(channel, trained, start, seed=seed).section, start) - start
    change = (trained - start).astype(np.float64)
    # One client's is 0 or twice the change, each half of the time: a standard deviation of |change|. Five of those for
    # the mean of 400, and what rounding to steps adds.
    bound = 5 * np.abs(change) / clients**0.5 + 0.05 * 2 * np.sqrt((change**2).mean())
    assert (np.abs(total / clients - change) < bound).all()


def test_clients_drop_different_positions_and_one_seed_the_same() -> None:
    channel, start = values_with(up="int8", drop=0.5), before()
    trained = after(start)
    first, again, other = (reply(channel, trained, start, seed=seed).section for seed in (1, 1, 2))
    assert first == again
    moved = [heard(channel, section, start) != start for section in (first, other)]
    assert (moved[0] != moved[1]).any()


def test_values_that_are_sent_whole_are_not_dropped() -> None:
    channel, trained = values_with(up="fp32", drop=0.9), after(before())
    assert heard(channel, reply(channel, trained, before()).section, before()).tobytes() == trained.tobytes()


@pytest.mark.parametrize("size", range(4))
def test_a_reply_without_the_seed_of_what_was_dropped_is_refused(size: int) -> None:
    channel = values_with(up="uniform", drop=0.5)
    section = reply(channel, after(before()), before()).section
    with pytest.raises(PayloadError, match="the seed of what was dropped is missing"):
        hear(channel, replace(section, data=section.data[:size]), before())


@pytest.mark.parametrize("up", UP)
def test_a_reply_in_another_format_or_of_another_size_is_refused(up: str) -> None:
    section = reply(values_with(up=up), after(before()), before()).section
    for other in UP:
        if other != up:
            with pytest.raises(PayloadError, match="has codec"):
                hear(values_with(up=other), section, before())
    with pytest.raises(PayloadError, match=f"has {COUNT + 1} symbols, expected {COUNT}"):
        hear(values_with(up=up), replace(section, count=COUNT + 1), before())


@pytest.mark.parametrize("up", CHANGES)
def test_the_change_of_a_variance_is_relative_so_that_a_small_one_is_not_drowned(up: str) -> None:
    start = np.ones(COUNT, dtype=np.float32)
    start[SPREAD] = np.geomspace(1e-6, 1e3, np.count_nonzero(SPREAD)).astype(np.float32)
    trained = start.copy()
    trained[SPREAD] *= np.float32(1.1)
    channel = values_with(up=up)
    found = heard(channel, reply(channel, trained, start, relative=VARIANCES).section, start, relative=VARIANCES)
    # ln 1.1 for each: at 1.25 root mean squares a step, an error of 0.63 of it at most.
    assert (np.abs(np.log(found[SPREAD] / start[SPREAD]) - np.log(1.1)) < 0.63 * np.log(1.1)).all()
    assert np.array_equal(found[~SPREAD], start[~SPREAD])


@pytest.mark.parametrize(("up", "drop"), list(itertools.product(CHANGES, (0.0, 0.5))))
@given(data=st.data())
def test_whatever_bytes_say_values_are_finite_and_variances_not_negative(
    up: str, drop: float, data: st.DataObject
) -> None:
    channel, start = values_with(up=up, drop=drop), before()
    section = reply(channel, after(start, size=0.4), start, relative=VARIANCES).section
    changed = bytearray(section.data)
    for _ in range(data.draw(st.integers(1, 6))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = heard(channel, replace(section, data=bytes(changed)), start, relative=VARIANCES)
    except PayloadError:
        return
    assert np.isfinite(found).all()
    assert (found[SPREAD] >= 0).all()


@pytest.mark.parametrize("norm", [1e-3, 0.1, 100.0])
def test_the_change_that_leaves_is_no_longer_than_the_clip(norm: float) -> None:
    start = np.zeros(COUNT, dtype=np.float32)
    trained = after(start, size=0.05)
    length = float(np.linalg.norm(trained.astype(np.float64)))
    assert 0.1 < length < 100
    channel = values_with(PrivacySettings(clip=norm))
    found = heard(channel, reply(channel, trained, start).section, start).astype(np.float64)
    assert np.linalg.norm(found) <= norm * (1 + 1e-6)
    # It is the same change, shorter.
    np.testing.assert_allclose(found, trained * min(1.0, norm / length), rtol=1e-5, atol=1e-12)


def test_the_clip_counts_relative_changes_of_variances() -> None:
    start = np.ones(COUNT, dtype=np.float32)
    trained = np.where(SPREAD, np.float32(np.e), start + 1)
    channel = values_with(PrivacySettings(clip=0.5))
    found = heard(channel, reply(channel, trained, start, relative=VARIANCES).section, start, relative=VARIANCES)
    # A variance that grew e times and a value that grew by 1 changed alike: 0.5 / √341 each.
    np.testing.assert_allclose(np.log(found[SPREAD].astype(np.float64)), 0.5 / COUNT**0.5, rtol=1e-4)
    np.testing.assert_allclose(found[~SPREAD] - 1, 0.5 / COUNT**0.5, rtol=1e-4)


def test_noise_is_what_is_drawn_and_scales_with_clip_and_multiplier() -> None:
    start = np.zeros(COUNT, dtype=np.float32)
    noises = []
    for clip, multiplier in ((1.0, 0.5), (2.0, 0.5), (1.0, 1.0)):
        channel = values_with(PrivacySettings(clip=clip, noise=multiplier))
        noises.append(heard(channel, reply(channel, start, start, seed=3).section, start))
    np.testing.assert_allclose(noises[1], 2 * noises[0], rtol=1e-6)
    np.testing.assert_allclose(noises[2], 2 * noises[0], rtol=1e-6)
    # The standard deviation of 341 draws is off by 1/√(2·341) = 0.038 itself; five of those.
    assert noises[2].std() == pytest.approx(1.0, rel=0.19)
    channel = values_with(PrivacySettings(clip=1.0, noise=1.0))
    other = heard(channel, reply(channel, start, start, seed=4).section, start)
    assert not np.array_equal(other, noises[2])


def test_noise_is_drawn_from_the_given_source_only() -> None:
    channel, asked = values_with(PrivacySettings(clip=1.0, noise=1.0)), []

    def words(count: int) -> np.ndarray[tuple[int], np.dtype[np.uint32]]:
        asked.append(count)
        return np.arange(count, dtype=np.uint32) << np.uint32(20)

    first, second = (reply(channel, before(), before(), seed=seed, draw=words).section for seed in (0, 1))
    assert first == second
    assert sum(asked) >= 2 * COUNT
    quiet = values_with(PrivacySettings(clip=1.0))
    asked.clear()
    reply(quiet, before(), before(), draw=words)
    assert asked == []


def test_the_bound_of_a_reply_is_what_is_sent_unless_it_is_quantised() -> None:
    start, trained = before(), after(before())
    for up, expected in (("fp32", 4 * COUNT), ("bf16", 2 * COUNT)):
        channel = values_with(up=up)
        assert hear(channel, reply(channel, trained, start).section, start).entropy == expected
    channel = values_with(up="uniform")
    section = reply(channel, trained, start).section
    assert hear(channel, section, start).entropy == pytest.approx(section.entropy)
    assert 0 < section.entropy < len(section.data) < COUNT
