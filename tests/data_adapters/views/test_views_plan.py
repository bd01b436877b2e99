import json

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemel.core.errors import GemelError
from gemel.data_adapters.reading.reader import native_is_built, open_reader
from gemel.data_adapters.sources.files import Block
from gemel.data_adapters.views.arrow_plan import plan
from gemel.data_adapters.views.compiler import compile_views
from gemel.data_adapters.views.engine import Engine
from gemel.data_adapters.views.view_definition import parse_view

FILES = [
    "basic",
    "collection",
    "combinations",
    "constant",
    "constant_types",
    "fhirpath",
    "fhirpath_numbers",
    "fn_boundary",
    "fn_empty",
    "fn_extension",
    "fn_first",
    "fn_join",
    "fn_oftype",
    "fn_reference_keys",
    "foreach",
    "logic",
    "repeat",
    "row_index",
    "union",
    "validate",
    "view_resource",
    "where",
]


def columns(**paths):
    return [{"name": name, "path": path} for name, path in paths.items()]


def patient_view(*select, where=()):
    conditions = [{"path": path} for path in where]
    return parse_view({"resource": "Patient", "name": "v", "select": list(select), "where": conditions})


def both_ways(view, lines, *, native=False, blocks=1):
    """The view's table, or the error, by a plan and by DuckDB; the lines in so many blocks."""
    compiled, shapes = compile_views([view])
    reader = open_reader(shapes, native=native)
    size = max(1, -(-len(lines) // blocks))
    read = [
        reader.read(Block(b"\n".join(lines[i : i + size]), i + 1)) for i in range(0, max(1, len(lines)), size)
    ]
    tables = {view.resource: [one.tables[view.resource] for one in read if view.resource in one.tables]}
    results = []
    for plans in (True, False):
        engine = Engine(compiled, shapes, plans=plans)
        try:
            rows = engine.run(tables) if tables[view.resource] else {}
            results.append((engine.schemas(), rows))
        except GemelError as error:
            results.append((error.code, error.message))
        engine.close()
    return results


def as_lines(resources):
    return [json.dumps(resource).encode() for resource in resources]


@pytest.mark.parametrize("name", FILES)
def test_a_plan_gives_what_duckdb_gives_on_the_official_cases(name, shared_data):
    path = shared_data / "sql-on-fhir" / f"{name}.json"
    if not path.exists():
        pytest.skip("the official SQL on FHIR cases are not in ../shared/data")
    suite = json.loads(path.read_text())
    lines = as_lines({"id": f"r{i}"} | resource for i, resource in enumerate(suite["resources"]))
    for case in suite["tests"]:
        try:
            view = parse_view(case["view"])
            compiled, _ = compile_views([view])
        except GemelError:
            continue
        if plan(compiled[0].tree) is not None:
            planned, queried = both_ways(view, lines)
            assert planned == queried, case["title"]


PLANNED = {
    "paths": patient_view({"column": columns(id="id", family="name.first().family", born="birthDate")}),
    "the second item": patient_view({"column": columns(id="id", second="name[1].family")}),
    "numbers and truths": patient_view(
        {"column": columns(id="id", births="multipleBirth.ofType(integer)", active="active")}
    ),
    "one value or an error": patient_view(
        {"column": columns(id="id")}, {"forEach": "name", "column": columns(given="given")}
    ),
    "forEach": patient_view(
        {"column": columns(id="id")},
        {"forEach": "name", "column": columns(family="family", given="given.first()", start="period.start")},
    ),
    "forEach in forEach": patient_view(
        {"column": columns(id="id")},
        {
            "forEach": "contact",
            "column": columns(family="name.family"),
            "select": [{"forEach": "telecom", "column": columns(value="value")}],
        },
    ),
    "forEachOrNull": patient_view(
        {"column": columns(id="id")},
        {"forEachOrNull": "name", "column": columns(family="family")},
        {"forEachOrNull": "contact", "column": columns(kin="name.family", phone="telecom.first().value")},
    ),
    "unionAll after where": patient_view(
        {"column": columns(id="id")},
        {
            "unionAll": [
                {"forEach": "name", "column": columns(text="family")},
                {"forEach": "where(name.empty())", "column": columns(text="gender")},
                {"forEachOrNull": "contact", "column": columns(text="name.family")},
            ]
        },
        where=["gender = 'male' or birthDate.exists()"],
    ),
    "a struct that is there": patient_view({"forEach": "maritalStatus", "column": columns(text="text")}),
}

_WORDS = st.sampled_from(["", "A", "Bö", "male", "a longer text than a few bytes"])
_PERIODS = st.fixed_dictionaries({}, optional={"start": st.just("2020-01-01"), "end": st.just("2021")})


def some_of(values, *, nulls):
    items = st.none() | values if nulls else values
    return st.lists(items, min_size=1, max_size=3)


def patients(*, nulls):
    names = st.fixed_dictionaries(
        {},
        optional={
            "family": _WORDS,
            "use": _WORDS,
            "given": some_of(_WORDS, nulls=nulls),
            "period": _PERIODS,
        },
    )
    telecoms = some_of(st.fixed_dictionaries({}, optional={"value": _WORDS}), nulls=nulls)
    contacts = st.fixed_dictionaries({}, optional={"name": names, "telecom": telecoms})
    patient = st.fixed_dictionaries(
        {"resourceType": st.just("Patient"), "id": st.just("p")},
        optional={
            "name": some_of(names, nulls=nulls) | st.just([]) | st.none(),
            "contact": some_of(contacts, nulls=nulls),
            "gender": _WORDS,
            "birthDate": st.just("2000"),
            "active": st.booleans(),
            "multipleBirthInteger": st.integers(0, 9),
            "maritalStatus": st.fixed_dictionaries({}, optional={"text": _WORDS}) | st.none(),
        },
    )
    return st.lists(patient, max_size=8)


@pytest.mark.parametrize("name", PLANNED)
@settings(max_examples=15, deadline=None)
@given(resources=patients(nulls=False) | patients(nulls=True), native=st.booleans(), blocks=st.integers(1, 3))
def test_a_plan_gives_the_rows_order_and_types_of_duckdb(name, resources, native, blocks):
    view = PLANNED[name]
    assert plan(compile_views([view])[0][0].tree) is not None
    lines = as_lines(resources)
    planned, queried = both_ways(view, lines, native=native and native_is_built(), blocks=blocks)
    assert planned == queried


def test_more_than_one_value_is_the_same_error_with_a_plan():
    person = {"resourceType": "Patient", "id": "p", "name": [{"given": ["A"]}, {"given": ["B", "C"]}]}
    planned, queried = both_ways(PLANNED["one value or an error"], as_lines([person]))
    assert planned == queried
    assert planned[0] == "GEM209"
    assert "given of view v gives more than one value" in planned[1]


def test_rows_of_a_slice_are_those_of_the_slice():
    view = PLANNED["forEach in forEach"]
    people = [
        {
            "resourceType": "Patient",
            "id": f"p{i}",
            "contact": [
                {"name": {"family": f"f{i}.{j}"}, "telecom": [{"value": "t"}] * j} for j in range(i % 4)
            ],
        }
        for i in range(20)
    ]
    compiled, shapes = compile_views([view])
    table = open_reader(shapes, native=False).read(Block(b"\n".join(as_lines(people)), 1)).tables["Patient"]
    for start, length in ((0, 20), (3, 9), (19, 1), (5, 0)):
        part = {"Patient": [table.slice(start, length)]}
        planned, queried = (Engine(compiled, shapes, plans=plans).run(part)["v"] for plans in (True, False))
        assert planned.equals(queried)
        assert length == 0 or planned.num_rows


@pytest.mark.parametrize(
    "select",
    [
        {"column": columns(all="name.given.join(' ')")},
        {"column": columns(each="name.family")},
        {"forEach": "name", "column": columns(at="%rowIndex", family="family")},
        {"column": columns(official="name.where(use = 'official').first().family")},
        {"column": columns(key="managingOrganization.getReferenceKey()")},
        {"repeat": ["contact"], "column": columns(family="name.family")},
        {"column": [{"name": "families", "path": "name.family", "collection": True}]},
    ],
)
def test_what_a_plan_cannot_do_has_none(select):
    assert plan(compile_views([patient_view(select)])[0][0].tree) is None


def test_a_plan_makes_plain_arrow_columns():
    compiled, shapes = compile_views([PLANNED["numbers and truths"]])
    schema = Engine(compiled, shapes).schemas()["v"]
    assert schema.types == [pa.int64(), pa.string(), pa.int64(), pa.bool_()]
