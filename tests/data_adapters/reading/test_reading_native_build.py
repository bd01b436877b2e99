"""The native reader is compiled from the sources here, can be left out, and survives hostile lines under sanitizers."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from gemel.data_adapters.reading import reader

ROOT = Path(__file__).resolve().parents[3]
BUILD = runpy.run_path(str(ROOT / "data_adapters" / "native" / "build.py"))

SANITIZED = """
import importlib.util, random, sys
from importlib.machinery import ExtensionFileLoader
from gemel.data_adapters.reading import reader
loader = ExtensionFileLoader("_reader", sys.argv[1])
module = importlib.util.module_from_spec(importlib.util.spec_from_loader("_reader", loader))
loader.exec_module(module)
reader._native_module = lambda: module
import damaged_lines
lines = damaged_lines.real_lines()
counts = damaged_lines.check_damaged(lines, 4000, seed=1, put_to_models=0)
assert counts.differences == [], counts.differences
# One line a block, so that its last byte is the last of the memory.
shapes, chance = damaged_lines.task_shapes(), random.Random(2)
one = reader.open_reader(shapes, native=True)
for _ in range(4000):
    one.read(damaged_lines.Block(damaged_lines.damage(chance, lines)[0], 1))
print("clean")
"""


def test_without_a_compiler_nothing_is_built_and_the_reason_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert "no C++ compiler" in BUILD["build"](tmp_path / "_reader.abi3.so")
    assert list(tmp_path.iterdir()) == []


def test_a_compiler_that_fails_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "false")
    assert "failed" in BUILD["build"](tmp_path / "_reader.abi3.so")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not reader.native_is_built(), reason="the native reader was not compiled")
def test_the_compiled_reader_is_no_older_than_its_source():
    """If this fails: python data_adapters/native/build.py."""
    assert reader._native_module().source_digest == BUILD["source_digest"]()


@pytest.mark.heavy
@pytest.mark.parametrize("extra", [(), ("-U__SSE2__",)], ids=["SSE2", "no SIMD"])
def test_damaged_lines_touch_no_memory_that_is_not_the_readers(tmp_path, extra):
    if BUILD["find_compiler"]() is None:
        pytest.skip("no C++ compiler was found")
    if not (ROOT.parent / "shared" / "data" / "fhir").is_dir():
        pytest.skip("the public FHIR sites are not in ../shared/data")
    target = tmp_path / "_reader.abi3.so"
    flags = ("-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", *extra)
    assert BUILD["build"](target, flags=flags) is None
    runtimes = [
        subprocess.run(
            [*BUILD["find_compiler"](), f"-print-file-name=lib{name}.so"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for name in ("asan", "ubsan")
    ]
    environment = os.environ | {
        "LD_PRELOAD": " ".join(runtimes),
        "ASAN_OPTIONS": "detect_leaks=0",
        "PYTHONMALLOC": "malloc",
        "PYTHONPATH": str(ROOT / "tests" / "support"),
    }
    done = subprocess.run(
        [sys.executable, "-c", SANITIZED, str(target)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "clean", done.stderr[-3000:]
