"""The table in docs/threat_model.md: every class of past vulnerability, and the tests that attack ours. It cannot lie."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "threat_model.md"
HEADING = "## Past vulnerabilities of this field, and our attacks on ourselves"
_CASE = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")
# The classes that must be there, by words of their first cell.
CLASSES = (
    "unsafe deserialisation",
    "paths and archives",
    "identity from the message",
    "object of another user",
    "mass assignment",
    "tokens in argv",
    "default secrets",
    "missing rate limits",
    "user enumeration",
    "unauthenticated ciphers",
    "environment injection",
    "unbounded allocation",
    "replay",
    "verified, then replaced",
    "key files",
    "artefacts of a refusal",
    "downgrade",
    "submitted code",
    "open doors of the engine",
    "exception text",
)


def rows() -> dict[str, list[tuple[str, str]]]:
    """Class -> the tests that its row names, as (file, test or "")."""
    text = PAGE.read_text("utf-8")
    assert HEADING in text
    table = text.split(HEADING)[1].split("\n## ")[0]
    found = {}
    for line in table.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if line.startswith("|") and len(cells) == 4 and not cells[0].startswith(("class", "---")):
            found[cells[0]] = [(file, test or "") for file, test in _CASE.findall(cells[3])]
    return found


def _tests(path: Path) -> set[str]:
    tree = ast.parse(path.read_text("utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_every_class_has_its_row() -> None:
    assert sorted(rows()) == sorted(CLASSES)


@pytest.mark.parametrize("name", CLASSES)
def test_every_test_of_the_row_is_there(name: str) -> None:
    named = rows()[name]
    assert named, f"{name} names no test"
    for file, test in named:
        assert (ROOT / file).is_file(), file
        assert not test or (test.startswith("test_") and test in _tests(ROOT / file)), f"{file}::{test}"


def test_every_attack_of_this_folder_is_in_the_table() -> None:
    named = {file for of in rows().values() for file, _ in of}
    here = {f"tests/security/{path.name}" for path in Path(__file__).parent.glob("test_*.py")}
    assert here - {"tests/security/test_security_table.py"} <= named
