"""What the distribution promises to those who install it."""

from __future__ import annotations

import filecmp
import importlib.util
import os
import subprocess
import sys
import sysconfig
import zipfile
from importlib.metadata import entry_points, version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer

from hedgerow.cli import application
from hedgerow.native.build import compiler
from tests.native_tree import make_native_tree, run_in

ROOT = Path(__file__).parents[2]
PLATFORM = sysconfig.get_platform().replace("-", "_").replace(".", "_")

needs_compiler = pytest.mark.skipif(compiler() is None, reason="there is no C++ compiler")


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
        "compare": [
            "--allow-different",
            "--jobs",
            "--line",
            "--lines",
            "--out",
            "--recipes",
            "--seeds",
            "--set",
            "--workers",
            "experiment",
        ],
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
        "doctor": [
            "--json",
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
        "export": [
            "--no-compact",
            "--out",
            "--to",
            "run",
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
            "--measure",
            "--memory",
            "--name",
            "--no-measure",
            "--once",
            "--partition",
            "--state",
            "--threads",
            "address",
        ],
        "plan": [
            "--all",
            "--data",
            "--data-path",
            "--json",
            "--measure",
            "--memory",
            "--model",
            "--no-measure",
            "--recipe",
            "--set",
            "experiment",
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
        "compare": "hedgerow.server.commands.compare:compare",
        "coordinator": "hedgerow.server.commands.coordinator:coordinator",
        "doctor": "hedgerow.client.commands.doctor:doctor",
        "enrol": "hedgerow.server.commands.enrol:enrol",
        "evict": "hedgerow.server.commands.evict:evict",
        "export": "hedgerow.server.commands.export:export",
        "fetch": "hedgerow.server.commands.fetch:fetch",
        "join": "hedgerow.client.commands.join:join",
        "plan": "hedgerow.client.commands.plan:plan",
        "recipes": "hedgerow.config.commands:recipes",
        "simulate": "hedgerow.server.commands.simulate:simulate",
        "status": "hedgerow.server.commands.status:status",
        "watch": "hedgerow.server.commands.watch:watch",
    }


@pytest.mark.parametrize(
    "command",
    [
        "simulate",
        "compare",
        "coordinator",
        "join",
        "doctor",
        "plan",
        "enrol",
        "status",
        "watch",
        "evict",
        "fetch",
        "export",
    ],
)
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


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    hatchling = pytest.importorskip("hatchling.build", reason="hatchling comes with the dev extra")
    folder = tmp_path_factory.mktemp("wheel")
    before = Path.cwd()
    os.chdir(ROOT)
    try:
        return folder / str(hatchling.build_wheel(str(folder)))
    finally:
        os.chdir(before)


def test_a_wheel_holds_all_four_folders(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for expected in (
        "hedgerow/server/app.py",
        "hedgerow/client/app.py",
        "hedgerow/config/recipes/hidenseek.toml",
        "hedgerow/server/report/report.html.j2",
        "hedgerow/server/report/page.css",
        "hedgerow/server/comparing/comparison.html.j2",
        "hedgerow/v1/payload_pb2.py",
        "hedgerow/v1/payload.proto",
        "hedgerow/v1/fleet_pb2_grpc.py",
        "hedgerow/native/build.py",
        "hedgerow/native/src/kernels.h",
        "hedgerow/native/src/dispatch.cpp",
    ):
        assert expected in names
    assert "hedgerow/__init__.py" not in names


@needs_compiler
def test_a_wheel_with_kernels_is_for_this_platform_and_works_elsewhere(wheel: Path, tmp_path: Path) -> None:
    assert wheel.name.endswith(f"-py3-none-{PLATFORM}.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    (facts,) = tmp_path.glob("*.dist-info/WHEEL")
    assert {"Root-Is-Purelib: false", f"Tag: py3-none-{PLATFORM}"} <= set(facts.read_text().splitlines())
    code = "from hedgerow.native.library import status; found = status(); print(found.reason, found.path, sep='|')"
    done = run_in(tmp_path, "-c", code)
    assert done.stdout == f"the library is loaded|{tmp_path / 'hedgerow/native/_kernels.so'}\n", done.stderr


@needs_compiler
def test_the_hook_builds_the_kernels_for_a_wheel_and_for_an_editable_install(tmp_path: Path) -> None:
    wheel, editable = hooked(tmp_path, "standard"), hooked(tmp_path, "editable")
    kernels = "shared/hedgerow/native/_kernels.so"
    assert wheel == {"artifacts": [kernels], "pure_python": False, "tag": f"py3-none-{PLATFORM}", "warnings": []}
    assert editable == {"artifacts": [kernels], "warnings": []}
    assert (tmp_path / kernels).exists()


@pytest.mark.parametrize("version", ["standard", "editable"])
def test_without_a_compiler_the_distribution_is_pure_and_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = hooked(tmp_path, version)
    (warning,) = found.pop("warnings")
    assert found == {"artifacts": []}
    assert "install g++ or clang++" in warning
    assert "hedgerow works without native kernels" in warning


@pytest.mark.parametrize("broken", [sys.executable, "true", "false"])
def test_a_compiler_that_fails_does_not_fail_the_installation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    monkeypatch.setenv("CXX", broken)
    found = hooked(tmp_path, "standard")
    assert found["artifacts"] == []
    assert len(found["warnings"]) == 1


def test_the_image_is_built_with_the_hook_and_a_compiler_and_without_this_machines_library() -> None:
    steps = (ROOT / "deploy/Containerfile").read_text()
    ignored = (ROOT / "deploy/Containerfile.dockerignore").read_text().splitlines()
    assert "COPY pyproject.toml hatch_build.py README.md LICENSE ./" in steps
    assert steps.index("g++") < steps.index("pip install -c constraints.txt .")
    assert {"!hatch_build.py", "**/_kernels.so"} <= set(ignored)


def hooked(root: Path, version: str) -> dict[str, Any]:
    """What the hook of the distribution makes of a small source tree, and what it warned of."""
    pytest.importorskip("hatchling.build", reason="hatchling comes with the dev extra")
    sources = root / "shared"
    if not sources.exists():
        make_native_tree(sources)
    specification = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    warnings: list[str] = []
    app = SimpleNamespace(display_warning=warnings.append)
    hook = module.NativeKernels(str(root), {}, None, None, str(root), "wheel", app)
    build_data: dict[str, Any] = {"artifacts": []}
    hook.initialize(version, build_data)
    return {**build_data, "warnings": warnings}
