import re

import pytest

from gemel.core.error_catalogue import CATALOGUE, ExitCode
from gemel.core.errors import GemelError


def test_an_error_says_code_message_and_next_step():
    error = GemelError("GEM301", "Cap 3.0, asked 3.4.")
    assert str(error) == f"GEM301 Cap 3.0, asked 3.4. {CATALOGUE['GEM301'].remedy}"
    assert error.exit_code is ExitCode.REFUSED
    assert error.as_dict() == {"code": "GEM301", "message": "Cap 3.0, asked 3.4.", "hint": error.hint}


def test_a_code_outside_the_catalogue_is_a_programming_error():
    with pytest.raises(KeyError):
        GemelError("GEM000", "…")


def test_every_entry_is_complete_and_in_a_range_of_its_own():
    assert list(CATALOGUE) == sorted(CATALOGUE)
    for code, entry in CATALOGUE.items():
        assert re.fullmatch(r"GEM[1-9]\d\d", code)
        assert not entry.title.endswith(".")
        assert entry.meaning.endswith(".")
        assert entry.remedy.endswith(".")
        assert entry.exit_code in {ExitCode.FAILED, ExitCode.USAGE, ExitCode.REFUSED, ExitCode.UNREACHABLE}


def test_refusals_of_policy_and_budget_exit_with_three():
    for code in ("GEM102", "GEM103", "GEM105", "GEM301", "GEM302", "GEM401", "GEM402"):
        assert CATALOGUE[code].exit_code == 3
