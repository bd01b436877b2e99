"""The run certificate: which sites contributed to which task, who was missing and why, what each spent."""

from __future__ import annotations

import datetime as dt
from typing import Any

from gemel.core.signing import SignedDocument, SigningKey, sign_document
from gemel.core.study import Study

SCHEMA = "gemel/certificate/1"


def certify(study: Study, state: dict[str, Any], key: SigningKey, *, code: str) -> SignedDocument:
    """Sign what happened. `code` is empty for a complete run, else why it stopped."""
    complete = not code and [t["task"] for t in state["tasks"]] == list(study.tasks)
    models = [t["model_sha256"] for t in state["tasks"] if "model_sha256" in t]
    payload: dict[str, Any] = {
        "schema": SCHEMA,
        "study_id": study.study_id,
        "study_sha256": study.sha256,
        "programme": f"{study.programme}@{study.programme_version}",
        "status": "complete" if complete else "stopped",
        "code": code,
        "quorum": study.quorum,
        "sites": {
            site: {"public_key": public_key, **state["sites"].get(site, {})}
            for site, public_key in study.sites.items()
        },
        "tasks": state["tasks"],
        "stopped_in": state.get("stopped_in"),
        "model_sha256": models[-1] if models else "",
        "certified_at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    }
    return sign_document("certificate", payload, key, role="coordinator")
