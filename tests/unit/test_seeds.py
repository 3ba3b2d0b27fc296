"""Independent random streams from one seed."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.seeds import derive_seed, numpy_generator, torch_generator


def test_a_seed_is_the_first_63_bits_of_the_sha256_of_its_path() -> None:
    # printf '0/cohort/1' | sha256sum
    assert derive_seed(0, "cohort", 1) == 0xE62EC0D476BA6FFA >> 1


def test_seed_names_and_their_order_make_different_streams() -> None:
    seeds = [
        derive_seed(0, "cohort", 1),
        derive_seed(0, "cohort", 2),
        derive_seed(1, "cohort", 1),
        derive_seed(0, "batches", 1),
        derive_seed(0, 1, "cohort"),
        derive_seed(0, "cohort", 1, 0),
        derive_seed(0, "cohort", 10),
        derive_seed(0),
    ]
    assert len(set(seeds)) == len(seeds)


@given(st.integers(0, 2**63 - 1), st.lists(st.text() | st.integers(), max_size=3))
def test_every_seed_suits_numpy_and_torch(seed: int, names: list[str | int]) -> None:
    assert 0 <= derive_seed(seed, *names) < 2**63
    assert numpy_generator(seed, *names).random() == numpy_generator(seed, *names).random()
    torch_generator(seed, *names)


def test_generators_of_one_name_repeat_and_of_another_differ() -> None:
    first, again, other = (numpy_generator(0, name).permutation(100) for name in ("a", "a", "b"))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    one, two, three = (torch.rand(100, generator=torch_generator(0, name)) for name in ("a", "a", "b"))
    assert torch.equal(one, two)
    assert not torch.equal(one, three)


def test_no_global_generator_is_touched() -> None:
    before = torch.get_rng_state()
    torch.rand(3, generator=torch_generator(0, "a"))
    numpy_generator(0, "a").random()
    assert torch.equal(torch.get_rng_state(), before)
