"""A hard limit of data, under which the dense network cannot train and the sparse one does."""

from __future__ import annotations

import sys

import pytest
from benchmarks.sparse.alone import limited, measured
from benchmarks.sparse.networks import Case

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts mapped data, and tells the peak of it"),
]

CASE = Case("resnet18", "uniform", 0.05)


def test_under_a_third_of_what_dense_needs_dense_fails_and_kept_weights_train() -> None:
    # What was resident at most is less than what it needs, so this is on the safe side.
    needs = measured("dense", CASE).resident
    enough = limited("dense", CASE, limit_bytes=int(1.25 * needs))
    assert enough.trained, enough.message
    limit = int(0.3 * needs)
    dense = limited("dense", CASE, limit_bytes=limit)
    assert not dense.trained
    assert "allocate" in dense.message
    ours = limited("lean", CASE, limit_bytes=limit)
    assert ours.trained, ours.message


def test_the_peak_of_memory_mode_is_a_seventh_of_denses_by_both_ways_of_measuring() -> None:
    dense, lean = measured("dense", CASE), measured("lean", CASE)
    for found in (dense, lean):
        # A few megabytes are the libraries' own.
        assert found.peak.total == pytest.approx(found.resident, abs=16_000_000)
    assert 7 * lean.peak.total <= dense.peak.total
