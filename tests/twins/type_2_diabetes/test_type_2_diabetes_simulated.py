"""The simulated people: not made by the twin's equations, the same for a seed, and recorded as hospitals record."""

from __future__ import annotations

import ast
import inspect
from dataclasses import replace

import numpy as np
import pytest

from gemel.cli.demo.dialects import DIALECTS
from gemel.cli.demo.fhir_writer import Vocabulary
from gemel.cli.demo.hospitals import write_hospital
from gemel.data_adapters.dataset.build import build
from gemel.data_adapters.dataset.cohort import pseudonym
from gemel.twins.programmes.type_2_diabetes import (
    DRUG_CLASSES,
    PROGRAMME,
    simulated_people,
    simulated_records,
)
from gemel.twins.programmes.type_2_diabetes.drug_classes import CLASSES
from gemel.twins.programmes.type_2_diabetes.open_data import SimulatedTypeTwoDiabetes
from gemel.twins.programmes.type_2_diabetes.simulated_people import WEEKS_BEFORE, Form, draw_people, follow
from gemel.twins.programmes.type_2_diabetes.simulated_records import (
    dataset_of,
    open_people,
    simulated_hospitals,
)

KEY = bytes(32)


def test_the_generator_shares_no_code_with_the_twin():
    for module in (simulated_people, simulated_records):
        tree = ast.parse(inspect.getsource(module))
        imported = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        theirs = {name.rsplit(".", 1)[-1] for name in imported if "type_2_diabetes." in name}
        assert theirs <= {"simulated_people"}, theirs


def test_one_seed_makes_one_population():
    site = (replace(simulated_people.SITES[0], patients=40),)
    first, again, other = (dataset_of(simulated_hospitals(seed=s, sites=site)[0]) for s in (1, 1, 2))
    assert first.snapshot == again.snapshot
    assert first.snapshot != other.snapshot


@pytest.mark.parametrize("form", Form)
def test_classes_do_about_what_was_published_to_who_takes_them_as_told(form):
    site = simulated_people.SITES[0]
    people = draw_people(site, 800, np.random.default_rng(3))
    at = WEEKS_BEFORE + 26
    without = follow(people, form).hba1c_percent
    ill = without[:, WEEKS_BEFORE] > 7.2
    keeps = (people.hidden["stops_week"] > 26) & ill
    for number, one in enumerate(CLASSES):
        change = (follow(people.on(number), form).hba1c_percent - without)[:, at]
        full = float((change / people.hidden["adherence"])[keeps].mean())
        assert full == pytest.approx(one.hba1c_percent, abs=0.5), one.name


def test_hospitals_differ_in_whom_they_see_what_they_give_and_what_they_miss(datasets):
    def column(dataset, name):
        return dataset.values[:, PROGRAMME.feature_names.index(name)]

    old_town, university = datasets
    assert np.nanmean(column(old_town, "age_years")) > np.nanmean(column(university, "age_years")) + 5
    assert (
        column(university, "glp_1_receptor_agonist").mean()
        > 2 * column(old_town, "glp_1_receptor_agonist").mean()
    )
    missing = [np.isnan(column(d, "fasting_glucose_mg_dl")).mean() for d in datasets]
    assert missing[1] > missing[0] + 0.1


def test_the_open_people_are_those_of_the_hospitals_in_turn():
    sites = tuple(replace(site, patients=5) for site in simulated_people.SITES)
    people = list(SimulatedTypeTwoDiabetes(sites).people(None, seed=4))
    assert [person.hospital for person in people[:6]] == [site.name for site in simulated_people.SITES]
    assert len({person.identity for person in people}) == 30


@pytest.mark.parametrize("dialect", DIALECTS[:2], ids=lambda dialect: dialect.name)
def test_what_a_node_reads_from_fhir_is_the_data_set_that_was_simulated(tmp_path, hospitals, dialect):
    hospital = simulated_hospitals(seed=6, sites=(replace(hospitals[0].site, patients=50),))[0]
    expected = dataset_of(hospital)
    people = list(open_people(hospital))
    export = write_hospital(tmp_path, dialect, people, Vocabulary(PROGRAMME))
    found = build(export.folder, PROGRAMME, pseudonym_key=KEY)[0]
    assert len(found) == len(expected)
    theirs = {pseudonym(KEY, patient): row for row, patient in enumerate(export.patient_ids)}
    mine = {simulated_records.pseudonym(hospital, row): i for row in range(50) for i in [row]}
    order = [[mine[p] for p in expected.patient_ids].index(theirs[p]) for p in found.patient_ids]
    there = expected.take(np.array(order))
    for number, name in enumerate(PROGRAMME.feature_names):
        # Laboratories report a digit or two in the other unit.
        tolerance = 0.01 if name == "age_years" else 0.2 if dialect.molar_units else 0.06
        tolerance = 1.0 if name == "triglycerides_mg_dl" else tolerance
        assert found.values[:, number] == pytest.approx(
            there.values[:, number], abs=tolerance, nan_ok=True
        ), name
    assert found.targets == pytest.approx(there.targets, abs=0.06, nan_ok=True)
    assert np.array_equal(found.event, there.event)
    assert found.time_years == pytest.approx(there.time_years, abs=0.004)


def test_the_programme_names_five_classes_and_asks_of_a_start():
    assert tuple(treatment.name for treatment in PROGRAMME.treatments) == (*DRUG_CLASSES, "diet")
    assert {f.name for f in PROGRAMME.columns} >= {
        *DRUG_CLASSES,
        *(f"earlier_{name}" for name in DRUG_CLASSES),
    }
