"""A copy of `hedgerow.native` with one small kernel, which compiles in a second, in a folder of its own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import hedgerow.native.build as real

__all__ = ["make_native_tree", "run_in"]

_ANSWER = """
#include "kernels.h"
namespace hedgerow::HEDGEROW_ISA {
void answer(float *y) { *y = 42; }
}
"""


def make_native_tree(root: Path) -> Path:
    """Writes `root/hedgerow/native`, without a library."""
    folder = root / "hedgerow" / "native"
    (folder / "src").mkdir(parents=True)
    package = Path(real.__file__).parent
    for path in package.glob("*.py"):
        shutil.copy(path, folder)
    for name in ("dispatch.cpp", "table.cpp"):
        shutil.copy(package / "src" / name, folder / "src")
    header = (package / "src" / "kernels.h").read_text()
    header, count = re.subn(
        r"(#define HEDGEROW_KERNELS\(X\))(?:[^\n]*\\\n)+[^\n]*\n", r"\1 X(answer, (float *y))\n", header
    )
    assert count == 1
    (folder / "src" / "kernels.h").write_text(header)
    (folder / "src" / "answer.cpp").write_text(_ANSWER)
    return folder


def run_in(root: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Python with the package under `root`, and nothing but the standard library beside it."""
    clean = {k: v for k, v in os.environ.items() if k not in {"HEDGEROW_NATIVE", "HEDGEROW_ISA", "CXX"}}
    return subprocess.run(
        [sys.executable, "-S", *arguments],
        env={**clean, "PYTHONPATH": str(root), **environment},
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
