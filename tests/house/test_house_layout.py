"""The tree keeps its own rules: rooms, layers, sizes, and what must never be written."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("core", "data_adapters", "privacy", "twins", "synthetic", "client_node", "server", "cli")
SOURCES = sorted(p for room in ROOMS for p in (ROOT / room / "gemel").rglob("*.py"))
CODE = [*SOURCES, *sorted((ROOT / "benchmarks").glob("*.py"))]
TEXT_SUFFIXES = {
    ".py", ".md", ".toml", ".txt", ".json", ".html", ".css", ".js", ".svg", ".sql", ".cfg", ".ini", ".yml",
    ".yaml", ".sh", "",
}  # fmt: skip
MAXIMUM_FILE_LINES = 600
MAXIMUM_FUNCTION_LINES = 60


def _name(path):
    return str(path.relative_to(ROOT))


def _texts():
    """Every text file of the repository that people write."""
    folders = [*ROOMS, "tests", "docs", "benchmarks", "studies", "deploy", ".ci"]
    files = [p for folder in folders for p in (ROOT / folder).rglob("*") if "results" not in p.parts]
    files += [p for p in ROOT.iterdir() if p.name not in {".git", "LICENSE"}]
    return sorted(
        p for p in files if p.is_file() and p.suffix in TEXT_SUFFIXES and "__pycache__" not in p.parts
    )


def test_no_room_hides_its_siblings():
    """An `__init__.py` in a `gemel` folder would end the namespace: every other room would vanish."""
    assert list(ROOT.glob("*/gemel/__init__.py")) == []


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_is_a_package_of_its_name(room):
    assert [p.name for p in (ROOT / room / "gemel").iterdir() if p.name != "__pycache__"] == [room]
    assert (ROOT / room / "gemel" / room / "__init__.py").is_file()


def _lint_imports(cwd, path=""):
    environment = {**os.environ, "PYTHONPATH": path, "NO_COLOR": "1"}
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def test_the_layers_are_kept():
    result = _lint_imports(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr


PLANTED = {
    "server": (
        "import gemel.data_adapters\nimport duckdb\nimport flwr\n",
        ["parse a patient record", "Flower only"],
    ),
    "client_node": (
        "import gemel.server\nimport cryptography\n",
        ["do not know each other", "Cryptography only"],
    ),
    "core": (
        "import torch\nimport gemel.privacy\nimport opacus\n",
        ["core is light", "are layers", "Opacus and"],
    ),
    "privacy": (
        "import gemel.data_adapters\nimport fhir\n",
        ["cannot read their records", "FHIR models only"],
    ),
    "data_adapters": ("import gemel.twins\n", ["knows no twin"]),
}


def test_a_planted_import_across_the_layers_is_caught(tmp_path):
    for room in ROOMS:
        shutil.copytree(ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__", "*.json"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for room, (lines, _) in PLANTED.items():
        (tmp_path / room / "gemel" / room / "planted.py").write_text(lines)
    result = _lint_imports(tmp_path, os.pathsep.join(str(tmp_path / room) for room in ROOMS))
    assert result.returncode == 1, result.stderr
    broken = [line for line in result.stdout.splitlines() if line.endswith("BROKEN")]
    for _, names in PLANTED.values():
        for name in names:
            assert any(name in line for line in broken), (name, result.stdout)


@pytest.mark.parametrize("path", CODE, ids=_name)
def test_files_and_functions_stay_short(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= MAXIMUM_FILE_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            assert lines <= MAXIMUM_FUNCTION_LINES, f"{node.name} has {lines} lines"


FORBIDDEN_MODULES = {"pickle", "cloudpickle", "dill", "marshal", "shelve", "yaml", "joblib"}
FORBIDDEN_CALLS = {"eval", "exec", "torch.load", "np.load", "numpy.load", "pd.read_pickle", "torch.save"}


def _unsafe(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.split(".")[0] in FORBIDDEN_MODULES)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in FORBIDDEN_MODULES:
            yield node.module
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in FORBIDDEN_CALLS:
            yield ast.unparse(node.func)


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_no_code_reads_bytes_that_can_run(path):
    assert list(_unsafe(ast.parse(path.read_text(encoding="utf-8")))) == []


def test_the_search_for_unsafe_code_finds_it():
    planted = "import pickle\nfrom yaml import load\nx = eval('1')\nm = torch.load(f)\nmodel.eval()\n"
    assert sorted(_unsafe(ast.parse(planted))) == ["eval", "pickle", "torch.load", "yaml"]


def _never():
    """Patterns that must not be in the tree, put together here so that this file does not match itself."""
    folders = "|".join(("work", "farm", "root", "tmp", "home"))
    return {
        "a path of one machine": re.compile(rf"(^|[\s\"'=(])/({folders})/", re.MULTILINE),
        "an unfinished part": re.compile(r"\b(TO" r"DO|FIX" r"ME|XX" r"X)\b"),
        "a stub": re.compile(r"raise Not" r"ImplementedError"),
    }


@pytest.mark.parametrize("what", list(_never()))
def test_the_tree_holds_nothing_that(what):
    pattern = _never()[what]
    found = [
        f"{_name(path)}: {match.group(0).strip()}"
        for path in _texts()
        for match in pattern.finditer(path.read_text(encoding="utf-8"))
    ]
    assert found == []


VAGUE = {"utils", "util", "helpers", "common", "manager", "misc"}


def test_a_module_is_named_for_what_it_holds():
    assert [_name(p) for p in SOURCES if p.stem in VAGUE] == []


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_has_tests_of_its_name(room):
    assert list((ROOT / "tests" / room).glob("test_*.py"))
