"""Hatchling's hook: wheels and editable installs get the native reader where a C++ compiler is, else none."""

from __future__ import annotations

import runpy
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NATIVE = Path(__file__).resolve().parent
ROOT = NATIVE.parents[1]


class NativeReaderHook(BuildHookInterface[Any]):
    """Compiles the reader before the wheel is put together."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and mark the wheel as one for this platform; `version` is "standard" or "editable"."""
        module = runpy.run_path(str(NATIVE / "build.py"))
        reason = module["build"]()
        if reason is not None:
            self.app.display_warning(f"Gemel's native reader is left out: {reason}")
            return
        build_data["artifacts"].append(str(module["TARGET"].relative_to(ROOT)))
        build_data["pure_python"] = False
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"cp311-abi3-{platform}"
