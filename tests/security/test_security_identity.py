"""Who somebody is follows from a key, never from what a message says of itself.

Stands for NVFlare #4819 (role from metadata), #4428-#4430 (role field took another value), #4597 and #5079 (a result for
another client's task), #5131 (the responder's own `site_name` trusted), vantage6 CVE-2023-28635 (names that confuse), and
GHSA-vc3v-ppc7-v486 (trust inherited from a parent).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from in_process import certificate, missing, start
from one_node import SITE, Talk

from gemel.cli.demo.federation import STEWARD
from gemel.client_node import approvals
from gemel.client_node.approvals import Decision
from gemel.core.errors import GemelError
from gemel.core.messages import Envelope, Request, read_reply, sign_reply, sign_request
from gemel.core.signing import SigningKey, read_signed, sign_document
from gemel.core.start_kit import read_join, read_kit
from gemel.server.certificate import SCHEMA as CERTIFICATE

if TYPE_CHECKING:
    from gemel.cli.demo.federation import Federation

MakeStudy = Callable[..., Any]


@pytest.fixture
def talk(federation: Federation, make_study: MakeStudy) -> Talk:
    return Talk(federation, make_study())


def _refused(talk: Talk, document: bytes, *, study: bytes | None = None) -> str:
    envelope = Envelope(document=document, study=talk.study.to_bytes() if study is None else study)
    reply = read_reply(talk.send(envelope).document)[0]
    assert str(reply.status) == "refused"
    return reply.code


def test_a_request_signed_as_coordinator_by_somebody_else_is_refused(talk: Talk) -> None:
    """NVFlare #4819: the role in a signature is a word, and proves nothing."""
    request = read_signed(talk.envelope("hello").document).payload
    for key in (SigningKey.generate(), talk.home.key, talk.federation.stewards[SITE]):
        forged = sign_document("request", request, key, role="coordinator")
        assert _refused(talk, forged.to_bytes()) == "GEM102"


def test_a_second_signature_does_not_lend_its_trust(talk: Talk) -> None:
    """vantage6 GHSA-vc3v-ppc7-v486: what one party vouched for is not vouched for by another beside it."""
    payload = read_signed(talk.envelope("hello").document).payload
    stranger = sign_document(
        "request", {**payload, "task": "count"}, SigningKey.generate(), role="coordinator"
    )
    real = read_signed(talk.envelope("hello").document)
    mixed = msgspec.structs.replace(stranger, signatures=(*stranger.signatures, *real.signatures))
    assert _refused(talk, mixed.to_bytes()) == "GEM102"


@pytest.mark.parametrize("kind", ["reply", "certificate", "study", "model", "approval", "ledger"])
def test_what_the_coordinator_signed_as_something_else_is_no_request(talk: Talk, kind: str) -> None:
    """NVFlare #4428: one document taken for another. The kind is part of what is signed."""
    payload = read_signed(talk.envelope("hello").document).payload
    key = talk.federation.coordinator.key
    other = sign_document(kind, payload, key, role="coordinator")
    assert _refused(talk, other.to_bytes()) == "GEM101"
    renamed = json.loads(other.to_bytes())
    renamed["kind"] = "request"
    assert _refused(talk, json.dumps(renamed).encode()) == "GEM102"


def test_a_reply_that_names_another_hospital_is_nobodys(
    federation: Federation, make_study: MakeStudy
) -> None:
    """NVFlare #5131 and #5079: the responder's own word for who it is; a result for another client's task."""

    def spoil(site: str, task: str, envelope: Envelope) -> Envelope:
        if (site, task) != (SITE, "train/1"):
            return envelope
        lie = msgspec.structs.replace(read_reply(envelope.document)[0], site="alpha")
        key = federation.nodes[SITE].key
        return Envelope(document=sign_reply(lie, key).to_bytes(), payload=envelope.payload)

    coordinator, run, _ = start(federation, make_study(), spoil)
    coordinator.run()
    first = next(task for task in certificate(run)["tasks"] if task["task"] == "train/1")
    assert missing(first) == {SITE: "GEM503"}
    assert sorted(line["site"] for line in first["contributions"]) == ["alpha", "gamma"]


def test_a_reply_to_another_study_of_the_same_coordinator_is_not_taken(
    federation: Federation, make_study: MakeStudy
) -> None:
    """NVFlare #4597: a token of one place used in another. A reply names the request by its hash."""
    other = Talk(federation, make_study(study_id="another"))
    other.propose()
    other.decide()
    stolen = other.send(other.envelope("count"))

    def spoil(site: str, task: str, envelope: Envelope) -> Envelope:
        return stolen if (site, task) == (SITE, "count") else envelope

    coordinator, run, _ = start(federation, make_study(), spoil)
    coordinator.run()
    count = next(task for task in certificate(run)["tasks"] if task["task"] == "count")
    assert missing(count) == {SITE: "GEM503"}


def test_an_approval_of_one_study_does_not_open_another(
    federation: Federation, make_study: MakeStudy
) -> None:
    """NVFlare #4956: a signature that is right, of something else."""
    approved = Talk(federation, make_study())
    approved.propose()
    approved.decide()
    other = Talk(federation, make_study(study_id="another"))
    other.propose()
    folder, here, there = approved.home.folder / "studies", approved.study, other.study
    moved = 0
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder)).replace(here.payload_sha256, there.payload_sha256)
        if path.is_file() and here.payload_sha256 in str(path) and not name.endswith("proposal.json"):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(path.read_bytes())
            moved += 1
    assert moved
    reply = other.ask("count")
    assert (str(reply.status), reply.code) == ("refused", "GEM102")


def test_nobody_approves_in_a_stewards_name(talk: Talk) -> None:
    """NVFlare #4819, from inside: the node's own key and the coordinator's are no steward's."""
    talk.propose()
    for key in (talk.home.key, talk.federation.coordinator.key, SigningKey.generate()):
        with pytest.raises(GemelError, match="GEM401"):
            talk.decide(Decision.APPROVED, steward=STEWARD, key=key)
    assert str(talk.ask("count").status) == "refused"
    with pytest.raises(GemelError, match="GEM401"):
        talk.decide(Decision.APPROVED, steward="demo steward ", key=talk.federation.stewards[SITE])


@pytest.mark.parametrize("site", ["alpha ", "ALPHA\n", "alpha\u200b", "аlpha", "-alpha", ""])
def test_a_name_that_could_be_read_as_another_names_nobody(make_study: MakeStudy, site: str) -> None:
    """vantage6 CVE-2023-28635: integers as names, letters that look alike."""
    from gemel.core.study import parse_study

    study = make_study()
    sites = {**study.sites, site: "ab" * 32}
    with pytest.raises(GemelError, match="GEM101"):
        parse_study(msgspec.structs.replace(study, sites=sites).to_payload())


def test_a_request_to_join_is_signed_by_the_key_that_it_brings(
    tmp_path: Path, federation: Federation
) -> None:
    """NVFlare #5131: evidence that names its own subject. Whose key it is, is said on the phone."""
    from gemel.client_node.joining import write_join

    home = federation.nodes[SITE]
    write_join(home)
    document = read_signed((home.folder / "join.json").read_bytes())
    assert read_join(document.to_bytes()).node_public_key == home.key.public_hex
    for change in ({"site": "alpha"}, {"node_public_key": federation.nodes["alpha"].key.public_hex}):
        resigned = sign_document("join", {**document.payload, **change}, SigningKey.generate(), role="node")
        with pytest.raises(GemelError, match="GEM410"):
            read_join(resigned.to_bytes())
        changed = msgspec.structs.replace(document, payload={**document.payload, **change})
        with pytest.raises(GemelError, match="GEM10"):
            read_join(changed.to_bytes())


def test_a_kit_that_names_another_coordinators_key_is_no_kit() -> None:
    """NVFlare CVE-2022-31604, in another form: keys that come with a message are believed for its signature alone."""
    mine, theirs = SigningKey.generate(), SigningKey.generate()
    payload = {
        "schema": "gemel/start-kit/1",
        "federation": "x",
        "site": "alpha",
        "address": "example.org:8443",
        "ca_certificate": "",
        "coordinator_public_key": theirs.public_hex,
        "issued_at": "2026-01-01T00:00:00+00:00",
        "expires_at": "2026-02-01T00:00:00+00:00",
    }
    with pytest.raises(GemelError, match="GEM410"):
        read_kit(sign_document("start-kit", payload, mine, role="coordinator").to_bytes())


def test_a_certificate_is_no_better_than_its_signer(federation: Federation, tmp_path: Path) -> None:
    """NVFlare #4879 asks who signed; `gemel verify --signer` answers by key."""
    from typer.testing import CliRunner

    from gemel.cli.main import app

    payload = {"schema": CERTIFICATE, "status": "complete"}
    path = tmp_path / "certificate.json"
    path.write_bytes(
        sign_document("certificate", payload, SigningKey.generate(), role="coordinator").to_bytes()
    )
    wanted = federation.coordinator.key.public_hex
    result = CliRunner().invoke(app, ["verify", str(path), "--signer", wanted])
    assert result.exit_code != 0


def test_the_newest_decision_holds_whoever_brings_back_an_older_one(talk: Talk) -> None:
    """NVFlare #4422: replay, here of a decision."""
    talk.propose()
    talk.decide()
    approved = {p: p.read_bytes() for p in (talk.home.folder / "studies").rglob("*") if p.is_file()}
    talk.decide(Decision.REFUSED)
    assert talk.ask("count").code == "GEM401"
    for path, content in approved.items():
        path.write_bytes(content)
    assert str(talk.ask("count").status) == "refused", "an older approval was put back, and believed"


def test_a_key_that_the_study_lists_for_another_site_is_not_taken_here(
    federation: Federation, make_study: MakeStudy
) -> None:
    study = make_study()
    sites = dict(study.sites)
    sites[SITE], sites["alpha"] = sites["alpha"], sites[SITE]
    swapped = Talk(federation, msgspec.structs.replace(study, sites=sites))
    assert swapped.ask("hello").code == "GEM404"


def test_approvals_are_found_by_hash_alone(talk: Talk) -> None:
    """A study's id is for people: two studies may share it, and nothing is looked up by it."""
    talk.propose()
    talk.decide()
    with pytest.raises(GemelError, match="GEM401"):
        approvals.proposal_of(talk.home, "test")
    request = Request(study_sha256="test", task="count", inputs_sha256="")
    document = sign_request(request, talk.federation.coordinator.key)
    assert _refused(talk, document.to_bytes()) == "GEM103"
