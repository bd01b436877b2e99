"""From a hospital's records to a data set: consent, facts, cohort, features, targets, and the data set's card."""

from __future__ import annotations

from collections.abc import Container, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow.parquet as pq

from gemel.core.dataset import Dataset
from gemel.core.errors import GemelError
from gemel.core.programme import Programme
from gemel.data_adapters.dataset.assemble import MINIMUM_KEY_BYTES, assemble
from gemel.data_adapters.dataset.card import (
    DatasetCard,
    InputCard,
    Reading,
    describe,
    describe_input,
    fhir_reading,
    omop_reading,
)
from gemel.data_adapters.dataset.cohort import CohortCounts, pseudonym
from gemel.data_adapters.inputs.imaging import image_table
from gemel.data_adapters.inputs.links import load_links
from gemel.data_adapters.inputs.read import NO_FURTHER_INPUTS, FurtherInputs, read_input
from gemel.data_adapters.meaning.consent import withheld_patients
from gemel.data_adapters.meaning.facts import Facts, return_memory
from gemel.data_adapters.meaning.fhir_facts import read_fhir, require_usable
from gemel.data_adapters.meaning.opt_out import OptOutList, read_opt_out
from gemel.data_adapters.meaning.site_mapping import NO_MAPPING, SiteMapping
from gemel.data_adapters.omop.read import read_omop
from gemel.data_adapters.omop.source import is_omop

__all__ = ["CohortCounts", "DatasetCard", "assemble", "build", "pseudonym"]


def build(
    source: Path | str,
    programme: Programme,
    *,
    pseudonym_key: bytes,
    mapping: SiteMapping = NO_MAPPING,
    opt_out: Path | None = None,
    workers: int = 1,
    on: date | None = None,
    further: FurtherInputs = NO_FURTHER_INPUTS,
) -> tuple[Dataset, DatasetCard]:
    """Build a programme's data set from a hospital's records, one row per patient of its cohort.

    Patients who are withheld by their consent or the opt-out list are found first: nothing else sees them.

    Args:
        source: A FHIR export (a folder, or one file), or an OMOP CDM (a folder with a table PERSON, or a database's
            URL).
        programme: What to build.
        pseudonym_key: The hospital's secret, at least 16 bytes; the same key gives the same pseudonyms.
        mapping: The site's own words.
        opt_out: A file with a patient id, or `system|value` identifier, a line.
        workers: Threads that read.
        on: The day as of which consent is judged, and after which nothing is dated; today by default.
        further: Images, wearables, genomes and so on of the same patients.

    Raises:
        GemelError: GEM208 unreadable, GEM213 of another FHIR version, GEM211 synthetic records, GEM205 without
            patients, GEM212 with nobody in the cohort, GEM244 an opt-out list that cannot be read, GEM245 a patient
            twice, GEM250 and GEM252 a CDM that cannot be read, GEM254 to GEM257 a further input that cannot be.
    """
    if len(pseudonym_key) < MINIMUM_KEY_BYTES:
        raise ValueError(f"pseudonym_key needs at least {MINIMUM_KEY_BYTES} bytes")
    day = on if on is not None else datetime.now(UTC).date()
    with Facts() as facts:
        if is_omop(source):
            withheld, reading = _read_cdm(source, programme, facts, mapping=mapping, opt_out=opt_out)
        else:
            withheld, reading = _read_export(
                Path(source), programme, facts, mapping=mapping, opt_out=opt_out, workers=workers, on=day
            )
        export = None if is_omop(source) else Path(source)
        inputs, links_unused = _read_further(
            further,
            programme,
            facts,
            export=export,
            mapping=mapping,
            withheld=withheld,
            pseudonym_key=pseudonym_key,
        )
        return_memory()
        # A day more: elsewhere it is tomorrow already.
        future = {} if mapping.dates_shifted else facts.leave_out_future(day + timedelta(days=1))
        dataset, counts = assemble(facts, programme, pseudonym_key=pseudonym_key)
    return dataset, describe(
        dataset, programme, counts, reading, inputs=inputs, links_unused=links_unused, future=future
    )


def _read_export(
    export: Path,
    programme: Programme,
    facts: Facts,
    *,
    mapping: SiteMapping,
    opt_out: Path | None,
    workers: int,
    on: date,
) -> tuple[Container[str], Reading]:
    """Fill the facts from FHIR without those who are withheld, who are told too."""
    withheld = withheld_patients(export, opt_out=opt_out, on=on, mapping=mapping)
    account = read_fhir(export, programme, facts, mapping=mapping, withheld=withheld, workers=workers)
    require_usable(account)
    return withheld, fhir_reading(account, withheld)


def _read_cdm(
    source: Path | str,
    programme: Programme,
    facts: Facts,
    *,
    mapping: SiteMapping,
    opt_out: Path | None,
) -> tuple[Container[str], Reading]:
    """The same from a CDM."""
    if mapping.require_consent:
        raise GemelError(
            "GEM241", "The mapping requires consent, and a CDM says of nobody that it was given."
        )
    listed = read_opt_out(opt_out) if opt_out is not None else OptOutList()
    account = read_omop(source, programme, facts, mapping=mapping, withheld=listed)
    if not account.patients:
        raise GemelError(
            "GEM205",
            f"No usable row in PERSON; rejects: {account.rejects_by_code}; withheld: {account.withheld}.",
        )
    return listed.ids | {value for _, value in listed.identifiers}, omop_reading(account)


def _read_further(
    further: FurtherInputs,
    programme: Programme,
    facts: Facts,
    *,
    export: Path | None,
    mapping: SiteMapping,
    withheld: Container[str],
    pseudonym_key: bytes,
) -> tuple[list[InputCard], Sequence[str]]:
    """Add what the further inputs say, and write the index of the images that are kept, by pseudonym.

    Gives a card an input, and the rows of the link tables that no input is called by.
    """
    if not further.paths:
        return [], ()
    links = load_links(*further.tables, export=export, subject_is_patient=further.subject_is_patient)
    cards, images = [], []
    for path in further.paths:
        account = read_input(
            path,
            programme,
            facts,
            links=links,
            mapping=mapping,
            withheld=withheld,
            images=further.images,
        )
        cards.append(describe_input(path.name, account))
        images += [
            row | {"patient_id": pseudonym(pseudonym_key, str(row["patient_id"]))} for row in account.images
        ]
    if further.images is not None and images:
        pq.write_table(image_table(images), further.images / "images.parquet")
    return cards, links.unused()
