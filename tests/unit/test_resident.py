"""The most that a process holds for a piece of work, as the system tells it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from hedgerow.client.planning import give_back
from hedgerow.telemetry import memory
from hedgerow.telemetry.memory import Resident


def say(process: Path, **kilobytes: int) -> None:
    lines = [f"{name}:\t{size:>8} kB\n" for name, size in kilobytes.items()]
    (process / "status").write_text("Name:\tx\n" + "".join(lines))


def test_the_peak_counts_from_what_was_held_at_first_and_files_do_not_count(tmp_path: Path) -> None:
    say(tmp_path, VmHWM=900, VmRSS=500, RssFile=100, RssShmem=50)
    resident = Resident(process=tmp_path)
    resident.begin()
    assert (tmp_path / "clear_refs").read_text() == "5"
    say(tmp_path, VmHWM=1000, VmRSS=700, RssFile=150, RssShmem=50)
    assert resident.held() == 1024 * (1000 - 200 - 350)


def test_files_that_the_system_takes_back_meanwhile_are_not_taken_for_memory(tmp_path: Path) -> None:
    say(tmp_path, VmHWM=900, VmRSS=500, RssFile=300)
    resident = Resident(process=tmp_path)
    resident.begin()
    say(tmp_path, VmHWM=600, VmRSS=400, RssFile=100)
    assert resident.held() == 1024 * (600 - 300 - 200)
    resident.begin()
    say(tmp_path, VmHWM=700, VmRSS=600, RssFile=250)
    assert resident.held() == 1024 * (700 - 250 - 200), "now more of them are there than before"


def test_what_is_put_aside_does_not_count_in_that_work_alone(tmp_path: Path) -> None:
    say(tmp_path, VmHWM=900, VmRSS=500)
    resident = Resident(process=tmp_path)
    resident.begin(aside=1024 * 150)
    assert resident.held() == 1024 * (900 - 500 - 150)
    resident.begin()
    assert resident.held() == 1024 * (900 - 500)


def test_what_is_less_than_at_first_is_nothing(tmp_path: Path) -> None:
    say(tmp_path, VmRSS=500)
    resident = Resident(process=tmp_path)
    resident.begin()
    say(tmp_path, VmHWM=400)
    assert resident.held() == 0


def test_where_peaks_cannot_be_forgotten_one_that_came_before_is_not_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "clear_refs").mkdir()
    say(tmp_path, VmHWM=900, VmRSS=500)
    peaks = iter([0, 900_000, 900_000, 900_000, 1_000_000])
    monkeypatch.setattr(memory, "peak_resident_bytes", lambda: next(peaks))
    resident = Resident(process=tmp_path)
    resident.begin()
    assert resident.held() is None
    resident.begin()
    assert resident.held() == 1_000_000 - 500 * 1024


def test_where_the_system_tells_nothing_the_peak_of_the_whole_life_has_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peaks = iter([1000, 1000, 1700])
    monkeypatch.setattr(memory, "peak_resident_bytes", lambda: next(peaks))
    resident = Resident(process=tmp_path / "absent")
    resident.begin()
    assert resident.held() == 700


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the peak of a part of a process's life")
def test_what_is_held_for_a_moment_counts_and_is_forgotten_for_the_next_piece_of_work() -> None:
    resident = Resident()
    resident.begin()
    torch.ones(25_000_000)
    held = resident.held()
    assert held is not None
    assert held >= 99_000_000
    # An allocator that keeps what was freed would still hold it.
    give_back()
    resident.begin()
    held = resident.held()
    assert held is not None
    assert held < 50_000_000
