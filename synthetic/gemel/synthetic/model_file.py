"""A model of virtual cohorts as one safetensors file: what hospitals released, what was fitted to it, and who says so.

The file needs nothing beside it. In its metadata stands the run's signed certificate, which holds the signed study and the
hash of the released tables; anybody can fit the model again from them (`check_model`). No pickle, nothing that is run.
"""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from gemel.core.arrays import Arrays, pack_arrays
from gemel.core.canonical import canonical_bytes, sha256_hex
from gemel.core.certificate import check_certificate, read_certificate
from gemel.core.errors import GemelError
from gemel.core.files import write_durably
from gemel.core.signing import SignedDocument, read_signed
from gemel.core.software import software_versions
from gemel.core.study import Masking, Study
from gemel.core.synthesis_plan import ROUNDS
from gemel.synthetic.anchored_tree import TreeModel
from gemel.synthetic.domain import domain_of
from gemel.synthetic.protocol import cohort_model, released_tables
from gemel.synthetic.provenance import CohortProvenance, check_covers, read_provenance
from gemel.synthetic.study_provenance import provenance_of_study
from gemel.twins.installed import find

SCHEMA = "gemel/cohort-model/1"
CERTIFICATE, TABLES = "certificate.json", f"{ROUNDS[-1].replace('/', '-')}.safetensors"
_RELEASED, _POTENTIAL = "released/", "potential/"
# Two machines' linear algebra may end a hair apart; of a share of patients this is nothing.
_SAME_SHARE = 1e-4
# The accountant of a ledger and that of a study round differently by less.
_SAME_EPSILON = 1e-4


@dataclass(frozen=True)
class CohortModel:
    """What cohorts are drawn from, with all that it must be able to say of itself.

    Attributes:
        tree: The fitted model.
        provenance: As `cohort.sample` and `export.write` ask for it.
        measured: What the last round of synthesis led to: the released tables.
        certificate: The run's, which names them and holds the signed study.
        software: The versions that it was fitted with.
        sha256: Of its file.
    """

    tree: TreeModel
    provenance: dict[str, Any]
    measured: Arrays
    certificate: SignedDocument
    software: dict[str, str]
    sha256: str

    @property
    def study(self) -> Study:
        """The study that hospitals approved."""
        return read_certificate(self.certificate)[1]

    @property
    def tables(self) -> dict[str, NDArray[np.int64]]:
        """The released tables by the names of `tree.queries`."""
        return released_tables(self.study, self.tree.domain, self.measured)[1]

    @property
    def statement(self) -> CohortProvenance:
        """The provenance, checked."""
        return read_provenance(self.provenance)

    @property
    def honest_hospitals(self) -> int:
        """How many hospitals' shares of noise are enough; 0 where each one's release is private by itself."""
        study, plan = self.study, self.study.aggregation
        shares = plan.masking is Masking.SECURE and plan.distributed_noise
        return len(study.sites) - plan.dropouts - plan.colluders if shares else 0

    @property
    def spent_before(self) -> float:
        """An ε within which other studies have spent of the same patients, by the ledgers that the certificate saw; 0 for none.

        Privacy losses do not subtract: where a hospital's ledger holds more than this study, it is all that it holds.
        """
        certificate, _ = read_certificate(self.certificate)
        spent = max(site.epsilon_spent or 0.0 for site in certificate.sites.values())
        return spent if spent > self.statement.whole.epsilon + _SAME_EPSILON else 0.0

    @property
    def patients_about(self) -> float:
        """How many patients were counted, to two figures: an estimate from noisy tables, no more exact than it looks."""
        return float(f"{self.tree.total:.2g}")


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What stands beside the arrays, as one text: of several the library would write the order by chance."""

    schema: str
    certificate: dict[str, Any]
    provenance: dict[str, Any]
    software: dict[str, str]


def fit_run(folder: Path) -> tuple[CohortModel, bytes]:
    """Fit what a finished run released; gives the model and the content of its file. Equal runs give equal files.

    Args:
        folder: With `certificate.json` and `synthesise-3.safetensors`: the run's own, or what a researcher pulled of it.

    Raises:
        GemelError: GEM764 when the run brought no tables, GEM763 for other tables than the certificate names, GEM512 and
            others for a certificate that does not hold, GEM104 for a programme that is not installed.
    """
    certificate, tables = _read_run(folder)
    measured = _load(tables, TABLES)
    study, sites = _check_certified(certificate, measured)
    provenance = _provenance(study, sites, certificate)
    tree = cohort_model(study, domain_of(find(study.programme, study.programme_version)), measured)
    software = software_versions()
    header = _Header(
        schema=SCHEMA,
        certificate=msgspec.to_builtins(certificate),
        provenance=provenance,
        software=software,
    )
    content = _pack(measured, tree, header)
    return CohortModel(tree, provenance, measured, certificate, software, sha256_hex(content)), content


def write_model(content: bytes, path: Path) -> None:
    """Write the content of a model's file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_durably(path, content)


def read_model(path: Path) -> CohortModel:
    """Read a model's file. Nothing is fitted; all that is cheap to check is checked.

    Raises:
        GemelError: GEM763 for a file that is damaged, is none, or holds other tables or potentials than it should; GEM102,
            GEM103, GEM512 for its certificate; GEM702 for its provenance; GEM104 for a programme that is not installed.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise GemelError("GEM763", f"{path} cannot be read: {error.strerror}.") from error
    arrays, header = _load(content, path.name), _read_header(content, path.name)
    certificate = read_signed(canonical_bytes(header.certificate), kind="certificate")
    measured, fitted = _named(_RELEASED, arrays), _named(_POTENTIAL, arrays)
    if len(measured) + len(fitted) != len(arrays):
        raise GemelError("GEM763", f"{path.name} holds arrays that are no part of a model.")
    study, sites = _check_certified(certificate, measured)
    statement = read_provenance(header.provenance)
    told = (statement.study_sha256, statement.certificate_sha256, statement.sites)
    if told != (study.sha256, certificate.payload_sha256, sites):
        raise GemelError("GEM763", f"The provenance in {path.name} is of another run.")
    domain = domain_of(find(study.programme, study.programme_version))
    tree = cohort_model(study, domain, measured, potentials=fitted)
    check_covers(statement, precision=sum(query.sigma**-2 for query in tree.queries))
    return CohortModel(tree, header.provenance, measured, certificate, header.software, sha256_hex(content))


def check_model(path: Path) -> list[tuple[str, str]]:
    """Check a model's file to the ground; returns what holds beside its certificate, as (what, detail).

    Raises as `read_model`, and GEM763 for a provenance that the signed study does not give, or potentials that do not follow
    from the released tables.
    """
    model = read_model(path)
    study, sites = _check_certified(model.certificate, model.measured)
    if model.provenance != _provenance(study, sites, model.certificate):
        raise GemelError("GEM763", f"The signed study costs and says something else than {path.name} states.")
    apart = _apart(model.tree, cohort_model(study, model.tree.domain, model.measured))
    if apart > _SAME_SHARE:
        raise GemelError(
            "GEM763",
            f"Fitted again, a table's shares differ by {apart:.2g}: the potentials are another model's.",
        )
    epsilon = model.provenance["synthesis"]["epsilon"]
    return [
        (
            "released tables",
            f"{sum(a.size for a in model.measured.values()):,} numbers, as the certificate names them",
        ),
        ("provenance", f"follows from the signed study: ε {epsilon:.4g} for synthesis, {sites} hospitals"),
        (
            "potentials",
            f"fitted again from the released tables: no table's shares differ by more than {apart:.1g}",
        ),
    ]


def _apart(one: TreeModel, other: TreeModel) -> float:
    """The largest total variation between what two models expect of a measured table."""
    return max(float(np.abs(one.expected(query) - other.expected(query)).sum() / 2) for query in one.queries)


def _read_run(folder: Path) -> tuple[SignedDocument, bytes]:
    try:
        certificate = (folder / CERTIFICATE).read_bytes()
        tables = (folder / TABLES).read_bytes()
    except OSError as error:
        name = Path(str(error.filename)).name
        raise GemelError("GEM764", f"{folder} has no {name}: {error.strerror}.") from error
    return read_signed(certificate, kind="certificate"), tables


def _check_certified(document: SignedDocument, measured: Arrays) -> tuple[Study, int]:
    """The study, and how many hospitals' tables were summed. Raises GEM763 for other tables than the certificate names."""
    check_certificate(document)
    certificate, study = read_certificate(document)
    last = next((task for task in certificate.tasks if task.task == ROUNDS[-1]), None)
    if last is None or not last.synthesis_sha256:
        raise GemelError("GEM764", f"The run ended before {ROUNDS[-1]}: {certificate.code or 'skipped'}.")
    if sha256_hex(pack_arrays(measured)) != last.synthesis_sha256:
        raise GemelError("GEM763", "The released tables are not those that the certificate names.")
    return study, len(last.contributions)


def _provenance(study: Study, sites: int, certificate: SignedDocument) -> dict[str, Any]:
    """Dated by the certificate, so that whoever fits again says the same. Nodes take noise from the operating system only."""
    certified = dt.datetime.fromisoformat(certificate.payload["certified_at"]).astimezone(dt.UTC)
    return provenance_of_study(
        study,
        sites=sites,
        created=f"{certified:%Y-%m-%dT%H:%M:%SZ}",
        noise="secure",
        certificate_sha256=certificate.payload_sha256,
    )


def _pack(measured: Arrays, tree: TreeModel, header: _Header) -> bytes:
    arrays: dict[str, NDArray[Any]] = {
        **{_RELEASED + name: np.ascontiguousarray(array, np.int64) for name, array in measured.items()},
        **{
            _POTENTIAL + name: np.ascontiguousarray(array, np.float64)
            for name, array in tree.potentials.items()
        },
    }
    told = canonical_bytes(msgspec.to_builtins(header)).decode()
    return save({name: arrays[name] for name in sorted(arrays)}, metadata={"gemel": told})


def _load(content: bytes, name: str) -> dict[str, NDArray[Any]]:
    """The arrays of a safetensors file. Raises GEM763 when it is damaged or none."""
    try:
        return dict(load(content))
    except (SafetensorError, KeyError, ValueError) as error:
        raise GemelError("GEM763", f"{name} is not safetensors: {error}.") from error


def _read_header(content: bytes, name: str) -> _Header:
    """What stands beside the arrays of a file that `_load` found sound. Format: length (u64, little endian), then JSON."""
    try:
        layout = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        header = msgspec.json.decode(layout["__metadata__"]["gemel"], type=_Header)
    except (KeyError, ValueError, msgspec.ValidationError) as error:
        raise GemelError("GEM763", f"{name} is no model of virtual cohorts: {error}.") from error
    if header.schema != SCHEMA:
        raise GemelError("GEM763", f"{name} has the form {header.schema}, expected {SCHEMA}.")
    return header


def _named(prefix: str, arrays: Arrays) -> dict[str, NDArray[Any]]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
