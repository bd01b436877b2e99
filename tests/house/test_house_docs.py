"""Docs cannot lie: what they name exists, and what exists is named."""

import re
from pathlib import Path

import pytest
import typer

from gemel.cli import reference
from gemel.cli.main import app
from gemel.core.error_catalogue import CATALOGUE

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
COMMANDS = dict(reference.commands(typer.main.get_command(app), "gemel"))


def _code(text):
    """What a page shows as code: blocks and inline."""
    blocks = re.findall(r"```[a-z]*\n(.*?)```", text, re.DOTALL)
    return [line for block in blocks for line in block.splitlines()] + re.findall(r"`([^`\n]+)`", text)


@pytest.mark.parametrize("page", ["errors.md", "commands.md", "programmes.md", "programmes/reference.md"])
def test_a_generated_page_is_current(page):
    assert (DOCS / page).read_text(encoding="utf-8") == reference.pages(DOCS)[page], "run `make docs`"


@pytest.mark.parametrize("code", CATALOGUE)
def test_every_error_code_has_its_heading(code):
    assert f"### {code} {CATALOGUE[code].title}\n" in (DOCS / "errors.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_named_and_says_what_it_does(name):
    assert f"## {name}\n" in (DOCS / "commands.md").read_text(encoding="utf-8")
    sentence = COMMANDS[name].split("\n\n")[1].strip()
    assert sentence.endswith((".", ":")) or "." in sentence


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_gemel_command_on_a_page_exists(page):
    for line in _code(page.read_text(encoding="utf-8")):
        match = re.match(r"\s*(?:\$ )?(?:\.venv/bin/)?gemel ([a-z]+)(?: ([a-z-]+))?(?![\w/.])", line)
        if match is None:
            continue
        noun, verb = match.groups()
        assert f"gemel {noun}" in COMMANDS, line
        group = any(name.startswith(f"gemel {noun} ") for name in COMMANDS)
        assert not group or verb is None or f"gemel {noun} {verb}" in COMMANDS, line


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_make_target_on_a_page_exists(page):
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for line in _code(page.read_text(encoding="utf-8")):
        for target in re.findall(r"(?:^|&& |; |\$ )make ([a-z]+)", line.strip()):
            assert target in targets, line


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_link_inside_the_repository_leads_somewhere(page):
    text = page.read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)#\s]+)", text) + re.findall(r'(?:src|href)="([^"#]+)"', text)
    for target in targets:
        if not re.match(r"[a-z]+:", target):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_error_code_on_a_page_exists(page):
    assert set(re.findall(r"\bGEM\d{3}\b", page.read_text(encoding="utf-8"))) <= set(CATALOGUE)


def test_the_readme_has_one_place_for_the_output_of_the_demo():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text.count("<!-- demo-output -->") == text.count("<!-- /demo-output -->") == 1


@pytest.mark.parametrize("record", sorted((DOCS / "adr").glob("*.md")), ids=lambda p: p.stem)
def test_a_decision_record_says_context_decision_and_consequences(record):
    assert re.fullmatch(r"\d{4}-[a-z-]+", record.stem)
    headings = re.findall(r"^## (.+)$", record.read_text(encoding="utf-8"), re.MULTILINE)
    assert headings == ["Context", "Decision", "Consequences"]


def test_the_licence_is_apache_2():
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert "[yyyy]" not in text
