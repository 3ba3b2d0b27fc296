"""Builds the native kernels for wheels and editable installs; without a compiler the distribution is pure Python."""

from __future__ import annotations

import importlib.util
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_BUILDER = Path("shared/hedgerow/native/build.py")


class NativeKernels(BuildHookInterface[Any]):
    """Puts the library beside its module, and into the wheel, which then is for this platform only."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before it collects files; `version` is standard or editable."""
        builder = _loaded(Path(self.root) / _BUILDER)
        try:
            library: Path = builder.LIBRARY if builder.is_current() else builder.build()
        except (builder.BuildError, OSError) as error:
            self.app.display_warning(f"{error}\nhedgerow works without native kernels, slower; hedgerow doctor tells.")
            return
        # Git ignores it, and so would hatchling.
        build_data["artifacts"].append(library.relative_to(self.root).as_posix())
        if version != "editable":
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{_platform()}"


def _loaded(path: Path) -> ModuleType:
    # Nothing of hedgerow is installed yet where the distribution is built.
    specification = importlib.util.spec_from_file_location("hedgerow_native_build", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def _platform() -> str:
    return sysconfig.get_platform().replace("-", "_").replace(".", "_")
