"""Unit files and container files: what can be judged of them without systemd or Docker running."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
UNITS = sorted((ROOT / "deploy" / "systemd").glob("*.service"))
DOCKERFILES = sorted((ROOT / "deploy" / "docker").glob("*.Dockerfile"))
COMPOSE = sorted((ROOT / "deploy" / "docker").glob("*.yaml"))
GEMEL = Path(sys.executable).parent / "gemel"
# What `systemd-analyze security` (252) makes of each: 0 is shut, 10 is open. Never raised to pass.
EXPOSURE = {"gemel-coordinator": 1.2, "gemel-node": 2.0, "gemel-proxy": 1.7}

analyze = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")


def _words(text):
    """The values of a unit by name, later lines added."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def test_there_is_a_unit_for_each_side():
    assert {unit.stem for unit in UNITS} == set(EXPOSURE)


@analyze
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_systemd_finds_no_fault_with_the_unit(unit, tmp_path):
    # The program is elsewhere here than where a package puts it.
    for other in UNITS:
        text = (
            other.read_text()
            .replace("/opt/gemel/bin/gemel", str(GEMEL))
            .replace("/usr/sbin/nginx", "/bin/true")
        )
        (tmp_path / other.name).write_text(text)
    command = ["systemd-analyze", "verify", "--man=no", str(tmp_path / unit.name)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@analyze
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_the_unit_is_shut_as_far_as_the_program_allows(unit):
    threshold = str(round(10 * EXPOSURE[unit.stem]))
    command = [
        "systemd-analyze",
        "security",
        "--offline=yes",
        "--no-pager",
        f"--threshold={threshold}",
        str(unit),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-400:] + done.stderr
    assert "ignoring" not in done.stderr


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_the_unit_runs_a_command_that_there_is_as_a_user_of_its_own_and_again_when_it_ends(unit):
    words = _words(unit.read_text())
    assert words["User"] == ["gemel"]
    assert words["Restart"] == ["always"]
    assert words["NoNewPrivileges"] == ["yes"]
    for line in words["ExecStart"]:
        if "/gemel " in line:
            noun, verb = line.split()[1:3]
            done = subprocess.run([GEMEL, noun, verb, "--help"], capture_output=True, text=True, check=False)
            assert done.returncode == 0, line


def test_the_proxy_sees_no_key_that_signs():
    words = _words((ROOT / "deploy" / "systemd" / "gemel-proxy.service").read_text())
    assert any("/keys" in line for line in words["InaccessiblePaths"])


@analyze
@pytest.mark.parametrize("name", ["sysusers", "tmpfiles"])
def test_the_user_and_the_folders_are_made_by_systemd(name, tmp_path):
    source = ROOT / "deploy" / "systemd" / f"gemel.{name}.conf"
    (tmp_path / "etc").mkdir()
    if name == "tmpfiles":
        (tmp_path / "etc" / "passwd").write_text("root:x:0:0::/:/bin/sh\ngemel:x:10001:10001::/:/bin/sh\n")
        (tmp_path / "etc" / "group").write_text("root:x:0:\ngemel:x:10001:\n")
    program = shutil.which(f"systemd-{name}")
    command = [program, f"--root={tmp_path}", *(["--create"] if name == "tmpfiles" else []), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    if name == "tmpfiles":
        assert (tmp_path / "srv" / "gemel" / "export").stat().st_mode & 0o777 == 0o750
    else:
        assert re.search(
            r"^gemel:.*:/usr/sbin/nologin$", (tmp_path / "etc" / "passwd").read_text(), re.MULTILINE
        )


def _instructions(path):
    text = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", path.read_text(), flags=re.MULTILINE))
    return [tuple(line.split(None, 1)) for line in text.splitlines() if line.strip()]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_the_image_is_built_in_two_stages_and_its_process_is_nobody_special(path):
    lines = _instructions(path)
    names = [name for name, _ in lines]
    assert names.count("FROM") == 2
    last = lines[max(i for i, name in enumerate(names) if name == "FROM") :]
    by_name = dict(last)
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", by_name["USER"])
    assert not {"ADD", "EXPOSE"} & set(names)
    assert by_name["HEALTHCHECK"]
    for name, value in lines:
        if name == "FROM":
            assert re.search(r":\d+\.\d+-", value), "a version, never latest"
        if name == "RUN" and "apt-get install" in value:
            assert "--no-install-recommends" in value
            assert "rm -rf /var/lib/apt/lists/*" in value
        # The last stage has neither the compiler nor the source.
    assert not any(
        "gcc" in value or value.startswith(". ") for name, value in last if name in ("RUN", "COPY")
    )


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_the_image_installs_what_the_project_declares(path):
    text = path.read_text()
    torch = re.search(r"torch==([\d.]+\d)", (ROOT / "Makefile").read_text()).group(0)
    assert torch in text
    extras = re.search(r'"\.\[([\w,]+)\]"', text).group(1).split(",")
    declared = (ROOT / "pyproject.toml").read_text()
    assert all(re.search(rf"^{extra} = \[", declared, re.MULTILINE) for extra in extras)
    for command in re.findall(r'"gemel", ("\w+", "\w+")', text) + re.findall(
        r'^CMD \[("\w+", "\w+")', text, re.MULTILINE
    ):
        words = re.findall(r"\w+", command)
        assert subprocess.run([GEMEL, *words, "--help"], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("path", COMPOSE, ids=lambda path: path.stem)
def test_every_service_is_read_only_without_privileges_and_only_the_coordinator_is_reached(path):
    yaml = pytest.importorskip("yaml")
    document = yaml.safe_load(path.read_text())
    services = document["services"]
    volumes = set(document["volumes"])
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["user"] == "10001:10001", name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["restart"] == "unless-stopped", name
        assert service["mem_limit"], name
        assert ("ports" in service) == (name == "coordinator"), name
        assert "privileged" not in service, name
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert source in volumes or (source.startswith("./") and volume.endswith(":ro")), volume
            assert "docker.sock" not in volume
        if "build" in service:
            context = path.parent / service["build"]["context"]
            assert (context / service["build"]["dockerfile"]).is_file(), name
