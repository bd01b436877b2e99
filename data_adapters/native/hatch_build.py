"""Hatchling's hook: wheels and editable installs get what is native where a compiler is, else none of it."""

from __future__ import annotations

import runpy
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).resolve().parents[2]
# What each builds; whatever is left out has a twin in Python.
NATIVE = {
    "reader of FHIR lines": ROOT / "data_adapters" / "native" / "build.py",
    "pass of recurrent layers": ROOT / "privacy" / "native" / "build.py",
}


class NativeHook(BuildHookInterface[Any]):
    """Compiles before the wheel is put together."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and mark the wheel as one for this platform; `version` is "standard" or "editable"."""
        for name, script in NATIVE.items():
            module = runpy.run_path(str(script))
            reason = module["build"]()
            if reason is not None:
                self.app.display_warning(f"Gemel's native {name} is left out: {reason}")
                continue
            build_data["artifacts"].append(str(module["TARGET"].relative_to(ROOT)))
            build_data["pure_python"] = False
            platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
            build_data["tag"] = f"cp311-abi3-{platform}"
