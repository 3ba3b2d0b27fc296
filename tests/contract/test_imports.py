"""The dependencies of the architecture, read from the source."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("server", "client", "shared", "protos")
MAY_IMPORT_FLWR = ("hedgerow.server.app", "hedgerow.client.app", "hedgerow.wire.", "hedgerow.server.grids.")
START_THE_SERVER_APP = ("hedgerow.server.simulation", "hedgerow.server.serving")
PRIVATE_FLWR = ("flwr.common", "flwr.proto", "flwr.supercore.task_identity")


def sources() -> Iterator[tuple[str, str, Path]]:
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield folder, ".".join(path.relative_to(ROOT / folder).with_suffix("").parts), path


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
    return found


def offenders(package: str, *, allowed: tuple[str, ...] = (), inside: tuple[str, ...] = FOLDERS) -> list[str]:
    return [
        f"{module} imports {name}"
        for folder, module, path in sources()
        if folder in inside and not module.startswith(allowed)
        for name in imports(path)
        if name == package or name.startswith(package + ".")
    ]


def test_the_scan_sees_the_code() -> None:
    assert len(list(sources())) > 40
    assert offenders("flwr")


def test_server_and_client_never_import_each_other() -> None:
    assert offenders("hedgerow.server", inside=("client", "shared", "protos")) == []
    assert offenders("hedgerow.client", inside=("server", "shared", "protos")) == []


def test_only_the_app_modules_the_wire_and_the_grids_import_flwr() -> None:
    assert offenders("flwr", allowed=(*MAY_IMPORT_FLWR, *START_THE_SERVER_APP)) == []


@pytest.mark.parametrize("package", PRIVATE_FLWR)
def test_private_names_of_flwr_are_imported_in_one_module_only(package: str) -> None:
    assert offenders(package, allowed=("hedgerow.wire.flower",)) == []


def test_only_telemetry_imports_prometheus_client() -> None:
    assert offenders("prometheus_client", allowed=("hedgerow.telemetry",)) == []


def test_nothing_reads_pickles() -> None:
    assert offenders("pickle") == []


def test_the_namespace_package_has_no_init_file() -> None:
    assert [f for f in FOLDERS if (ROOT / f / "hedgerow" / "__init__.py").exists()] == []


def test_each_package_is_typed() -> None:
    packages = {path.parent for _, _, path in sources() if path.parent.parent.name == "hedgerow"}
    assert packages
    assert [str(p) for p in packages if not (p / "py.typed").exists()] == []


def test_the_build_of_the_kernels_needs_the_standard_library_only() -> None:
    # It runs where nothing is installed yet.
    used = imports(ROOT / "shared/hedgerow/native/build.py")
    assert used
    assert {name.partition(".")[0] for name in used} <= sys.stdlib_module_names
    assert {name.partition(".")[0] for name in imports(ROOT / "hatch_build.py")} - {
        "hatchling"
    } <= sys.stdlib_module_names
