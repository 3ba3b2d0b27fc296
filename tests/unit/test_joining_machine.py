"""What a device says of its machine."""

import os
import re
import sys
from pathlib import Path

import pytest

from hedgerow.client.joining.machine import (
    MAX_NAME,
    default_budget,
    default_name,
    memory_bytes,
    resident_bytes,
    software,
)
from hedgerow.errors import ConfigError
from hedgerow.machine import cores
from hedgerow.units import parse_bytes


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512MB", 512_000_000),
        ("512 mb", 512_000_000),
        ("1GiB", 2**30),
        ("1.5g", 1_500_000_000),
        ("1000000", 10**6),
        ("2000kB", 2_000_000),
        ("1024TB", 1_024_000_000_000_000),
    ],
)
def test_sizes_are_read_as_people_write_them(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "MB", "-1GB", "1e9", "1 GB 2", "999999", "0", "2000TiB", "1PB", "½GB"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="memory: found"):
        parse_bytes(text)


def root_with(tmp_path: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


MEMINFO = "MemTotal:  2000 kB\nMemFree: 500 kB\nMemAvailable:    1000 kB\n"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 1_024_000),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/memory.max": "max\n"}, 1_024_000),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/memory.max": "5000\n"}, 5000),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/memory.max": "7000\n"}, 7000),
        ({"proc/self/cgroup": "0::/gone\n", "sys/fs/cgroup/memory.max": "6000\n"}, 6000),
        ({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/memory.max": "99999999999\n"}, 1_024_000),
        (
            {
                "proc/self/cgroup": "5:cpu:/c\n4:memory:/m\n0::/\n",
                "sys/fs/cgroup/memory/m/memory.limit_in_bytes": "8000\n",
            },
            8000,
        ),
        (
            {
                "proc/self/cgroup": "0::/a\n",
                "sys/fs/cgroup/a/memory.max": "9000\n",
                "sys/fs/cgroup/a/memory.current": "4000\n",
                "sys/fs/cgroup/a/memory.stat": "anon 2500\nactive_file 500\ninactive_file 1000\n",
            },
            6000,
        ),
        (
            {
                "proc/self/cgroup": "4:memory:/m\n",
                "sys/fs/cgroup/memory/m/memory.limit_in_bytes": "8000\n",
                "sys/fs/cgroup/memory/m/memory.usage_in_bytes": "9000\n",
                "sys/fs/cgroup/memory/m/memory.stat": "inactive_file 77\ntotal_inactive_file 500\n",
            },
            0,
        ),
    ],
)
def test_what_the_smallest_limit_leaves_counts(files: dict[str, str], expected: int, tmp_path: Path) -> None:
    assert memory_bytes(root_with(tmp_path, {"proc/meminfo": MEMINFO, **files})) == expected


def test_a_device_trains_in_most_of_what_is_free(tmp_path: Path) -> None:
    assert default_budget(root_with(tmp_path, {"proc/meminfo": MEMINFO})) == 819_200


def test_without_any_word_from_the_kernel_the_machines_memory_counts(tmp_path: Path) -> None:
    assert memory_bytes(tmp_path) > 10**8


def test_the_name_has_only_letters_that_a_name_may_have(monkeypatch: pytest.MonkeyPatch) -> None:
    def name(host: str, part: int | None = None) -> str:
        monkeypatch.setattr("socket.gethostname", lambda: host)
        return default_name(part=part)

    assert name("Raspberry Pi.local") == "raspberry-pi.local"
    assert name("_möbel-", 3) == "m-bel-3"
    assert name("...") == "device"
    assert len(name("a" * 200, 12)) == MAX_NAME
    assert name("a" * 200, 12).endswith("a-12")


def test_resident_memory_is_that_of_all_the_processes() -> None:
    alone = resident_bytes()
    assert alone > 10**6
    assert resident_bytes(os.getpid()) > 1.5 * alone
    assert resident_bytes(2**22 + 1) == pytest.approx(alone, rel=0.5), "a process that is gone has none"


def test_cores_and_versions_are_told() -> None:
    assert 1 <= cores() <= (os.cpu_count() or 1)
    assert re.fullmatch(r"hedgerow \S+, torch \S+", software())
    assert sys.modules
