"""`hedgerow doctor`: what it says of this machine."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import typer
import typer.testing

from hedgerow.client.commands.doctor import doctor
from hedgerow.client.surroundings import Surroundings, extras_of, surroundings
from hedgerow.native.library import Status, status


def said(*arguments: str) -> str:
    app = typer.Typer()
    app.command()(doctor)
    result = typer.testing.CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, result.output
    return result.output


def line_of(found: Surroundings, name: str) -> str:
    (line,) = [line for line in found.lines() if line.split("  ")[0] == name]
    return line.partition("  ")[2].strip()


def test_it_says_which_kernels_are_in_use_and_why() -> None:
    output = said()
    assert status().reason in output
    assert torch.__version__ in output
    assert ("native, " if status().available else "torch only, ") in output


def test_as_json_it_says_the_same() -> None:
    facts = json.loads(said("--json"))
    assert facts["kernels"]["available"] is status().available
    assert facts["kernels"]["path"] == str(status().path)
    assert facts["torch"] == torch.__version__
    assert facts["threads"] == torch.get_num_threads()
    assert facts["memory"] > 1_000_000
    assert set(facts) == {field.name for field in dataclasses.fields(Surroundings)}


def test_without_native_kernels_it_still_ends_well() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import typer; from hedgerow.client.commands.doctor import doctor; typer.run(doctor)"],
        env={**os.environ, "HEDGEROW_NATIVE": "off"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    reason = "HEDGEROW_NATIVE turns the native kernels off; unset it to use them"
    assert f"torch only, without native kernels: {reason}" in done.stdout


def test_each_line_is_for_people() -> None:
    found = dataclasses.replace(
        surroundings(),
        kernels=Status(True, "the library is loaded", "v3", "g++ 12", Path("/somewhere/_kernels.so"), "0" * 16),
        compiler=None,
        processor="Fastest (x86_64)",
        cores=1,
        threads=2,
        memory=1_500_000_000,
        extras={"export": ["onnx", "onnxruntime"], "ray": []},
        tools={"promtool": None},
        measured=1,
    )
    assert line_of(found, "kernels") == "native, v3 (AVX2), made by g++ 12: the library is loaded"
    assert line_of(found, "library") == "/somewhere/_kernels.so"
    assert line_of(found, "compiler") == "none; g++ or clang++ builds the native kernels"
    assert line_of(found, "processor") == "Fastest (x86_64), 1 core"
    assert line_of(found, "memory") == "1.5 GB may be used"
    assert line_of(found, "extra export") == "missing onnx, onnxruntime; pip install 'hedgerow[export]'"
    assert line_of(found, "extra ray") == "installed"
    assert line_of(found, "promtool") == "not found"
    assert line_of(found, "measured").startswith("1 choice of sparse or dense layers in ")
    off = dataclasses.replace(found, kernels=Status(False, "the library was not built; do so"))
    assert line_of(off, "kernels") == "torch only, without native kernels: the library was not built; do so"
    assert not [line for line in off.lines() if line.startswith("library")]


def test_what_was_measured_is_counted_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert surroundings().measured == 0
    folder = tmp_path / "hedgerow" / "paths"
    folder.mkdir(parents=True)
    (folder / "one.json").write_text("{}")
    (folder / "two.json").write_text("{}")
    found = surroundings()
    assert (found.measured, found.paths) == (2, folder)


def test_an_extra_names_what_is_missing_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distribution(
        tmp_path,
        "garden",
        "Provides-Extra: bed",
        "Provides-Extra: shed",
        "Provides-Extra: pond",
        "Requires-Dist: always",
        "Requires-Dist: rake; extra == 'bed'",
        "Requires-Dist: rake[handle]>=1; extra == 'shed'",
        "Requires-Dist: spade<2 ; python_version > '3' and extra == \"shed\"",
    )
    distribution(tmp_path, "rake", "Provides-Extra: handle", "Requires-Dist: ash; extra == 'handle'")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert extras_of("garden") == {"bed": [], "shed": ["ash", "spade"], "pond": []}


def distribution(folder: Path, name: str, *metadata: str) -> None:
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    lines = ["Metadata-Version: 2.1", f"Name: {name}", "Version: 1.0", *metadata]
    (info / "METADATA").write_text("\n".join(lines) + "\n")


def test_the_extras_of_this_distribution_are_known() -> None:
    assert {"dev", "ray"} <= set(extras_of("hedgerow"))
