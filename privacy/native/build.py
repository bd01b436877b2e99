"""Compile the recurrent unit's pass and the normal draws with the system's C compiler: `python privacy/native/build.py`.

Without a compiler nothing is built, and both run as torch's operations, for the same numbers.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCES = (HERE / "gated_pass.c", HERE / "normals.c")
TARGET = HERE.parent / "gemel" / "privacy" / "_native.so"
# Not -ffast-math: a patient whose numbers are not finite must stay so.
FLAGS = (
    "-std=gnu11",
    "-O3",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=fast",
    "-fPIC",
    "-shared",
)


def find_compiler() -> list[str] | None:
    """The command of `CC`, else the first compiler found; None when there is none."""
    named = shlex.split(os.environ.get("CC", ""))
    for command in (named, ["gcc"], ["clang"], ["cc"]):
        if command and shutil.which(command[0]):
            return command
    return None


def build(target: Path = TARGET) -> str | None:
    """Compile into `target`; gives None, or why it could not be done."""
    compiler = find_compiler()
    if compiler is None:
        return "no C compiler was found (gcc, clang or the command in CC)"
    made = target.with_suffix(".part")
    done = subprocess.run(
        [*compiler, *FLAGS, *map(str, SOURCES), "-o", str(made), "-lm"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        return f"{compiler[0]} failed: {done.stderr.strip()[-2000:]}"
    # In one move: a process that loads the library finds the old one or the new one.
    made.replace(target)
    return None


if __name__ == "__main__":
    sys.exit(build())
