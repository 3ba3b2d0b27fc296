"""What an enrolment folder holds, and what enrolling and revoking do to it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.errors import ConfigError, IdentityError, RunError
from hedgerow.identity import Revocations, read_identity
from hedgerow.identity.issuing import hosts_of
from hedgerow.server.enrolment import Enrolment, enrol, issued, revoke

NOW = datetime.now(UTC)


def serial_in(path: Path) -> int:
    return certificate_in(path).serial_number


def certificate_in(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificates(path.read_bytes())[0]


def states(path: Path, *, devices: Sequence[str] = (), operators: Sequence[str] = ()) -> dict[str, str]:
    return {done.name: done.state for done in enrol(path, devices=devices, operators=operators)}


def files(path: Path) -> dict[str, bytes]:
    return {str(found.relative_to(path)): found.read_bytes() for found in path.rglob("*") if found.is_file()}


def test_a_first_enrolment_makes_these_files_and_no_others(tmp_path: Path) -> None:
    path = tmp_path / "new" / "fleet"
    done = enrol(path, devices=["pi-1", "pi-2"], operators=["ada"])
    assert [(each.name, each.role, each.state) for each in done] == [
        ("authority", "authority", "made"),
        ("coordinator", "coordinator", "made"),
        ("pi-1", "device", "made"),
        ("pi-2", "device", "made"),
        ("ada", "operator", "made"),
    ]
    assert sorted(files(path)) == [
        "authority-key.pem",
        "authority.pem",
        "coordinator.pem",
        "devices/pi-1.pem",
        "devices/pi-2.pem",
        "issued.txt",
        "lock",
        "operators/ada.pem",
    ]
    for each in done[1:]:
        assert each.role != "authority"
        identity = read_identity(each.path, role=each.role)
        assert identity.name == each.name
        assert identity.authority_pem == (path / "authority.pem").read_bytes()
        assert b"PRIVATE KEY" not in identity.authority_pem


def test_nobody_else_can_read_any_of_it_whatever_the_umask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[int] = []
    real = os.open

    def spy(name: Path, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_CREAT:
            modes.append(mode)
        return real(name, flags, mode)

    before = os.umask(0)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(os, "open", spy)
            patch.setattr(Path, "chmod", lambda path, mode: None)
            enrol(tmp_path / "fleet", devices=["pi-1"], operators=["ada"])
            revoke(tmp_path / "fleet", ["ada"])
        assert set(modes) == {0o600}, "from the first moment"
        assert len(modes) > 8
    finally:
        os.umask(before)
    for found in [tmp_path / "fleet", *(tmp_path / "fleet").rglob("*")]:
        assert found.stat().st_mode & 0o7777 == (0o700 if found.is_dir() else 0o600), found


def test_an_empty_folder_that_was_there_is_closed_to_others(tmp_path: Path) -> None:
    path = tmp_path / "fleet"
    path.mkdir()
    path.chmod(0o755)
    enrol(path)
    assert path.stat().st_mode & 0o777 == 0o700


def test_the_same_enrolment_again_changes_nothing(tmp_path: Path) -> None:
    first = enrol(tmp_path, devices=["pi-1", "pi-1"], operators=["ada"])
    before = files(tmp_path)
    again = enrol(tmp_path, devices=["pi-1"], operators=["ada"])
    assert [each.state for each in again] == ["kept"] * 4
    assert [each.name for each in again] == [each.name for each in first]
    assert files(tmp_path) == before


def test_an_identity_that_was_moved_away_is_not_made_a_second_time(tmp_path: Path) -> None:
    enrol(tmp_path, devices=["pi-1"])
    (tmp_path / "devices" / "pi-1.pem").rename(tmp_path / "elsewhere.pem")
    before = files(tmp_path)
    assert states(tmp_path, devices=["pi-1"])["pi-1"] == "away"
    assert files(tmp_path) == before


def test_a_revoked_name_is_shut_out_and_can_be_enrolled_anew(tmp_path: Path) -> None:
    enrol(tmp_path, devices=["pi-1", "pi-2"])
    revocations = Revocations(Enrolment(tmp_path).revoked)
    old, other = (serial_in(tmp_path / "devices" / f"pi-{n}.pem") for n in (1, 2))
    assert revoke(tmp_path, ["pi-1"], now=NOW) == {"pi-1": 1}
    assert revocations.is_revoked(old)
    assert not revocations.is_revoked(other)
    assert (tmp_path / "revoked.txt").read_text().splitlines()[1:] == [f"{old:x}  pi-1  {NOW.date()}"]
    assert not (tmp_path / "devices" / "pi-1.pem").exists()

    assert revoke(tmp_path, ["pi-1"]) == {"pi-1": 0}, "once is enough"
    assert states(tmp_path, devices=["pi-1"])["pi-1"] == "made"
    new = serial_in(tmp_path / "devices" / "pi-1.pem")
    assert new != old
    assert not revocations.is_revoked(new)
    assert revoke(tmp_path, ["pi-1", "pi-2"]) == {"pi-1": 1, "pi-2": 1}
    assert all(map(revocations.is_revoked, (old, new, other)))


def test_a_name_is_revoked_without_its_file_and_without_the_authoritys_key(tmp_path: Path) -> None:
    enrol(tmp_path, devices=["pi-1"], operators=["ada"])
    serials = [serial_in(path) for path in (tmp_path / "devices/pi-1.pem", tmp_path / "operators/ada.pem")]
    (tmp_path / "devices" / "pi-1.pem").unlink()
    key = (tmp_path / "authority-key.pem").rename(tmp_path / "kept-elsewhere")
    assert revoke(tmp_path, ["pi-1", "ada"]) == {"pi-1": 1, "ada": 1}
    revocations = Revocations(tmp_path / "revoked.txt")
    assert all(map(revocations.is_revoked, serials))
    with pytest.raises(IdentityError, match="put it back while you enrol"):
        enrol(tmp_path, devices=["pi-2"])
    assert key.rename(tmp_path / "authority-key.pem").exists()
    assert states(tmp_path, devices=["pi-2"])["pi-2"] == "made"


def test_revoking_keeps_what_people_wrote_into_the_list(tmp_path: Path) -> None:
    enrol(tmp_path, devices=["pi-1"])
    serial = serial_in(tmp_path / "devices" / "pi-1.pem")
    (tmp_path / "revoked.txt").write_text("# stolen in March\nabc  old  2026-03-09\nhalf a li")
    revoke(tmp_path, ["pi-1"], now=NOW)
    assert (tmp_path / "revoked.txt").read_text() == (
        f"# stolen in March\nabc  old  2026-03-09\nhalf a li\n{serial:x}  pi-1  {NOW.date()}\n"
    )


def test_who_was_never_enrolled_cannot_be_revoked_and_then_nobody_is(tmp_path: Path) -> None:
    enrol(tmp_path, devices=["pi-1"])
    for name in ("pi-2", "coordinator", "../pi-1", ""):
        with pytest.raises(ConfigError, match=r"nobody called .* was enrolled .*there are: pi-1"):
            revoke(tmp_path, ["pi-1", name])
    assert not (tmp_path / "revoked.txt").exists()


@pytest.mark.parametrize("make", [False, True])
def test_revoking_and_listing_make_no_folder(make: bool, tmp_path: Path) -> None:
    path = tmp_path / "fleet"
    if make:
        path.mkdir()
    for act in (lambda: revoke(path, ["pi-1"]), lambda: issued(path)):
        with pytest.raises(ConfigError, match=r"not an enrolment folder; `hedgerow enrol .*` makes one"):
            act()
    assert path.exists() == make
    assert not make or not list(path.iterdir())


def test_all_that_was_signed_is_listed_with_what_became_of_it(tmp_path: Path) -> None:
    enrol(tmp_path, devices=["pi-1"], operators=["ada"], now=NOW)
    revoke(tmp_path, ["pi-1"], now=NOW + timedelta(days=3))
    enrol(tmp_path, devices=["pi-1"], now=NOW + timedelta(days=4))
    day = NOW.date()
    rows = [(each.name, each.role, each.since - day, each.until - day, each.revoked) for each in issued(tmp_path)]
    assert rows == [
        ("coordinator", "coordinator", timedelta(0), timedelta(730), None),
        ("pi-1", "device", timedelta(0), timedelta(730), day + timedelta(3)),
        ("ada", "operator", timedelta(0), timedelta(730), None),
        ("pi-1", "device", timedelta(4), timedelta(734), None),
    ]
    assert issued(tmp_path)[3].serial == serial_in(tmp_path / "devices" / "pi-1.pem")


@pytest.mark.parametrize(("days", "state"), [(699, "kept"), (701, "renewed"), (731, "made")])
def test_an_identity_is_renewed_in_its_last_month(days: int, state: str, tmp_path: Path) -> None:
    enrol(tmp_path, hosts=["edge.example.org"], devices=["pi-1"], now=NOW)
    later = NOW + timedelta(days=days)
    _, coordinator, device = enrol(tmp_path, devices=["pi-1"], now=later)
    assert device.state == state
    assert coordinator.state == ("kept" if state == "kept" else "renewed")
    assert "edge.example.org" in coordinator.hosts, "its hosts stay"
    read_identity(device.path, role="device", now=later)


def test_the_coordinator_is_reached_by_this_machines_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "Hedge-1")
    _, coordinator = enrol(tmp_path)
    assert coordinator.hosts == ("localhost", "127.0.0.1", "::1", "hedge-1")
    assert hosts_of(certificate_in(coordinator.path)) == list(coordinator.hosts)


def test_a_machine_whose_name_is_no_host_name_has_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "Ada's laptop")
    assert enrol(tmp_path)[1].hosts == ("localhost", "127.0.0.1", "::1")


def test_a_host_that_comes_later_is_added_once(tmp_path: Path) -> None:
    before = enrol(tmp_path)[1].hosts
    added = enrol(tmp_path, hosts=["Edge.Example.org", "10.0.0.7", "2001:DB8::0:7"])[1]
    assert (added.state, added.hosts) == ("renewed", (*before, "edge.example.org", "10.0.0.7", "2001:db8::7"))
    assert hosts_of(certificate_in(added.path)) == list(added.hosts)
    again = enrol(tmp_path, hosts=["edge.example.org"])[1]
    assert (again.state, again.hosts) == ("kept", added.hosts)


def test_a_coordinators_identity_that_is_missing_is_made_again(tmp_path: Path) -> None:
    (path,) = (each.path for each in enrol(tmp_path)[1:])
    path.unlink()
    assert states(tmp_path) == {"authority": "kept", "coordinator": "made"}
    assert read_identity(path, role="coordinator").name == "coordinator"


def test_a_new_authority_makes_the_coordinator_a_new_identity(tmp_path: Path) -> None:
    hosts = enrol(tmp_path, hosts=["edge.example.org"])[1].hosts
    for name in ("authority.pem", "authority-key.pem", "issued.txt"):
        (tmp_path / name).unlink()
    authority, coordinator = enrol(tmp_path)
    assert (authority.state, coordinator.state, coordinator.hosts) == ("made", "renewed", hosts)
    assert read_identity(coordinator.path, role="coordinator").authority_pem == authority.path.read_bytes()


@pytest.mark.parametrize(
    ("asked", "saying"),
    [
        ({"devices": ["pi-1", "../pi-2"]}, "found the name"),
        ({"devices": ["a/b"]}, "found the name"),
        ({"operators": ["Ada"]}, "found the name"),
        ({"devices": ["coordinator"]}, "taken by another role"),
        ({"devices": ["ada"], "operators": ["ada"]}, "taken by another role"),
        ({"hosts": ["edge:7070"]}, "found 'edge:7070' as a host"),
        ({"hosts": ["*.example.org"]}, "as a host"),
    ],
)
def test_a_mistake_in_any_name_makes_nothing(asked: dict[str, list[str]], saying: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=saying):
        enrol(
            tmp_path / "fleet",
            hosts=asked.get("hosts", ()),
            devices=asked.get("devices", ()),
            operators=asked.get("operators", ()),
        )
    assert not (tmp_path / "fleet").exists()


def test_a_name_has_one_role_at_a_time(tmp_path: Path) -> None:
    enrol(tmp_path, devices=["ada"])
    with pytest.raises(ConfigError, match="'ada' is taken by another role; choose another name, or revoke it first"):
        enrol(tmp_path, operators=["bob", "ada"])
    assert not (tmp_path / "operators" / "bob.pem").exists()
    revoke(tmp_path, ["ada"])
    assert states(tmp_path, operators=["ada"])["ada"] == "made"


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_another_folder_is_left_alone(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "mine"
    if kind == "file":
        path.write_text("x")
    else:
        path.mkdir(mode=0o755)
        (path / "notes.txt").write_text("x")
    mode = path.stat().st_mode
    with pytest.raises(ConfigError, match="there is something else; name a new folder"):
        enrol(path)
    assert path.stat().st_mode == mode
    assert path.is_file() or [found.name for found in path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("name", "saying"),
    [("authority.pem", "though it has signed 2 identities"), ("issued.txt", "nobody can be found to be revoked")],
)
def test_a_folder_that_lost_its_memory_signs_nothing_more(name: str, saying: str, tmp_path: Path) -> None:
    enrol(tmp_path, devices=["pi-1"])
    (tmp_path / name).unlink()
    before = files(tmp_path)
    with pytest.raises(IdentityError, match=saying):
        enrol(tmp_path, devices=["pi-2"])
    assert files(tmp_path) == before


@pytest.mark.parametrize("line", ["", "xyz", "1 device pi-9 2026-01-01", "1 owner pi-9 2026-01-01 2026-01-02"])
def test_a_damaged_index_is_named_by_its_line(line: str, tmp_path: Path) -> None:
    enrol(tmp_path)
    with (tmp_path / "issued.txt").open("a") as file:
        file.write(f"{line}\n")
    if not line:
        assert len(issued(tmp_path)) == 1, "empty lines are passed over"
        return
    with pytest.raises(IdentityError, match="line 3 is damaged"):
        issued(tmp_path)


def test_another_authoritys_key_is_refused(tmp_path: Path) -> None:
    enrol(tmp_path / "a")
    enrol(tmp_path / "b")
    (tmp_path / "a/authority-key.pem").replace(tmp_path / "b/authority-key.pem")
    with pytest.raises(IdentityError, match="the private key is not that of the certificate"):
        enrol(tmp_path / "b", devices=["pi-1"])


def test_an_expired_authority_signs_nothing(tmp_path: Path) -> None:
    enrol(tmp_path)
    with pytest.raises(IdentityError, match=r"authority.pem: expired on"):
        enrol(tmp_path, devices=["pi-1"], now=NOW + timedelta(days=3651))


def test_a_folder_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match="cannot be used"):
        enrol(tmp_path / "file" / "fleet")
    enrol(tmp_path / "fleet")
    (tmp_path / "fleet" / "lock").unlink()
    (tmp_path / "fleet" / "lock").mkdir()
    with pytest.raises(RunError, match="cannot be used"):
        enrol(tmp_path / "fleet", devices=["pi-1"])


class StoppedError(BaseException):
    """As a kill would."""


@given(at=st.integers(0, 10))
def test_enrolling_that_was_stopped_anywhere_can_be_finished(at: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("stopped") / "fleet"
    count, real = 0, os.replace

    def replace(source: Path, target: Path) -> None:
        nonlocal count
        count += 1
        if count > at:
            raise StoppedError
        real(source, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", replace)
        try:
            enrol(path, devices=["pi-1"], operators=["ada"])
        except StoppedError:
            assert at < 9
    listed = {each.serial for each in issued(path)} if (path / "authority.pem").exists() else set()
    handed_out = [found for found in path.rglob("*.pem") if not found.name.startswith("authority")]
    assert {serial_in(found) for found in handed_out} <= listed, "each can be revoked"

    again = states(path, devices=["pi-1"], operators=["ada"])
    # Of a certificate whose file was never written nobody knows whether it was moved; that is said, and can be mended.
    lost = [name for name, state in again.items() if state == "away"]
    if lost:
        revoke(path, lost)
        enrol(path, devices=["pi-1"], operators=["ada"])
    assert len(lost) == (at in (6, 8)), "stopped between the index and the file"
    assert read_identity(path / "devices/pi-1.pem", role="device").name == "pi-1"
    assert read_identity(path / "operators/ada.pem", role="operator").name == "ada"
    assert read_identity(path / "coordinator.pem", role="coordinator").name == "coordinator"


def test_enrolments_at_the_same_time_lose_nobody(tmp_path: Path) -> None:
    path = tmp_path / "fleet"
    code = (
        "import sys; from pathlib import Path; from hedgerow.server.enrolment import enrol;"
        "enrol(Path(sys.argv[1]), devices=sys.argv[2:])"
    )
    names = [f"pi-{n}" for n in range(24)]
    running = [
        subprocess.Popen([sys.executable, "-c", code, str(path), "shared", *names[start::3]]) for start in range(3)
    ]
    for process in running:
        assert process.wait(timeout=120) == 0
    listed = issued(path)
    assert sorted(each.name for each in listed) == sorted(["coordinator", "shared", *names])
    for each in listed:
        found = Enrolment(path).identity(each.name, each.role)
        assert serial_in(found) == each.serial
        assert read_identity(found, role=each.role).name == each.name
