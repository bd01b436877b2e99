"""The International Stroke Trial as people of hospitals: a documented converter of the published file.

Source: International Stroke Trial Collaborative Group, Lancet 1997;349:1569; Sandercock, Niewada & Członkowska, Trials
2011;12:101 (the file, its columns and codes), ODC-By. Randomisation is the index date.

What was known at randomisation becomes features; what came later becomes outcomes, targets and observations of the course:
- Day: month and weekday of randomisation are published (RDATE, DAYLOCAL): the first such weekday of that month.
- Birth: the first day of that month, AGE years before.
- The stroke: ICD-10 I63 (cerebral infarction) where an infarct was seen on a scan (RVISINF), else I64 (not specified). The final
  diagnosis (DDIAGISC, DDIAGHA, DNOSTRK) came later: nobody is left out or relabelled by it (intention to treat).
- Consciousness (RCONSC): fully alert 0, drowsy 1, unconscious 3 on item 1a of the NIH Stroke Scale. Deficits (RDEF1-7): Y is 1
  ("some"), N is 0 on the nearest item; C (cannot be assessed) is not written. RDEF8 (other) has no item.
- RATRIAL: I48. RSBP. RASP3 (aspirin within 3 days) and RHEP24 (heparin within 24 h): given the day before. The pilot phase
  did not ask for RATRIAL and RASP3: not recorded there.
- Allocation (RXASP; RXHEP low, medium or high dose): a prescription from the index date for 14 days.
- Death: DIED and TD, days since randomisation. Recurrent stroke: DRSISC or DRSUNK within 14 days, ischaemic or of unknown type;
  intracerebral haemorrhage: DRSH. One without a day is not written. A day alone cannot say what of day 0 came after
  randomisation: such an event is written on day 1.
- Six months (OCCODE): 4 recovered is mRS 0, 3 not recovered is 1.5, 2 dependent is 3.5. **This mapping is ours**: the trial asked
  two questions (help needed from another person? fully recovered?), so that 1.5 says "1 or 2" and 3.5 says "3, 4 or 5"; see
  `rankin`. Written on the day the form was done (TD); who died later counts as dependent on day 183, as in OCCODE.
- Visits: the stay, to discharge (DALIVED), death, or day 14; and the follow-up. Where FDEAD is unknown, follow-up ends with what is
  known: the last contact (FLASTD), else the stay.

Not taken: delay since onset, onset in sleep, whether a scan was done (no code that hospitals use), other complications.
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterator, Mapping
from datetime import date, timedelta
from pathlib import Path

import numpy as np

from gemel.twins.definition import OpenPerson, Recorded
from gemel.twins.programmes.stroke import OUTCOME_DAY

FILE = "clinical/ist/ist.csv.gz"

Row = Mapping[str, str]

# Months as the file has them: Polish.
_MONTHS = ("sty", "lut", "mar", "kwi", "maj", "cze", "lip", "sie", "wrz", "pa", "lis", "gru")
_CONSCIOUSNESS = {"F": 0.0, "D": 1.0, "U": 3.0}
_DEFICITS = {
    "RDEF1": "nihss_facial_palsy",
    "RDEF2": "nihss_arm",
    "RDEF3": "nihss_leg",
    "RDEF4": "nihss_language",
    "RDEF5": "nihss_visual",
    "RDEF6": "nihss_neglect",
    "RDEF7": "nihss_ataxia",
}
_EVENTS = (("DRSISC", "ischaemic_stroke"), ("DRSUNK", "stroke"), ("DRSH", "intracerebral_haemorrhage"))
# Two questions for six levels: what is written says by .5 that a range is meant.
RANKIN = {"4": 0.0, "3": 1.5, "2": 3.5}
_TREATED_DAYS = 14


class InternationalStrokeTrial:
    """The trial's people; without its file, simulated ones of the same form."""

    title = "International Stroke Trial"
    file = FILE
    licence = "ODC-By"
    simulated_title = "Simulated acute strokes"

    def people(self, data: Path | None, *, seed: int) -> Iterator[OpenPerson]:
        """See `gemel.twins.definition.OpenData`."""
        rows = list(read_rows(data / FILE)) if data is not None and (data / FILE).exists() else None
        random = np.random.default_rng(seed)
        if rows is None:
            from gemel.twins.programmes.stroke.simulated_people import simulated_people

            yield from simulated_people(random)
            return
        for number in random.permutation(len(rows)).tolist():
            yield person(rows[number], str(number))


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of the published file, plain or gzipped."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="latin-1", newline="") as file:
        yield from csv.DictReader(file)


def person(row: Row, identity: str) -> OpenPerson:
    """One row as a person."""
    day_0 = randomised(row)
    end, died = _end_of_follow_up(row)
    return OpenPerson(
        identity=identity,
        hospital=f"{row['COUNTRY']}-{row['HOSPNUM']}",
        birth=date(day_0.year - int(row["AGE"]), day_0.month, 1),
        male=row["SEX"] == "M",
        died=day_0 + timedelta(days=end) if died else None,
        visits=_visits(row, day_0, end),
        recorded=(*_at_randomisation(row, day_0), *_afterwards(row, day_0, end)),
    )


def randomised(row: Row) -> date:
    """The first day in the month of randomisation that has its weekday (1 is Sunday)."""
    month, year = row["RDATE"].split("-")
    number = next(i for i, name in enumerate(_MONTHS, start=1) if month.startswith(name))
    first = date(1900 + int(year), number, 1)
    return first + timedelta(days=(int(row["DAYLOCAL"]) - 1 - first.isoweekday()) % 7)


def home_day(row: Row) -> int | None:
    """The day on which a patient was discharged home or to relatives (DPLACE A, B), days since randomisation; None if not."""
    return _day(row["DALIVED"]) if row["DPLACE"] in ("A", "B") else None


def _at_randomisation(row: Row, day_0: date) -> Iterator[Recorded]:
    yesterday = day_0 - timedelta(days=1)
    yield Recorded("ischaemic_stroke" if row["RVISINF"] == "Y" else "stroke", day_0)
    if row["RCONSC"] in _CONSCIOUSNESS:
        yield Recorded("nihss_consciousness", day_0, _CONSCIOUSNESS[row["RCONSC"]])
    for column, concept in _DEFICITS.items():
        if row[column] in ("Y", "N"):
            yield Recorded(concept, day_0, float(row[column] == "Y"))
    if row["RSBP"]:
        yield Recorded("systolic_blood_pressure", day_0, float(row["RSBP"]))
    if row["RATRIAL"] == "Y":
        yield Recorded("atrial_fibrillation", day_0)
    for column, concept in (("RASP3", "aspirin"), ("RHEP24", "heparin")):
        if row[column] == "Y":
            yield Recorded(concept, yesterday, until=yesterday)
    for given, concept in ((row["RXASP"] == "Y", "aspirin"), (row["RXHEP"] in ("L", "M", "H"), "heparin")):
        if given:
            yield Recorded(concept, day_0, until=day_0 + timedelta(days=_TREATED_DAYS))


def _afterwards(row: Row, day_0: date, end: int) -> Iterator[Recorded]:
    for column, concept in _EVENTS:
        day = _day(row[f"{column}D"])
        if row[column] == "Y" and day is not None and max(day, 1) <= end:
            yield Recorded(concept, day_0 + timedelta(days=max(day, 1)))
    if row["OCCODE"] in RANKIN:
        seen = OUTCOME_DAY if row["DIED"] == "1" else end
        yield Recorded("modified_rankin_scale", day_0 + timedelta(days=seen), RANKIN[row["OCCODE"]])


def _end_of_follow_up(row: Row) -> tuple[int, bool]:
    """The last day on which something is known, and whether it is that of death."""
    last, died = _day(row["TD"]), row["DIED"] == "1"
    if last is not None and (died or row["FDEAD"] in ("N", "Y")):
        return last, died
    known = [_day(row[column]) for column in ("FLASTD", "DALIVED")]
    return max([day for day in known if day is not None], default=0), False


def _visits(row: Row, day_0: date, end: int) -> tuple[tuple[date, date], ...]:
    discharged = _day(row["DALIVED"])
    stay = min(end, discharged if discharged is not None else _TREATED_DAYS)
    visits = [(day_0, day_0 + timedelta(days=stay))]
    if end > stay:
        visits.append((day_0 + timedelta(days=end), day_0 + timedelta(days=end)))
    return tuple(visits)


def _day(text: str) -> int | None:
    return int(float(text)) if text.strip() else None
