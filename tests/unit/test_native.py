"""The native library: built, found, checked, and done without."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from hedgerow.native.build import LIBRARY, BuildError, build, compiler, is_current
from hedgerow.native.library import POINTER, Kernel, status
from tests.native_tree import make_native_tree, run_in

BUILD = ("-m", "hedgerow.native.build")
STATUS = (
    "-c",
    "from hedgerow.native.library import status; s = status(); print(s.available, s.isa, s.reason, sep='|')",
)
ANSWER = (
    "-c",
    "import ctypes; from hedgerow.native.library import Kernel, POINTER, status\n"
    "y = ctypes.c_float(); Kernel('answer', POINTER)(ctypes.addressof(y)); print(y.value, status().isa)",
)

needs_compiler = pytest.mark.skipif(compiler() is None, reason="there is no C++ compiler")


def told(root: Path, **environment: str) -> list[str]:
    done = run_in(root, *STATUS, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().split("|")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("built")
    make_native_tree(root)
    done = run_in(root, *BUILD)
    assert done.returncode == 0, done.stderr
    return root


@pytest.fixture
def tree(built: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(built, tmp_path / "tree"))


@needs_compiler
def test_where_there_is_a_compiler_the_native_kernels_are_in_use() -> None:
    found = status()
    assert found.available, found.reason
    assert is_current(), "the library was built from other sources; run python -m hedgerow.native.build"
    assert found.reason == "the library is loaded"
    assert found.path == LIBRARY
    assert found.isa in {"v4", "v3", "base"}
    assert found.compiler


@needs_compiler
def test_a_small_library_is_built_and_called(built: Path) -> None:
    done = run_in(built, *ANSWER)
    assert done.stdout.split() == ["42.0", status().isa], done.stderr
    assert run_in(built, *ANSWER, HEDGEROW_ISA="base").stdout.split() == ["42.0", "base"]


@needs_compiler
def test_it_is_built_again_only_when_a_source_changed(tree: Path) -> None:
    library = tree / "hedgerow/native/_kernels.so"
    before = library.stat().st_ino
    assert run_in(tree, *BUILD, "--if-needed").stdout == ""
    assert library.stat().st_ino == before
    source = tree / "hedgerow/native/src/answer.cpp"
    source.write_text(source.read_text().replace("42", "43"))
    assert told(tree)[0] == "True"
    assert "its sources changed; run python -m hedgerow.native.build" in told(tree)[2]
    assert run_in(tree, *BUILD, "--if-needed").stdout == f"hedgerow: built {library}\n"
    assert run_in(tree, *ANSWER).stdout.split()[0] == "43.0"
    assert [path.name for path in library.parent.glob(".*")] == [], "nothing else is left behind"


@needs_compiler
@pytest.mark.parametrize("environment", [{"CXX": "no-such-compiler"}, {"PATH": "/nowhere"}])
def test_without_a_compiler_it_says_what_to_install(tmp_path: Path, environment: dict[str, str]) -> None:
    make_native_tree(tmp_path)
    done = run_in(tmp_path, *BUILD, **environment)
    assert done.returncode == 1
    assert done.stderr.startswith("hedgerow: no C++ compiler was found")
    assert "install g++ or clang++" in done.stderr
    assert run_in(tmp_path, *BUILD, "--if-needed", **environment).returncode == 0
    available, _, reason = told(tmp_path)
    assert available == "False"
    assert reason.startswith("the library was not built; install a C++ compiler")


@needs_compiler
def test_a_source_that_does_not_compile_leaves_the_old_library(tree: Path) -> None:
    (tree / "hedgerow/native/src/answer.cpp").write_text("this is no C++")
    done = run_in(tree, *BUILD)
    assert done.returncode == 1
    assert "answer.cpp" in done.stderr
    assert run_in(tree, *ANSWER).stdout.split()[0] == "42.0"


def test_a_compiler_that_cannot_run_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "c++"
    broken.write_bytes(b"\x7fELF no program")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    with pytest.raises(BuildError, match="cannot be run"):
        build(tmp_path / "library.so")
    assert not (tmp_path / "library.so").exists()


def truncated(library: Path) -> None:
    library.write_bytes(library.read_bytes()[: library.stat().st_size // 2])


def emptied(library: Path) -> None:
    library.write_bytes(b"")


def overwritten(library: Path) -> None:
    library.write_bytes(b"no library" * 1000)


def of_another_program(library: Path) -> None:
    import _ctypes

    shutil.copy(_ctypes.__file__, library)


@needs_compiler
@pytest.mark.parametrize("damage", [truncated, emptied, overwritten, of_another_program])
def test_a_damaged_library_is_not_used(tree: Path, damage: Callable[[Path], None]) -> None:
    damage(tree / "hedgerow/native/_kernels.so")
    available, isa, reason = told(tree)
    assert (available, isa) == ("False", "")
    assert reason.startswith("the library cannot be opened (")
    assert reason.endswith("; run python -m hedgerow.native.build")


@needs_compiler
def test_a_library_with_other_signatures_is_not_used(tree: Path) -> None:
    header = tree / "hedgerow/native/src/kernels.h"
    header.write_text(header.read_text().replace("(float *y)", "(double *y)"))
    available, _, reason = told(tree)
    assert available == "False"
    assert reason == "the library was built from other sources; run python -m hedgerow.native.build"


@needs_compiler
def test_the_environment_turns_it_off_or_chooses_the_instructions(built: Path) -> None:
    available, _, reason = told(built, HEDGEROW_NATIVE="off")
    assert available == "False"
    assert reason == "HEDGEROW_NATIVE turns the native kernels off; unset it to use them"
    assert told(built, HEDGEROW_ISA="base")[:2] == ["True", "base"]
    available, _, reason = told(built, HEDGEROW_ISA="mmx")
    assert available == "False"
    assert reason.startswith("HEDGEROW_ISA=mmx cannot be used here; this library and processor do ")


@needs_compiler
def test_a_kernel_that_there_is_not_is_refused() -> None:
    with pytest.raises(AssertionError, match=r"kernels\.h has no nonsense"):
        Kernel("nonsense", POINTER)(None)


@needs_compiler
def test_a_kernel_is_not_called_without_the_library(built: Path) -> None:
    done = run_in(built, *ANSWER, HEDGEROW_NATIVE="off")
    assert "AssertionError: HEDGEROW_NATIVE turns the native kernels off" in done.stderr


@needs_compiler
@pytest.mark.skipif(shutil.which("nm") is None, reason="binutils are not installed")
def test_the_variants_share_no_function() -> None:
    # The linker would keep one copy of a shared function, perhaps with instructions that this processor lacks.
    listed = subprocess.run(["nm", "-C", "--defined-only", str(LIBRARY)], capture_output=True, text=True, check=True)
    names = [line.split(maxsplit=2)[2] for line in listed.stdout.splitlines()]
    assert any("hedgerow::base::" in name for name in names)
    assert [name for name in names if re.search(r"\b(std|__gnu_cxx)::", name)] == []
    ours = {name for name in names if re.search(r"\bhedgerow::(?!v4::|v3::|base::)", name)}
    assert {name.split("(")[0] for name in ours} == {"hedgerow::parallel"}
