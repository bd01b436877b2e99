"""What one FHIR Consent says about research on a patient's data, read so that doubt never permits.

FHIR R4: a base rule (`provision.type`, or the opt-in or opt-out of `policyRule`) with nested exceptions; R5: `decision`
with `provision` as exceptions. A rule applies on a day and to research use; what limits a permission to a part of the
data or to named actors makes it partial, what limits a denial does not weaken it, because patients are kept whole or
not at all. Among exceptions that apply, a denial wins.
"""

from __future__ import annotations

import re
from datetime import date
from enum import StrEnum
from typing import Any

import msgspec

# HL7 v3 ActReason: purposes that are not research. Any other purpose may be.
# fmt: off
_OTHER_PURPOSES = frozenset((
    "TREAT", "ETREAT", "CAREMGT", "BTG", "HPAYMT", "CLMATTCH", "COVAUTH", "COVERAGE", "ELIGDTRM", "ELIGVER",
    "ENROLLM", "REMITADV", "HMARKT", "HOPERAT", "PATADMIN", "RECORDMGT", "DISASTER", "THREAT", "FAMRQT", "PATRQT", "PWATRNY", "SUPNWK",
))
# fmt: on
_RESEARCH = "HRESCH"
# HL7 consentaction; correcting a record is no use of it.
_OTHER_ACTIONS = frozenset({"correct"})
_USE = "use"
_OTHER_SCOPES = frozenset({"adr", "treatment"})
_BASE_RULES = {"OPTIN": "permit", "OPTINR": "permit", "OPTOUT": "deny", "OPTOUTE": "deny"}
# Broad consent of the German Medical Informatics Initiative (its implementation guide, module Consent): the module of
# patient data, collecting, keeping and scientific use of medical data. Other policies concern no such use.
MII_POLICIES = "urn:oid:2.16.840.1.113883.3.1937.777.24.5.3"
_MII_USE = "2.16.840.1.113883.3.1937.777.24.5.3.8"
_MII_DENIALS = frozenset(f"2.16.840.1.113883.3.1937.777.24.5.3.{number}" for number in (1, 6, 7, 8))
_DATE = re.compile(r"\d{4}(-\d{2}(-\d{2}(T.*)?)?)?", re.ASCII)
_MAX_DEPTH = 32


class Verdict(StrEnum):
    """What a Consent says; the worst first."""

    UNCLEAR = "the consent cannot be interpreted"
    DENY = "consent denied"
    WITHDRAWN = "consent withdrawn"
    PARTIAL = "consent for a part only"
    PERMIT = "consent given"
    SILENT = "the consent says nothing about research now"


class _Coding(msgspec.Struct):
    system: str | None = None
    code: str | None = None


class _Concept(msgspec.Struct):
    coding: list[_Coding] = []

    def codes(self) -> list[str]:
        return [coding.code or "" for coding in self.coding]


class _Period(msgspec.Struct):
    start: str | None = None
    end: str | None = None


class _Provision(msgspec.Struct):
    type: str | None = None
    period: _Period | None = None
    dataPeriod: _Period | None = None
    purpose: list[_Coding] = []
    action: list[_Concept] = []
    code: list[_Concept] = []
    actor: list[msgspec.Raw] = []
    # `class` is a word of Python.
    classes: list[msgspec.Raw] = msgspec.field(name="class", default_factory=list)
    securityLabel: list[msgspec.Raw] = []
    data: list[msgspec.Raw] = []
    resourceType: list[msgspec.Raw] = []
    documentType: list[msgspec.Raw] = []
    expression: Any = None
    provision: list[_Provision] = []
    modifierExtension: list[msgspec.Raw] = []


class Identifier(msgspec.Struct, frozen=True):
    """FHIR Identifier, as far as it is used."""

    system: str | None = None
    value: str | None = None


class Reference(msgspec.Struct):
    """FHIR Reference, as far as it is used."""

    reference: str | None = None
    identifier: Identifier | None = None


class Meta(msgspec.Struct):
    """FHIR Meta, as far as it is used."""

    versionId: str | None = None
    lastUpdated: str | None = None


class Consent(msgspec.Struct):
    """FHIR Consent, as far as it is used; `subject`, `decision` and a list of provisions are R5's."""

    resourceType: str
    id: str | None = None
    meta: Meta | None = None
    status: str | None = None
    scope: _Concept | None = None
    patient: Reference | None = None
    subject: Reference | None = None
    dateTime: str | None = None
    date: str | None = None
    policyRule: _Concept | None = None
    decision: str | None = None
    provision: _Provision | list[_Provision] | None = None
    modifierExtension: list[msgspec.Raw] = []
    implicitRules: str | None = None


def judge_consent(consent: Consent, *, on: date) -> Verdict:
    """What a Consent says about research on a day.

    Withdrawn is a permission whose Consent is inactive, or was rejected; one entered in error, or a draft, says nothing.
    """
    if consent.modifierExtension or consent.implicitRules:
        return Verdict.UNCLEAR
    if consent.scope is not None and _OTHER_SCOPES.intersection(consent.scope.codes()):
        return Verdict.SILENT
    if consent.status in ("entered-in-error", "draft", "proposed", "not-done"):
        return Verdict.SILENT
    try:
        verdict = _judge_rules(consent, on)
        if verdict in (Verdict.PERMIT, Verdict.PARTIAL):
            if consent.status in ("inactive", "rejected"):
                return Verdict.WITHDRAWN
            if _covers(_Period(start=consent.dateTime or consent.date), on) is False:
                return Verdict.SILENT
    except _UnclearError:
        return Verdict.UNCLEAR if consent.status != "inactive" else Verdict.WITHDRAWN
    if consent.status == "inactive":
        # An objection that was taken back.
        return Verdict.SILENT
    return verdict if consent.status in ("active", "rejected") else Verdict.UNCLEAR


class _UnclearError(ValueError):
    """A rule that cannot be interpreted."""


def _judge_rules(consent: Consent, on: date) -> Verdict:
    base = {_BASE_RULES[code] for code in _policy_codes(consent) if code in _BASE_RULES}
    if consent.decision is not None or isinstance(consent.provision, list):
        exceptions = consent.provision if isinstance(consent.provision, list) else [consent.provision]
        root = _Provision(provision=[rule for rule in exceptions if rule is not None])
        base.add(consent.decision or "")
    else:
        root = consent.provision or _Provision()
        if root.type is not None:
            base.add(root.type)
    if len(base) != 1:
        raise _UnclearError("no base rule, or two")
    return _judge_rule(root, base.pop(), on, depth=0)


def _policy_codes(consent: Consent) -> list[str]:
    return consent.policyRule.codes() if consent.policyRule is not None else []


def _judge_rule(rule: _Provision, kind: str, on: date, *, depth: int) -> Verdict:
    """What a rule and its exceptions say; SILENT when it does not apply."""
    if kind not in ("permit", "deny") or rule.modifierExtension or rule.expression is not None:
        raise _UnclearError("a rule of an unknown type, or with conditions of its own")
    if depth > _MAX_DEPTH:
        raise _UnclearError("too deep")
    own = _own_verdict(rule, kind, on)
    if own is Verdict.SILENT:
        return own
    opposite = "deny" if kind == "permit" else "permit"
    verdicts = {
        _judge_rule(inner, inner.type if inner.type is not None else opposite, on, depth=depth + 1)
        for inner in rule.provision
    }
    if Verdict.DENY in verdicts:
        return Verdict.DENY
    if own is Verdict.DENY:
        # An exception for a part leaves the rest denied.
        return Verdict.PERMIT if Verdict.PERMIT in verdicts else Verdict.DENY
    return own


def _own_verdict(rule: _Provision, kind: str, on: date) -> Verdict:
    if rule.period is not None and not _covers(rule.period, on):
        return Verdict.SILENT
    denies = kind == "deny"
    purposes = {coding.code or "" for coding in rule.purpose}
    actions = {code for action in rule.action for code in action.codes() or [""]}
    codes = [coding for code in rule.code for coding in code.coding or [_Coding()]]
    policies = {coding.code or "" for coding in codes if coding.system == MII_POLICIES}
    limited = bool(rule.actor or rule.classes or rule.securityLabel or rule.data or rule.dataPeriod)
    limited |= bool(rule.resourceType or rule.documentType) or len(policies) < len(codes)
    if denies:
        applies = not purposes or bool(purposes - _OTHER_PURPOSES)
        applies &= not actions or bool(actions - _OTHER_ACTIONS)
        applies &= not policies or len(policies) < len(codes) or bool(policies & _MII_DENIALS)
        return Verdict.DENY if applies else Verdict.SILENT
    applies = not purposes or _RESEARCH in purposes
    applies &= not actions or _USE in actions
    applies &= not policies or _MII_USE in policies
    if not applies:
        return Verdict.SILENT
    return Verdict.PARTIAL if limited else Verdict.PERMIT


def _covers(period: _Period, on: date) -> bool:
    """Whether a day lies in a period; a partial date covers its whole month or year.

    Raises:
        _UnclearError: A date is none, or the period ends before it starts.
    """
    day = on.isoformat()
    start, end = period.start or "", period.end or ""
    for text in (start, end):
        if text and _DATE.fullmatch(text) is None:
            raise _UnclearError("no date")
    start, end = start[:10], end[:10]
    shared = min(len(start), len(end))
    if end[:shared] < start[:shared]:
        raise _UnclearError("ends before it starts")
    return start <= day[: len(start)] and (not end or day[: len(end)] <= end)
