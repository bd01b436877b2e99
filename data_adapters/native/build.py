"""Compile the native reader with the system's C++ compiler: `python data_adapters/native/build.py`.

Without a compiler nothing is built, and Gemel reads with its reader in Python.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

SOURCE = Path(__file__).resolve().parent
TARGET = SOURCE.parent / "gemel" / "data_adapters" / "reading" / "_reader.abi3.so"
FLAGS = (
    "-std=c++17",
    "-O3",
    "-fPIC",
    "-shared",
    "-fvisibility=hidden",
    "-Wall",
    "-Wextra",
    "-Wno-missing-field-initializers",
)


def source_digest() -> str:
    """The SHA-256 of all the C++; the compiled module has it as `source_digest`."""
    digest = hashlib.sha256()
    for path in sorted(SOURCE.glob("*.[ch]pp")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def find_compiler() -> list[str] | None:
    """The command of `CXX`, else the first compiler found; None when there is none."""
    named = shlex.split(os.environ.get("CXX", ""))
    for command in (named, ["g++"], ["clang++"], ["c++"]):
        if command and shutil.which(command[0]):
            return command
    return None


def build(target: Path = TARGET, *, flags: tuple[str, ...] = ()) -> str | None:
    """Compile into `target`; gives None, or why it could not be done."""
    compiler = find_compiler()
    if compiler is None:
        return "no C++ compiler was found (g++, clang++ or the command in CXX)"
    include = sysconfig.get_path("include")
    if not (Path(include) / "Python.h").is_file():
        return "Python's header files are not installed (Debian: python3-dev)"
    link = (
        ["-undefined", "dynamic_lookup"]
        if sys.platform == "darwin"
        else ["-static-libstdc++", "-static-libgcc"]
    )
    digest = f'-DGEMEL_SOURCE_DIGEST="{source_digest()}"'
    source = str(SOURCE / "reader.cpp")
    # Into a file of its own first: a process that has the old one loaded keeps it.
    made = target.with_name(f".{target.name}.{os.getpid()}")
    command = [*compiler, *FLAGS, digest, f"-I{include}", source, "-o", str(made), *link, *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        made.unlink(missing_ok=True)
        return f"the C++ compiler failed: {done.stderr.strip()[-2000:]}"
    made.replace(target)
    return None


if __name__ == "__main__":
    sys.exit(build())
