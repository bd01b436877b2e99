"""The form of a run certificate: the fields that are checked."""

from __future__ import annotations

from typing import Any

import msgspec

SCHEMA = "gemel/certificate/2"


class Release(msgspec.Struct, frozen=True, kw_only=True):
    """What a site signed: `signature` is over the whole reply, which follows from this, the study and the task."""

    site: str
    request_sha256: str
    payload_sha256: str
    epsilon_spent: float
    ledger_seq: int
    ledger_head: str
    signature: str


class Contribution(Release, frozen=True, kw_only=True):
    """A release that counted, with the hash of what its site was sent."""

    inputs_sha256: str
    seconds: float = 0.0


class Missing(msgspec.Struct, frozen=True, kw_only=True):
    """A site that is not in a task, and why; `request_sha256` is empty when it was not asked."""

    site: str
    code: str
    seconds: float
    request_sha256: str


class Move(msgspec.Struct, frozen=True, kw_only=True):
    """One version of the twin after another."""

    version: int
    from_model_sha256: str
    model_sha256: str
    strategy_sha256: str = ""


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """An update in a version that hospitals made at their own pace."""

    site: str
    task: str
    started_from: int
    staleness: int


class Version(Move, frozen=True, kw_only=True):
    """A move of an asynchronous task."""

    contributions: tuple[Part, ...]


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """A closed task. One that is `skipped` says why, and has nothing else."""

    task: str
    contributions: tuple[Contribution, ...]
    missing: tuple[Missing, ...]
    seconds: float = 0.0
    bytes: int = 0
    skipped: str = ""
    masked_attempt: int = 0
    masked_steps: dict[str, tuple[str, ...]] = {}
    version: int | None = None
    from_model_sha256: str = ""
    model_sha256: str = ""
    strategy_sha256: str = ""
    loss: float | None = None
    sum_sha256: str = ""
    statistics_sha256: str = ""
    matrix_sha256: str = ""
    # Of a round of virtual cohorts: what it led to, the inputs of the next one, or what cohorts or trajectories are drawn from.
    synthesis_sha256: str = ""
    # Of the last of the tasks that each hospital did at its own pace.
    versions: tuple[Version, ...] | None = None
    unused: tuple[Part, ...] = ()


class Late(Release, frozen=True, kw_only=True):
    """A release that came after its task was closed."""

    task: str


class EarlyStop(msgspec.Struct, frozen=True, kw_only=True):
    """Training ended before its last round."""

    after: str
    skipped: tuple[str, ...]


class Site(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a hospital at the end."""

    public_key: str
    status: str = ""
    code: str = ""
    epsilon_spent: float | None = None
    ledger_seq: int = 0
    protocol: int = 0
    software: dict[str, str] = {}


class Certificate(msgspec.Struct, frozen=True, kw_only=True):
    """The fields that are checked."""

    schema: str
    study_id: str
    study_sha256: str
    study: dict[str, Any]
    programme: str
    status: str
    code: str
    quorum: int
    protocol: int
    software: dict[str, str]
    sites: dict[str, Site]
    tasks: tuple[Task, ...]
    late: tuple[Late, ...]
    early_stop: EarlyStop | None
    start_model_sha256: str
    model_sha256: str
    run: str
