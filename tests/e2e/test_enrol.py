"""`hedgerow enrol` as its user sees it."""

from __future__ import annotations

from pathlib import Path

from hedgerow.identity import Revocations, read_identity
from tests.e2e.command import hedgerow


def test_enrolling_says_what_it_made_and_what_comes_next(tmp_path: Path) -> None:
    out, err = hedgerow("enrol", "fleet", "--device=pi-1", "--device=pi-2", "--operator=ada", cwd=tmp_path)
    assert not err
    for expected in (
        "authority            made     fleet/authority.pem; authority-key.pem beside it can make any identity",
        "coordinator          made     fleet/coordinator.pem for localhost, 127.0.0.1, ::1",
        "device pi-1          made     fleet/devices/pi-1.pem",
        "device pi-2          made     fleet/devices/pi-2.pem",
        "operator ada         made     fleet/operators/ada.pem",
        "hedgerow coordinator EXPERIMENT.toml --listen 0.0.0.0:7070 --enrolment fleet",
        "hedgerow join HOST:7070 --identity pi-1.pem --data NAME",
        "hedgerow status HOST:7070 --identity fleet/operators/ada.pem",
    ):
        assert expected in out
    assert "PRIVATE" not in out
    assert read_identity(tmp_path / "fleet/devices/pi-1.pem", role="device").name == "pi-1"
    assert (tmp_path / "fleet").stat().st_mode & 0o777 == 0o700

    before = (tmp_path / "fleet/devices/pi-1.pem").read_bytes()
    out, _ = hedgerow("enrol", "fleet", "--device=pi-1", cwd=tmp_path)
    assert "device pi-1          kept     fleet/devices/pi-1.pem" in out
    assert (tmp_path / "fleet/devices/pi-1.pem").read_bytes() == before


def test_a_lost_identity_is_replaced_in_one_command(tmp_path: Path) -> None:
    hedgerow("enrol", "fleet", "--device=pi-1", cwd=tmp_path)
    (tmp_path / "fleet/devices/pi-1.pem").unlink()
    out, _ = hedgerow("enrol", "fleet", "--device=pi-1", cwd=tmp_path)
    assert "its file was moved away; if it is lost, --revoke pi-1 --device pi-1 makes another" in out

    out, _ = hedgerow("enrol", "fleet", "--revoke=pi-1", "--device=pi-1", "--list", cwd=tmp_path)
    assert "pi-1                 revoked\n" in out
    assert "device pi-1          made " in out
    rows = [line.split()[:3] for line in out.splitlines() if line.startswith("pi-1 ")][1:]
    assert rows == [["pi-1", "device", "revoked"], ["pi-1", "device", "valid"]]
    gone = int((tmp_path / "fleet/revoked.txt").read_text().splitlines()[-1].split()[0], 16)
    assert Revocations(tmp_path / "fleet/revoked.txt").is_revoked(gone)


def test_a_new_host_tells_to_start_the_coordinator_again(tmp_path: Path) -> None:
    hedgerow("enrol", "fleet", cwd=tmp_path)
    out, _ = hedgerow("enrol", "fleet", "--host=edge.example.org", cwd=tmp_path)
    assert "coordinator          renewed  fleet/coordinator.pem for localhost," in out
    assert "edge.example.org; start the coordinator again" in out


def test_mistakes_are_one_sentence_and_change_nothing(tmp_path: Path) -> None:
    for arguments, saying in (
        (["--device=../pi"], "found the name '../pi'"),
        (["--host=edge:7070"], "found 'edge:7070' as a host"),
        (["--revoke=pi-1"], "fleet: not an enrolment folder; `hedgerow enrol fleet` makes one"),
        (["--list"], "fleet: not an enrolment folder; `hedgerow enrol fleet` makes one"),
    ):
        out, err = hedgerow("enrol", "fleet", *arguments, cwd=tmp_path, code=2)
        assert not out
        assert err.startswith("hedgerow: ")
        assert saying in err
        assert len(err.strip().splitlines()) == 1
        assert not (tmp_path / "fleet").exists()
