"""From runs to the registry: brought up to date from what is on disk, so that a crash loses no twin."""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import Any

from sqlalchemy import Engine

from gemel.core.arrays import unpack_arrays
from gemel.core.canonical import canonical_bytes
from gemel.core.errors import GemelError
from gemel.core.signing import SignedDocument
from gemel.core.study import Study, parse_study
from gemel.server.home import CoordinatorHome, RunFolder
from gemel.server.registry.card import model_card
from gemel.server.registry.card_page import card_markdown
from gemel.server.registry.evaluation import loaded_twin, released_calibration, released_scores
from gemel.server.registry.models import (
    CARD,
    CARD_PAGE,
    CERTIFICATE,
    ONNX,
    STUDY,
    WEIGHTS,
    Facts,
    ModelRecord,
    Models,
)
from gemel.server.registry.twin_versions import TwinVersion, read_version, twin_versions
from gemel.server.store import open_store, store_url
from gemel.synthetic.releases import travelling
from gemel.twins.installed import definition_of, find

logger = logging.getLogger(__name__)
NOT_ASKED = "not made yet"


def open_models(home: CoordinatorHome) -> Models:
    """The registry of a coordinator's home; a process opens the store once, however often it is asked."""
    return Models(_store(store_url(home.folder)), home.folder, public_key=home.key.public_hex)


@lru_cache(maxsize=4)
def _store(url: str) -> Engine:
    return open_store(url)


def catch_up(home: CoordinatorHome, models: Models) -> list[GemelError]:
    """Register what runs have made since; returns what could not be, without stopping at it. Cheap when there is nothing new."""
    known = {record.model_sha256: record for record in models.all()}
    faults: list[GemelError] = []
    for folder in sorted((home.folder / "runs").iterdir()):
        run = RunFolder(folder)
        try:
            versions = twin_versions(run)
            ended = run.certificate
            for version in versions:
                record = known.get(version.sha256)
                last = version is versions[-1]
                state = "final" if last and ended is not None else "checkpoint"
                if record is None or _grew(record, state, ended):
                    register_version(home, models, run, version, certificate=ended if last else None)
        except (GemelError, OSError, ValueError, KeyError) as error:
            fault = (
                error
                if isinstance(error, GemelError)
                else GemelError("GEM532", f"{folder.name[:12]}: {error}.")
            )
            logger.warning("a run's twins cannot be registered: %s", fault)
            faults.append(fault)
    return faults


def register_version(
    home: CoordinatorHome,
    models: Models,
    run: RunFolder,
    version: TwinVersion,
    *,
    certificate: SignedDocument | None,
    with_onnx: bool = False,
) -> ModelRecord:
    """Register one version of a run's twin with its card; `certificate` when it is the last of a run that ended."""
    document = run.study
    study = parse_study(document.payload)
    weights = read_version(run, version)
    files = {WEIGHTS: weights, STUDY: document.to_bytes()}
    onnx = NOT_ASKED
    kept = _kept_onnx(models, version.sha256)
    if kept is not None or with_onnx:
        onnx, content = ("exported", kept) if kept is not None else _onnx(study, weights)
        if content is not None:
            files[ONNX] = content
    if certificate is not None:
        files[CERTIFICATE] = certificate.to_bytes()
    card = _card(run, study, version, weights, certificate=certificate, onnx=onnx)
    files[CARD], files[CARD_PAGE] = canonical_bytes(card), card_markdown(card).encode()
    facts = Facts(
        model_sha256=version.sha256,
        study_sha256=study.sha256,
        study_id=study.study_id,
        programme=f"{study.programme}@{study.programme_version}",
        version=version.version,
        state="checkpoint" if certificate is None else "final",
        certificate_sha256="" if certificate is None else certificate.payload_sha256,
    )
    return models.register(facts, files, home.key)


def make_onnx(home: CoordinatorHome, models: Models, record: ModelRecord) -> ModelRecord:
    """Add the ONNX form to a registered twin, or say in its card why there is none. Takes seconds: it imports the exporter."""
    if ONNX in models.files(record):
        return record
    run = home.run(record.study_sha256)
    version = next((v for v in twin_versions(run) if v.sha256 == record.model_sha256), None)
    if version is None:
        raise GemelError("GEM531", f"The run of {record.model_sha256[:12]} is no longer here.")
    certificate = run.certificate if record.state == "final" else None
    return register_version(home, models, run, version, certificate=certificate, with_onnx=True)


def _grew(record: ModelRecord, state: str, ended: SignedDocument | None) -> bool:
    """True when the run has told more of a registered twin: that it is the last one, or another certificate."""
    if state != "final" or ended is None:
        return False
    return record.state != "final" or record.certificate_sha256 != ended.payload_sha256


def _kept_onnx(models: Models, model_sha256: str) -> bytes | None:
    """The ONNX form that an earlier revision has: the weights are the same, so it still holds."""
    earlier = models.revisions(model_sha256)
    if not earlier or ONNX not in models.files(earlier[-1]):
        return None
    return models.file(earlier[-1], ONNX)


def _onnx(study: Study, weights: bytes) -> tuple[str, bytes | None]:
    from gemel.server.registry.onnx_export import export_onnx

    programme = find(study.programme, study.programme_version)
    twin = loaded_twin(study, unpack_arrays(weights, travelling(programme, study.strategy)))
    if twin is None:
        return "none: parameters that stay at hospitals are part of the twin", None
    try:
        return "exported", export_onnx(twin)
    except GemelError as error:
        return f"none: {error.message}", None


def _card(
    run: RunFolder,
    study: Study,
    version: TwinVersion,
    weights: bytes,
    *,
    certificate: SignedDocument | None,
    onnx: str,
) -> dict[str, Any]:
    definition = definition_of(find(study.programme, study.programme_version))
    declared = travelling(definition.programme, study.strategy)
    twin = loaded_twin(study, unpack_arrays(weights, declared))
    # Only the last twin of a run is evaluated.
    evaluated = twin if certificate is not None else None
    return model_card(
        study,
        definition,
        version,
        state=run.load_state(),
        certificate=certificate,
        scores=released_scores(run, study, evaluated) if evaluated is not None else None,
        calibration=released_calibration(run, study, evaluated) if evaluated is not None else None,
        parameters=declared,
        size=len(weights),
        onnx=onnx,
    )
