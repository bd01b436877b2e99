"""The provenance of a virtual cohort, read off the signed study: what it cost is computed, never typed in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

from gemel.core.mechanism import Mechanism, mechanisms_by_patient
from gemel.core.study import Study
from gemel.core.synthesis_plan import ROUNDS
from gemel.privacy.accounting import epsilon, merged
from gemel.synthetic.provenance import CohortProvenance, PrivacyStatement


def provenance_of_study(
    study: Study,
    *,
    sites: int,
    created: str,
    noise: Literal["secure", "test"],
    certificate_sha256: str | None = None,
) -> dict[str, Any]:
    """The provenance document that `cohort.sample` and `export.write` ask for.

    Args:
        study: The signed study; its tasks name every mechanism.
        sites: How many hospitals' tables were summed in the last round.
        created: RFC 3339 instant.
        noise: Where the hospitals' randomness came from, as they reported it.
        certificate_sha256: The run's certificate, where there is one.
    """
    training = _mechanisms(study, [task for task in study.tasks if task.startswith("train/")])
    by_patient = mechanisms_by_patient(study.charges()).values()
    dearest = max(by_patient, key=lambda paid: epsilon(paid, delta=study.privacy.delta))
    return CohortProvenance(
        study=study.title,
        study_sha256=study.sha256,
        programme=study.programme,
        programme_version=study.programme_version,
        sites=sites,
        created=created,
        synthesis=_statement(_mechanisms(study, ROUNDS), study, noise),
        twin=_statement(training, study, noise),
        whole=_statement(dearest, study, noise),
        sites_of_a_person=study.synthesis.sites_of_a_person,
        certificate_sha256=certificate_sha256,
    ).as_dict()


def _mechanisms(study: Study, tasks: Iterable[str]) -> list[Mechanism]:
    return [mechanism for task in tasks for mechanism in study.charge(task).mechanisms]


def _statement(
    mechanisms: Sequence[Mechanism], study: Study, noise: Literal["secure", "test"]
) -> PrivacyStatement:
    delta = study.privacy.delta
    return PrivacyStatement(
        epsilon=epsilon(mechanisms, delta=delta),
        delta=delta,
        mechanisms=merged(mechanisms),
        unit="patient",
        neighbouring="add or remove one patient",
        noise=noise,
    )
