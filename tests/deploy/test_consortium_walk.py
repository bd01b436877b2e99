"""`docs/consortium.md`, run as it is written: five machines, two studies, one refusal, certificates that verify."""

import json
import re
import secrets
import shutil
from pathlib import Path

import pytest
from hosts import hosts
from written_walk import Walk, steps_of

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "consortium.md"
# Far above the floor of the page: what is compared with it has noise.
SITES = {"alpha": 600, "beta": 520, "gamma": 450, "delta": 400}
# A person waits for what was just started, or for a study to arrive.
PATIENCE = {
    "gemel federation status": 90.0,
    "gemel study login": 60.0,
    "gemel node status": 60.0,
    "gemel node show": 180.0,
    "gemel node approve": 180.0,
    "gemel node refuse": 180.0,
}


def _learn(machine, command, output):
    """What a person at the machine writes down from what is printed."""
    said = [
        ("gemel federation init", r"^ *fingerprint +(\S+)", "FINGERPRINT-OF-COORDINATOR"),
        ("gemel federation init", r"bootstrap token +(\S+)", "ADMIN-TOKEN"),
        ("gemel federation user add", r"(gemel_setup_\S+)", "SCIENTIST-TOKEN"),
        ("gemel node init", r"Read out +(\S+)", f"FINGERPRINT-OF-{machine.upper()}"),
        ("gemel study sign first", r"\b([0-9a-f]{64})\b", "STUDY-ONE"),
        ("gemel study sign second", r"\b([0-9a-f]{64})\b", "STUDY-TWO"),
        ("gemel study submit first", r"^([0-9a-f]{32})\b", "FIRST-ID"),
        ("gemel study submit second", r"^([0-9a-f]{32})\b", "SECOND-ID"),
        (
            "gemel node rotate",
            r"\b((?:[0-9a-f]{4}-){3}[0-9a-f]{4})\b",
            f"NEW-FINGERPRINT-OF-{machine.upper()}",
        ),
    ]
    found = {}
    for prefix, pattern, name in said:
        if command.startswith(prefix):
            match = re.search(pattern, output, re.MULTILINE)
            assert match, f"{command} does not print {name}:\n{output}"
            found[name] = match.group(1)
    return found


def test_the_page_names_each_machine_and_only_commands_that_there_are():
    steps = steps_of(PAGE.read_text())
    assert {step.machine for step in steps if step.machine} == {"coordinator", *SITES}
    programs = {step.command.split()[0] for step in steps if step.machine}
    assert programs == {"gemel", "nginx", "kill", "(umask"}
    assert len(steps) > 60


@pytest.mark.heavy
@pytest.mark.timeout(1800)
def test_the_page_is_true(write_export, tmp_path):
    if shutil.which("nginx", path="/usr/sbin:/usr/bin") is None:
        pytest.skip("nginx is not installed")
    passwords = {f"{who}-PASSWORD": secrets.token_urlsafe(18) for who in ("ADMIN", "SCIENTIST")}
    with hosts("coordinator", *SITES) as network:
        for number, (name, host) in enumerate(network.items()):
            host.own_disk(Path("/var/lib"), megabytes=2000)
            if name in SITES:
                host.own_disk(Path("/srv"), megabytes=200)
                write_export(host.path(Path("/srv/gemel/export")), patients=SITES[name], seed=number)
        walk = Walk(network, tmp_path, dict(passwords), _learn, PATIENCE)
        try:
            for step in steps_of(PAGE.read_text()):
                walk.run(step)
            _check_studies(walk, network)
            _check_words(walk)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{_last_words(network)}") from error


def _last_words(network):
    """The end of every log, for whoever reads the failure: the machines are gone then."""
    found = []
    for name, host in network.items():
        for path in sorted(host.path(Path("/var/lib/gemel")).rglob("*.log")):
            found.append(f"--- {name}: {path.name}\n{path.read_text(errors='replace')[-1500:]}")
    return "\n".join(found)


def _events(network):
    """Study's name -> what its run did, from the coordinator's own record."""
    found = {}
    for run in network["coordinator"].path(Path("/var/lib/gemel/coordinator/runs")).iterdir():
        name = json.loads((run / "study.json").read_text())["payload"]["study_id"]
        found[name] = [json.loads(line) for line in (run / "events.ndjson").read_text().splitlines()]
    return found


def _check_studies(walk, network):
    """Both studies end complete, each with those who agreed, at the same time."""
    certificates = {}
    for name in ("first", "second"):
        certificates[name] = json.loads((walk.place("alpha") / name / "certificate.json").read_text())[
            "payload"
        ]
    for name, sites in (("first", set(SITES)), ("second", set(SITES) - {"delta"})):
        payload = certificates[name]
        assert (payload["status"], payload["code"]) == ("complete", "")
        assert {site for site, told in payload["sites"].items() if told["status"] == "approved"} == sites
        for task in payload["tasks"]:
            assert {contribution["site"] for contribution in task["contributions"]} == sites, task["task"]
    refused = certificates["second"]["sites"]["delta"]
    assert (refused["status"], refused["code"]) == ("refused", "GEM401")
    spans = [(events[0]["at"], events[-1]["at"]) for events in _events(network).values()]
    assert len(spans) == 2
    assert max(start for start, _ in spans) < min(end for _, end in spans), "one after the other"


def _check_words(walk):
    """What people saw on their screens."""
    said = {}
    for step, output in walk.outputs:
        said.setdefault(f"{step.machine}$ {step.command}", []).append(output)
    second = walk.known["STUDY-TWO"]
    (studies,) = said["delta$ gemel node studies /var/lib/gemel/node"]
    (row,) = [line for line in studies.splitlines() if second[:8] in line]
    assert "refused" in row
    (budget,) = said["delta$ gemel node budget /var/lib/gemel/node"]
    assert second[:8] not in budget
    first, last = said["coordinator$ gemel federation list /var/lib/gemel/coordinator"]
    assert first.count("admitted") == len(SITES)
    assert [last.count(word) for word in ("admitted", "replaced", "revoked")] == [len(SITES) - 1, 1, 1]
    _, running = said["coordinator$ gemel federation status /var/lib/gemel/coordinator"]
    assert "does not run" not in running
