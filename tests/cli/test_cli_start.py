"""How the command starts, speaks and ends, whatever the noun."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from gemel.cli import doctor, main
from gemel.core.errors import GemelError

RUNNER = CliRunner()
# `python -c` so that the test sees the entry point of this checkout, with its process's modules.
ENTRY = "from gemel.cli.main import run; run()"
HEAVY = {
    "torch",
    "flwr",
    "duckdb",
    "pandas",
    "pyarrow",
    "opacus",
    "dp_accounting",
    "jax",
    "mbi",
    "numpy",
    "fhir",
}


def _gemel(*arguments, before="", after="", **options):
    code = f"import sys; sys.argv[0] = 'gemel'\n{before}\ntry:\n    {ENTRY}\nfinally:\n    pass\n    {after}"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False, **options
    )


def test_help_imports_nothing_heavy():
    shown = "print(' '.join(sorted({m.split('.')[0] for m in sys.modules})), file=sys.stderr)"
    result = _gemel("--help", after=shown)
    assert result.returncode == 0, result.stderr
    assert "Usage: gemel" in result.stdout
    assert set(result.stderr.split()) & HEAVY == set()


def test_help_is_quick():
    def seconds():
        start = time.perf_counter()
        _gemel("--help")
        return time.perf_counter() - start

    # The bar is 0.3 s on a quiet machine (benchmarks/cli_start.py); tests share theirs with others.
    assert min(seconds() for _ in range(4)) < 0.6


def test_the_version_is_the_distributions():
    result = RUNNER.invoke(main.app, ["--version"])
    assert result.exit_code == 0
    assert result.stdout.startswith("gemel 0.")


@pytest.mark.parametrize(
    "arguments",
    [["nonsense"], ["data", "nonsense"], ["demo", "--rounds", "none"], ["demo", "--hospitals", "1"]],
)
def test_wrong_usage_exits_with_two_and_talks_on_stderr(arguments):
    result = _gemel(*arguments)
    assert result.returncode == 2
    assert result.stdout == ""
    assert "Usage:" in result.stderr


def _with_demo(body):
    """Code that puts a stand-in where the command looks for the demo."""
    return (
        "import types\nstand_in = types.ModuleType('gemel.cli.demo.run')\n"
        "Settings = dict\nstand_in.Settings = Settings\n"
        f"def main(programme, out, settings, **options):\n    {body}\n"
        "stand_in.main = main\nsys.modules['gemel.cli.demo.run'] = stand_in"
    )


def test_an_expected_failure_is_its_code_its_text_and_its_exit_code():
    body = "from gemel.core.errors import GemelError; raise GemelError('GEM301', 'Too much.')"
    result = _gemel("demo", before=_with_demo(body))
    assert result.returncode == 3
    assert result.stdout == ""
    assert "GEM301 Too much." in result.stderr.splitlines()
    assert "cheaper study" in result.stderr


def test_an_interrupt_exits_with_130(tmp_path):
    started = tmp_path / "started"
    body = f"import pathlib, time; pathlib.Path({str(started)!r}).touch(); time.sleep(60)"
    # A shell has its background jobs ignore interrupts, and what they start inherits that.
    heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    code = f"import sys; sys.argv[0] = 'gemel'\n{heard}\n{_with_demo(body)}\n{ENTRY}"
    process = subprocess.Popen([sys.executable, "-c", code, "demo"], stderr=subprocess.PIPE)
    deadline = time.monotonic() + 30
    while not started.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert b"Traceback" not in stderr


def test_telemetry_is_off_for_all_that_a_command_starts():
    body = "import os; print(os.environ['FLWR_TELEMETRY_ENABLED'], os.environ['FLWR_DISABLE_UPDATE_CHECK'])"
    environment = {**os.environ, "FLWR_TELEMETRY_ENABLED": "1"}
    result = _gemel("demo", before=_with_demo(body), env=environment)
    assert result.stdout.split() == ["0", "1"], result.stderr


def test_the_demo_gets_what_the_command_line_says():
    options = ["--hospitals", "4", "--rounds", "6", "--epsilon", "2.5", "--seed", "7", "--out", "here"]
    options += ["--programme", "stroke", "--data", "there"]
    told = "print(programme, out, options, sorted((k, str(v)) for k, v in settings.items()))"
    result = _gemel("demo", *options, before=_with_demo(told))
    settings = [("data", "there"), ("epsilon", "2.5"), ("hospitals", "4"), ("rounds", "6"), ("seed", "7")]
    assert result.stdout == f"stroke here {{'as_json': False}} {settings}\n", result.stderr


def test_explain_tells_meaning_remedy_and_exit_code():
    result = RUNNER.invoke(main.app, ["explain", "gem301"])
    assert result.exit_code == 0
    for part in ("GEM301", "privacy budget", "What to do:", "Exit code: 3 (refused)"):
        assert part in result.stdout


def test_explain_of_an_unknown_code_is_gem802_on_both_streams():
    result = RUNNER.invoke(main.app, ["explain", "GEM999", "--format", "json"])
    assert result.exit_code == 2
    answer = json.loads(result.stdout)
    assert answer["exit_code"] == 2
    assert answer["error"]["code"] == "GEM802"
    assert "GEM999" in answer["error"]["message"]
    assert result.stderr.startswith("GEM802 ")


@pytest.fixture
def no_packages(monkeypatch):
    """The doctor without its slow part: importing every package."""
    monkeypatch.setattr(doctor, "PACKAGES", (("json", "msgspec", None, "a test"),))
    monkeypatch.setattr(doctor, "DEMO_PACKAGES", ())
    for name, value in doctor.QUIET_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("no_packages")
def test_the_doctor_finds_this_machine_healthy():
    result = RUNNER.invoke(main.app, ["doctor", "--format", "json"])
    answer = json.loads(result.stdout)
    assert result.exit_code == 0, answer
    assert answer["ok"] is True
    names = {check["name"] for check in answer["checks"]}
    assert {"Python", "telemetry", "disk space here", "memory", "loopback ports", "clock", "msgspec"} <= names


@pytest.mark.usefixtures("no_packages")
@pytest.mark.parametrize(
    ("packages", "detail"),
    [
        ((("absent_module", "absent-distribution", None, "a test"),), "not installed"),
        ((("json", "msgspec", "0.0.1", "a test"),), "expected 0.0.1"),
        ((("absent_module", "msgspec", None, "a test"),), "does not import"),
    ],
)
def test_the_doctor_names_a_package_that_is_not_right(monkeypatch, packages, detail):
    monkeypatch.setattr(doctor, "PACKAGES", packages)
    result = RUNNER.invoke(main.app, ["doctor", "--format", "json"])
    answer = json.loads(result.stdout)
    failed = [check for check in answer["checks"] if not check["ok"]]
    assert result.exit_code == 1
    assert len(failed) == 1
    assert detail in failed[0]["detail"]
    assert "make setup" in failed[0]["remedy"]


@pytest.mark.usefixtures("no_packages")
def test_the_doctor_goes_well_without_the_demos_data(monkeypatch):
    monkeypatch.setattr(
        doctor, "DEMO_PACKAGES", (("absent_module", "absent-distribution", None, "the demo"),)
    )
    result = RUNNER.invoke(main.app, ["doctor"])
    assert result.exit_code == 0
    assert "missing" in result.stdout


@pytest.mark.usefixtures("no_packages")
def test_the_doctor_sees_telemetry_that_is_on(monkeypatch):
    monkeypatch.setenv("FLWR_TELEMETRY_ENABLED", "1")
    result = RUNNER.invoke(main.app, ["doctor"])
    assert result.exit_code == 1
    assert "FLWR_TELEMETRY_ENABLED" in result.stdout


@pytest.mark.usefixtures("no_packages")
@pytest.mark.parametrize("limit", ["DISK_GIB_NEEDED", "MEMORY_GIB_NEEDED"])
def test_the_doctor_sees_too_little_room(monkeypatch, limit):
    monkeypatch.setattr(doctor, limit, 1e9)
    checks = {check.name: check for check in doctor.examine()}
    name = {"DISK_GIB_NEEDED": "disk space here", "MEMORY_GIB_NEEDED": "memory"}[limit]
    assert not checks[name].ok
    # Little memory makes things slow; no disk makes them fail.
    assert checks[name].required is (limit == "DISK_GIB_NEEDED")


def test_report_never_loses_the_hint(capsys):
    main.report(GemelError("GEM505", "No SuperLink."))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "GEM505 No SuperLink.\n  Read its log, named in the message.\n"
