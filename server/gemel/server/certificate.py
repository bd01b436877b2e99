"""The run certificate: which sites contributed to which task, who was missing and why, what each spent."""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec

from gemel.core.certificate import check_certificate
from gemel.core.certificate_form import SCHEMA
from gemel.core.messages import PROTOCOL
from gemel.core.signing import SignedDocument, SigningKey, sign_document
from gemel.core.software import software_versions
from gemel.core.study import Study
from gemel.server.run_state import RunState


def certify(
    study: Study, document: SignedDocument, state: RunState, key: SigningKey, *, code: str
) -> SignedDocument:
    """Sign what happened. `code` is empty for a complete run, else why it stopped.

    Raises GEM512 rather than sign what does not hold. The signed study is part of it: whoever checks the certificate needs nothing else to see that no task is left out.
    """
    last = state.last_move
    payload: dict[str, Any] = {
        "schema": SCHEMA,
        "study_id": study.study_id,
        "study_sha256": study.sha256,
        "study": msgspec.to_builtins(document),
        "programme": f"{study.programme}@{study.programme_version}",
        "status": "stopped" if code or state.remaining() else "complete",
        "code": code,
        "quorum": study.quorum,
        "protocol": PROTOCOL,
        "software": software_versions(),
        "sites": {
            site: {"public_key": public_key, **state.site(site)} for site, public_key in study.sites.items()
        },
        "tasks": state.tasks,
        "late": state.data["late"],
        "early_stop": state.data.get("early_stop"),
        "stopped_in": state.data.get("stopped_in"),
        "start_model_sha256": state.data.get("start_model_sha256", ""),
        "model_sha256": last["model_sha256"] if last else "",
        # What a run that stopped among rounds at hospitals' own pace had so far.
        "asynchronous": state.data.get("asynchronous"),
        "run": state.data.get("run", ""),
        "certified_at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    }
    certificate = sign_document("certificate", payload, key, role="coordinator")
    check_certificate(certificate)
    return certificate
