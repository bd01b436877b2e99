"""The generated pages on programmes: docs/programmes.md, an index, and docs/programmes/reference.md, all that is declared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gemel.cli.programme_record import listed, record_of
from gemel.cli.programme_render import number
from gemel.twins.definition import TwinDefinition
from gemel.twins.installed import definition_of, installed

Record = Mapping[str, Any]
_MARKS = (
    "**V** read in the source itself, its abstract, a registry record or a curated model file; **2** second-hand, in "
    "somebody's code or specification that cites the source; **C** computed from what is named beside it; **U** from memory, "
    "or chosen: it may support no claim alone."
)


def index_page(folder: Path) -> str:
    """The table over all programmes, with links to the pages in `folder`/programmes that are written by hand."""
    definitions = [definition_of(programme) for programme in installed()]
    parts = [
        "# Installed programmes\n",
        "Generated from the definitions by `make docs`; do not edit.\n",
        "A programme is an installed, reviewed twin for one clinical question. A study names one by name and version; nothing "
        "else runs. What makes it a twin is on a [page of its own](twins.md).\n",
        _index(definitions, folder),
        "**Grade**: how far the twin is validated, and no further than its claims go. *generic*: inside the range of a reference "
        "population; *population*: close to a central property of a population; *subject*: close to what is measured in each "
        "individual. **G0**: published numbers reproduced; **G1**: beaten or matched on data that nobody here made; both are claims "
        "that run as tests (`gemel programme check --all --data DIR`), each with the outside number, its source and a mark, and the "
        "column counts them. **G2**: the whole walk from FHIR over federated private training to prediction, what-if and virtual "
        "cohort; `gemel demo --programme NAME` walks it for each, and a test does.\n",
        _missing(definitions),
        "All features with their codes and bounds, outcomes, treatments, parameters and claims: "
        "[reference](programmes/reference.md), or `gemel programme show NAME`.\n",
    ]
    return "\n".join(parts)


def reference_page() -> str:
    """Features, codes, bounds, treatments, parameters and claims of every programme."""
    parts = [
        "# Programmes: what each declares\n",
        "Generated from the definitions by `make docs`; do not edit. `gemel programme show NAME` shows the same.\n",
        f"Marks of numbers: {_MARKS}\n",
        "Of codes: an ICD-10 code also matches its children where it is a category. Values outside a feature's bounds are clipped in "
        "training, and refused (GEM601) when one patient is asked about. A missing measurement is its public mean and a mark that it "
        "is missing; nothing is fitted on patients to scale or impute.\n",
    ]
    for programme in installed():
        parts += _reference(record_of(definition_of(programme)))
    return "\n".join(parts)


def _index(definitions: Sequence[TwinDefinition], folder: Path) -> str:
    rows = []
    for definition in definitions:
        line = listed(definition)
        name = f"`{line['name']}` {line['version']}"
        if (folder / "programmes" / f"{line['name']}.md").exists():
            name = f"[{name}](programmes/{line['name']}.md)"
        gates = [_claims(line["gates"][gate]) for gate in ("G0", "G1")]
        rows.append([name, line["title"], line["grade"], *gates, "walked", line["data"]])
    return _table(["programme", "what", "grade", "G0", "G1", "G2", "shown on"], rows)


def _claims(count: int) -> str:
    return f"{count} claim{'s' * (count != 1)}" if count else "none"


def _missing(definitions: Sequence[TwinDefinition]) -> str:
    parts = ["## What is missing for more\n"]
    for definition in definitions:
        line = listed(definition)
        parts += [f"**{line['title']}** (`{line['name']}`)\n"]
        parts += ["\n".join(f"- {missing}" for missing in line["missing"]) + "\n"]
    return "\n".join(parts)


def _reference(record: Record) -> list[str]:
    name = record["name"]
    parts = [f"## `{name}` {record['version']}\n", f"{record['title']}. {record['question']}\n"]
    parts += ["### Features\n", _features(record), "### Outcomes and targets\n", _outcomes(record)]
    parts += [*_others(record), "### Endpoints\n", _endpoints(record)]
    if record["treatments"]:
        parts += ["### Treatments\n", _treatments(record)]
    for physiology in record["physiology"]:
        parts += [f"### {physiology['name']}\n", _physiology(physiology)]
    if record["baselines"]:
        rows = [[b["title"], b["endpoint"], b["mark"], b["source"]] for b in record["baselines"]]
        parts += ["### Baselines\n", _table(["score", "endpoint", "mark", "source"], rows)]
    if record["claims"]:
        parts += ["### Claims\n", _claim_table(record["claims"])]
    parts += ["### Limits\n", "\n".join(f"- {limit}" for limit in record["validation"]["limits"]) + "\n"]
    return parts


def _others(record: Record) -> list[str]:
    """Concepts that nothing of the data set is made from: a hospital's record may hold them all the same."""
    users = (*record["features"], *record["outcomes"], *record["targets"])
    used = {name for user in users for name in user["concepts"]}
    rows = [
        [concept["title"], ", ".join(dict.fromkeys(code["code"] for code in concept["codes"]))]
        for concept in record["concepts"]
        if concept["name"] not in used
    ]
    return ["### Other concepts\n", _table(["what", "codes"], rows)] if rows else []


def _features(record: Record) -> str:
    rows = []
    for feature in record["features"]:
        bounds = f"{number(feature['low'])} to {number(feature['high'])} {feature['unit']}".removesuffix(" 1")
        scale = f"{number(feature['reference_mean'])}, {number(feature['scale'])}"
        codes = _codes(record, feature["concepts"])
        rows.append(
            [
                f"`{feature['name']}`",
                feature["title"],
                feature["kind"],
                codes,
                bounds,
                scale,
                feature["source"],
            ]
        )
    return _table(["feature", "what", "how", "codes", "bounds", "mean, scale", "source"], rows)


def _outcomes(record: Record) -> str:
    rows = [
        [
            f"`{outcome['name']}`",
            outcome["title"],
            outcome["kind"],
            _codes(record, outcome["concepts"]),
            "over time",
        ]
        for outcome in record["outcomes"]
    ]
    for target in record["targets"]:
        at = "" if target["at_days"] is None else f"day {target['at_days']}"
        codes = _codes(record, target["concepts"])
        rows.append([f"`{target['name']}`", target["title"], target["kind"], codes, at])
    return _table(["name", "what", "kind", "codes", "when"], rows)


def _endpoints(record: Record) -> str:
    rows = []
    for endpoint in record["endpoints"]:
        days = ", ".join(f"day {day}" for day in endpoint["horizons_days"]) or "the target's day"
        rows.append(
            [f"`{endpoint['name']}`", endpoint["title"], endpoint["outcome"] or endpoint["target"], days]
        )
    return _table(["endpoint", "what", "of", "at"], rows)


def _treatments(record: Record) -> str:
    rows = []
    for treatment in record["treatments"]:
        amounts = (
            f"{number(treatment['low'])} to {number(treatment['high'])} {treatment['unit']}".removesuffix(
                " 1"
            )
        )
        given = treatment["assignment"]
        if treatment["chance"] is not None:
            given += f" ({treatment['chance']:.0%})"
        rows.append(
            [
                f"`{treatment['name']}`",
                treatment["title"],
                treatment["kind"],
                amounts,
                given,
                treatment["source"],
            ]
        )
    return _table(["treatment", "what", "kind", "amounts", "given", "source"], rows)


def _physiology(physiology: Record) -> str:
    states = ", ".join(f"{state['title']} ({state['unit']})" for state in physiology["states"])
    moved = f" Moved by {', '.join(physiology['inputs'])}." if physiology["inputs"] else ""
    rows = []
    for parameter in physiology["parameters"]:
        value = f"{number(parameter['value'])} {parameter['unit']}".removesuffix(" 1")
        spread = f"{number(parameter['spread'])} ({parameter['scale']})" if parameter["spread"] else ""
        rows.append(
            [
                f"`{parameter['name']}`",
                parameter["title"],
                value,
                spread,
                parameter["mark"],
                parameter["source"],
            ]
        )
    head = f"A {physiology['kind']} of {states}.{moved}\n\n"
    return head + _table(["parameter", "what", "value", "spread between people", "mark", "source"], rows)


def _claim_table(claims: Sequence[Record]) -> str:
    rows = []
    for claim in claims:
        within = f"{number(claim['low'])} to {number(claim['high'])} {claim['unit']}".removesuffix(" 1")
        needs = f"`{claim['needs']}`" if claim["needs"] else ""
        rows.append(
            [
                claim["statement"],
                claim["gate"],
                number(claim["value"]),
                within,
                claim["mark"],
                claim["source"],
                needs,
            ]
        )
    return _table(["claim", "gate", "published", "holds from", "mark", "source", "needs"], rows)


def _codes(record: Record, concepts: Iterable[str]) -> str:
    by_name = {concept["name"]: concept for concept in record["concepts"]}
    return ", ".join(dict.fromkeys(code["code"] for name in concepts for code in by_name[name]["codes"]))


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(headings)} |", f"|{'---|' * len(headings)}"]
    lines += [f"| {' | '.join(_cell(cell) for cell in row)} |" for row in rows]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """A bar would end the cell."""
    return " ".join(text.replace("|", "\\|").split())
