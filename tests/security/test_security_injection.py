"""Words from outside that become a command, an environment, a configuration or a page.

Stands for vantage6 GHSA-w9h2-px87-74vx (environment of the algorithm's container), NVFlare #4839 (a job that chooses the
image), GHSA-2wgc-48g2-cj5w (a door that a configuration opens), CVE-2026-24204 (input validation).
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from one_node import Talk

from gemel.core.errors import GemelError
from gemel.core.signing import SigningKey
from gemel.core.start_kit import StartKit, sign_kit
from gemel.core.study import parse_study
from gemel.server.federation_config import SCHEMA, FederationConfig, checked

if TYPE_CHECKING:
    from gemel.cli.demo.federation import Federation

MakeStudy = Callable[..., Any]
ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("core", "data_adapters", "privacy", "twins", "synthetic", "client_node", "server", "cli")
WORDS = (
    "$(touch /var/x)",
    "`id`",
    "a; id",
    "a && id",
    "a\nLD_PRELOAD=/var/x.so",
    "a\n[Service]\nExecStart=/bin/sh",
    "a; } server { listen 80; } #",
    'a" ; proxy_pass http://127.0.0.1:1; "',
    "${PATH}",
    "%n",
    "--config=/var/x",
    "a b",
    "é",
    "{{ 7 * 7 }}",
    "a\r\nX-Forwarded-For: 127.0.0.1",
    "'; DROP TABLE users; --",
)


@pytest.mark.parametrize("word", WORDS)
def test_no_such_word_is_a_sites_name(make_study: MakeStudy, word: str) -> None:
    study = make_study()
    with pytest.raises(GemelError, match="GEM101"):
        parse_study(msgspec.structs.replace(study, sites={**study.sites, word: "ab" * 32}).to_payload())


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("field", ["host", "listen", "aliases"])
def test_no_such_word_gets_into_nginxs_configuration(word: str, field: str) -> None:
    """vantage6 GHSA-2wgc-48g2-cj5w: what an address says becomes a directive."""
    fields: dict[str, Any] = {
        "schema": SCHEMA,
        "name": "federation",
        "host": "example.org",
        "aliases": (),
        "port": 8443,
        "people_port": 443,
        "superlink_port": 9400,
        "service_port": 9401,
        "listen": "127.0.0.1",
    }
    fields[field] = (word,) if field == "aliases" else word
    config = FederationConfig(**fields)
    with pytest.raises(GemelError, match="GEM524"):
        checked(config)


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("field", ["site", "address", "service"])
def test_no_such_word_is_in_a_start_kit(word: str, field: str) -> None:
    """vantage6 GHSA-w9h2-px87-74vx: what a kit says becomes a node's configuration and the arguments of its processes."""
    key = SigningKey.generate()
    fields: dict[str, Any] = {
        "federation": "federation",
        "site": "alpha",
        "address": "example.org:8443",
        "ca_certificate": "",
        "coordinator_public_key": key.public_hex,
        "issued_at": "2026-01-01T00:00:00+00:00",
        "expires_at": "2030-01-01T00:00:00+00:00",
        field: word,
    }
    with pytest.raises(GemelError, match="GEM410") as refusal:
        sign_kit(StartKit(**fields), key)
    assert field in str(refusal.value)


@pytest.mark.parametrize("field", ["title", "purpose", "study_id"])
def test_words_for_people_are_shown_and_never_obeyed(
    federation: Federation, make_study: MakeStudy, field: str, tmp_path: Path
) -> None:
    """A title may say anything: it reaches no shell, no environment and no path."""
    canary = tmp_path / "obeyed"
    word = f"$(touch {canary}) `touch {canary}`; touch {canary} {{{{ 7 * 7 }}}} ../../x \x1b[2J <script>"
    try:
        talk = Talk(federation, make_study(**{field: word}))
        reply = talk.ask("hello")
    except GemelError as error:
        assert error.code == "GEM101"  # noqa: PT017  # refused outright is as good
        return
    if str(reply.status) != "refused":
        talk.decide()
        assert str(talk.ask("count").status) == "released"
    assert not canary.exists()
    assert not list(tmp_path.rglob("x"))


def _calls(path: Path) -> list[tuple[int, ast.Call]]:
    tree = ast.parse(path.read_text("utf-8"))
    return [(node.lineno, node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


SHELLS = {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "pty.spawn"}


def _through_a_shell(path: Path) -> list[str]:
    found = []
    for line, call in _calls(path):
        name = ast.unparse(call.func)
        shell = any(word.arg == "shell" and ast.unparse(word.value) != "False" for word in call.keywords)
        if name in SHELLS or shell:
            found.append(f"{path.name}:{line} {name}")
    return found


def test_nothing_of_ours_runs_a_command_through_a_shell() -> None:
    """vantage6 GHSA-w9h2-px87-74vx: no shell, so no word can be a command."""
    sources = [p for room in ROOMS for p in (ROOT / room / "gemel").rglob("*.py")]
    assert len(sources) > 100
    assert [found for path in sources for found in _through_a_shell(path)] == []


def test_the_search_for_shells_finds_them(tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    path.write_text("os.system('x')\nsubprocess.run('x', shell=True)\nsubprocess.run(['x'])\n")
    assert len(_through_a_shell(path)) == 2


def test_a_study_has_no_field_that_names_code_an_image_a_path_or_an_environment(
    make_study: MakeStudy,
) -> None:
    """NVFlare #4839: a job chose its container image. A study has no such field, and an unknown one is refused."""
    payload = make_study().to_payload()
    for field in (
        "image",
        "entrypoint",
        "env",
        "environment",
        "command",
        "path",
        "url",
        "code",
        "fab",
        "parent_id",
    ):
        assert field not in payload
        with pytest.raises(GemelError, match="GEM101"):
            parse_study({**payload, field: "x"})
    for part in ("training", "privacy", "aggregation", "strategy", "pace"):
        with pytest.raises(GemelError, match="GEM101"):
            parse_study({**payload, part: {**payload[part], "callback": "os.system"}})
