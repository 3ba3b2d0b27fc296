"""Votes of weights that are drawn: half a bit a kept weight, and nobody has to be told whose they are."""

import numpy as np
import pytest

from hedgerow.codec import (
    SEED_BYTES,
    Header,
    Section,
    Sections,
    Votes,
    decode_payload,
    encode_payload,
    seeded_positions,
)
from hedgerow.config import AggregationSettings, PrivacySettings, SignSettings
from hedgerow.errors import PayloadError
from hedgerow.privacy import seeded_words
from hedgerow.representation import Said, Signs
from hedgerow.seeds import numpy_generator
from hedgerow.v1 import payload_pb2 as pb

KEPT = 8000
SIGNS = Signs(SignSettings(abstain=0.55, voters="random"), AggregationSettings(signs="drift"))
PUBLISHED = np.random.default_rng(0).integers(0, 16, KEPT).astype(np.uint8)
START = SIGNS.start(PUBLISHED)
TRAINED = START + np.random.default_rng(1).normal(0, 0.1, KEPT).astype(np.float32)


def said(signs: Signs = SIGNS, *, trained: np.ndarray = TRAINED, client: int = 0) -> Said:
    return signs.reply(
        trained.astype(np.float32),
        published=PUBLISHED,
        layers=[KEPT],
        memory=None,
        generator=numpy_generator(0, "reply", client),
        draw=seeded_words(numpy_generator(0, "privacy", client)),
    )


def sent(section: Section) -> Sections:
    return decode_payload(encode_payload(Header(bytes(6), 1, b""), [section]), limit=100_000)[1]


def heard(section: Section) -> np.ndarray:
    votes = SIGNS.read_reply(sent(section), published=PUBLISHED, layers=[KEPT]).values
    assert isinstance(votes, Votes)
    return votes.to_floats()


def test_the_drawn_weights_say_where_their_scores_went_and_the_others_nothing() -> None:
    section = said().section
    speaks = seeded_positions(section.data[:SEED_BYTES], KEPT, drop=0.55)
    votes = heard(section)
    assert (votes[speaks] == np.sign(TRAINED - START)[speaks]).all()
    assert not votes[~speaks].any()
    # Five standard deviations of a binomial share of 8,000.
    assert abs(speaks.mean() - 0.45) < 5 * (0.45 * 0.55 / KEPT) ** 0.5


def test_a_reply_costs_a_bit_for_each_weight_that_votes_and_the_seed() -> None:
    section = said().section
    assert section.kind == pb.KIND_SIGNS
    assert section.count == KEPT
    assert len(section.data) <= SEED_BYTES + 0.46 * KEPT / 8 + 10


def test_a_score_that_did_not_move_votes_to_stay() -> None:
    votes = heard(said(trained=START).section)
    spoke = votes != 0
    assert (votes[spoke] == np.where(START >= 0, 1, -1)[spoke]).all()


def test_clients_draw_different_weights() -> None:
    drawn = [seeded_positions(said(client=k).section.data[:SEED_BYTES], KEPT, drop=0.55) for k in range(2)]
    assert 0.3 < (drawn[0] == drawn[1]).mean() < 0.7


def test_a_randomised_vote_is_up_or_down_and_who_votes_depends_on_no_vote() -> None:
    private = Signs(SIGNS.settings, SIGNS.aggregation, privacy=PrivacySettings(vote_epsilon=0.5))
    true, noisy = said().section, said(private).section
    assert true.data[:SEED_BYTES] == noisy.data[:SEED_BYTES]
    lies = heard(true) != heard(noisy)
    # One vote in 1 + e^0.5 lies, of the 45 % that vote; within five standard deviations.
    share = 0.45 / (1 + np.exp(0.5))
    assert abs(lies.mean() - share) < 5 * (share * (1 - share) / KEPT) ** 0.5


@pytest.mark.parametrize("length", [0, 3, 4, 100])
def test_a_reply_that_is_cut_is_refused(length: int) -> None:
    whole = said().section
    cut = Section(whole.kind, whole.codec, whole.count, whole.parameter, whole.data[:length])
    with pytest.raises(PayloadError):
        heard(cut)
