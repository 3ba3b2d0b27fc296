"""What the distribution promises to those who install it."""

from __future__ import annotations

import filecmp
import os
import subprocess
import sys
import zipfile
from importlib.metadata import entry_points, version
from pathlib import Path

import pytest
import typer

from hedgerow.cli import application

ROOT = Path(__file__).parents[2]


def test_generated_code_is_current(tmp_path: Path) -> None:
    pytest.importorskip("grpc_tools", reason="grpcio-tools comes with the dev extra")
    (tmp_path / "hedgerow" / "v1").mkdir(parents=True)
    sources = sorted((ROOT / "protos").rglob("*.proto"))
    assert sources
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT / 'protos'}"]
    command += [f"--python_out={tmp_path}", f"--pyi_out={tmp_path}", *map(str, sources)]
    subprocess.run(command, check=True)
    services = [sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT / 'protos'}", f"--grpc_python_out={tmp_path}"]
    subprocess.run([*services, str(ROOT / "protos/hedgerow/v1/fleet.proto")], check=True)
    made = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*_pb2*.py*"))
    assert made
    stale = [str(path) for path in made if not filecmp.cmp(tmp_path / path, ROOT / "protos" / path, shallow=False)]
    assert not stale, "run scripts/protos"


def test_the_options_of_the_command_line_are_frozen() -> None:
    group = typer.main.get_command(application())
    commands = getattr(group, "commands")  # noqa: B009  # typer's group is a click one, which mypy does not see
    options = {
        name: sorted(text for parameter in command.params for text in (*parameter.opts, *parameter.secondary_opts))
        for name, command in commands.items()
    }
    assert options == {
        "coordinator": [
            "--data",
            "--data-path",
            "--density",
            "--enrolment",
            "--grace",
            "--heartbeat",
            "--http",
            "--insecure",
            "--listen",
            "--min-devices",
            "--model",
            "--out",
            "--recipe",
            "--rounds",
            "--seed",
            "--set",
            "--silence",
            "--stay",
            "experiment",
        ],
        "enrol": [
            "--device",
            "--host",
            "--list",
            "--operator",
            "--revoke",
            "folder",
        ],
        "evict": [
            "--identity",
            "--insecure",
            "address",
            "device",
        ],
        "fetch": [
            "--identity",
            "--insecure",
            "--out",
            "address",
        ],
        "join": [
            "--allow-model",
            "--data",
            "--data-path",
            "--identity",
            "--insecure",
            "--memory",
            "--name",
            "--once",
            "--partition",
            "--state",
            "--threads",
            "address",
        ],
        "recipes": [
            "--models",
        ],
        "simulate": [
            "--data",
            "--data-path",
            "--density",
            "--metrics-port",
            "--model",
            "--out",
            "--recipe",
            "--rounds",
            "--seed",
            "--set",
            "--workers",
            "experiment",
        ],
        "status": [
            "--identity",
            "--insecure",
            "--json",
            "address",
        ],
        "watch": [
            "--identity",
            "--insecure",
            "address",
        ],
    }


def test_each_command_is_registered_by_its_own_side() -> None:
    found = {entry.name: entry.value for entry in entry_points(group="hedgerow.commands")}
    assert found == {
        "coordinator": "hedgerow.server.commands.coordinator:coordinator",
        "enrol": "hedgerow.server.commands.enrol:enrol",
        "evict": "hedgerow.server.commands.evict:evict",
        "fetch": "hedgerow.server.commands.fetch:fetch",
        "join": "hedgerow.client.commands.join:join",
        "recipes": "hedgerow.config.commands:recipes",
        "simulate": "hedgerow.server.commands.simulate:simulate",
        "status": "hedgerow.server.commands.status:status",
        "watch": "hedgerow.server.commands.watch:watch",
    }


@pytest.mark.parametrize("command", ["simulate", "coordinator", "join", "enrol", "status", "watch", "evict", "fetch"])
def test_the_help_does_not_wait_for_torch_or_flower(command: str) -> None:
    code = (
        "import sys, typer.testing; from hedgerow.cli import application;"
        f"result = typer.testing.CliRunner().invoke(application(), ['{command}', '--help']);"
        "assert result.exit_code == 0, result.output;"
        "print(sorted({'torch', 'flwr', 'sklearn', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_version_is_that_of_the_distribution() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from hedgerow.cli import main; main()", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == f"hedgerow {version('hedgerow')}"


def test_a_wheel_holds_all_four_folders(tmp_path: Path) -> None:
    hatchling = pytest.importorskip("hatchling.build", reason="hatchling comes with the dev extra")
    before = Path.cwd()
    os.chdir(ROOT)
    try:
        name = hatchling.build_wheel(str(tmp_path))
    finally:
        os.chdir(before)
    names = set(zipfile.ZipFile(tmp_path / name).namelist())
    for expected in (
        "hedgerow/server/app.py",
        "hedgerow/client/app.py",
        "hedgerow/config/recipes/hidenseek.toml",
        "hedgerow/server/report/report.html.j2",
        "hedgerow/v1/payload_pb2.py",
        "hedgerow/v1/payload.proto",
        "hedgerow/v1/fleet_pb2_grpc.py",
    ):
        assert expected in names
    assert "hedgerow/__init__.py" not in names
