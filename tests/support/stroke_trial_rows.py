"""Rows in the form of the International Stroke Trial's file, made up: of no patient."""

from __future__ import annotations

ROW = {
    "HOSPNUM": "7",
    "COUNTRY": "XX",
    "AGE": "70",
    "SEX": "M",
    "RDATE": "lut-93",
    "DAYLOCAL": "3",
    "RCONSC": "D",
    "RVISINF": "N",
    "RATRIAL": "Y",
    "RSBP": "150",
    "RHEP24": "N",
    "RASP3": "Y",
    "RXASP": "Y",
    "RXHEP": "N",
    **{f"RDEF{i}": "N" for i in range(1, 9)},
    "RDEF2": "Y",
    "RDEF5": "C",
    "DIED": "0",
    "TD": "190",
    "FDEAD": "N",
    "FLASTD": "",
    "DALIVE": "Y",
    "DALIVED": "12",
    "DPLACE": "A",
    "OCCODE": "2",
    "DRSISC": "N",
    "DRSISCD": "",
    "DRSUNK": "N",
    "DRSUNKD": "",
    "DRSH": "N",
    "DRSHD": "",
}


def row(**changes: str) -> dict[str, str]:
    """The row of a man of 70, drowsy, with a weak arm, discharged home on day 12, dependent on day 190; but for `changes`."""
    unknown = changes.keys() - ROW.keys()
    assert not unknown, unknown
    return {**ROW, **changes}
