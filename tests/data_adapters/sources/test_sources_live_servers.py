"""Bulk export, SMART and search against a server that does everything wrong that servers do."""

import email.utils
import gzip
import json
import os
import stat

import pytest
from fhir_stub import Reply, as_json, serving

from gemel.core.errors import GemelError
from gemel.data_adapters.sources.deletions import deletions
from gemel.data_adapters.sources.fetch import fetch
from gemel.data_adapters.sources.fetched import last_transaction_time
from gemel.data_adapters.sources.fhir_server import Patience, check_address
from gemel.data_adapters.sources.files import UNFINISHED_NAME, open_export, read_blocks
from gemel.data_adapters.sources.settings import SourceSettings, load_source
from gemel.data_adapters.sources.smart import load_keys

TIME = "2024-03-01T10:00:00.000Z"


class Clock:
    """Time that passes only when somebody waits."""

    def __init__(self):
        self.waits, self.at = [], 1_700_000_000.0

    def sleep(self, seconds):
        self.waits.append(seconds)
        self.at += seconds

    def now(self):
        return self.at

    def patience(self, **more):
        return Patience(sleep=self.sleep, now=self.now, **more)


@pytest.fixture
def stub():
    with serving() as stub:
        yield stub


@pytest.fixture
def clock():
    return Clock()


def ndjson(kind, n):
    return b"".join(
        json.dumps({"resourceType": kind, "id": f"{kind[0]}{i}"}).encode() + b"\n" for i in range(n)
    )


def offer(stub, files, *, polls=(), deleted=None, error=None, needs_token=False, **more):
    """A whole export: `files` maps a file's path to (type, count, reply)."""
    stub.routes["GET", "/$export"] = Reply(202, b"", {"Content-Location": f"{stub.url}/status"})

    def item(path, kind, count):
        return {"type": kind, "url": f"{stub.url}{path}"} | ({"count": count} if count is not None else {})

    manifest = {
        "transactionTime": TIME,
        "request": f"{stub.url}/$export",
        "requiresAccessToken": needs_token,
        "output": [item(path, kind, count) for path, (kind, count, _) in files.items()],
        "deleted": [item(path, "Bundle", None) for path in deleted or {}],
        "error": [item(path, "OperationOutcome", None) for path in error or {}],
    } | more
    stub.routes["GET", "/status"] = [*polls, as_json(manifest)]
    stub.routes["DELETE", "/status"] = Reply(202)
    for path, (_, _, reply) in files.items():
        stub.routes["GET", path] = reply
    for path, reply in {**(deleted or {}), **(error or {})}.items():
        stub.routes["GET", path] = reply
    return manifest


def two_files():
    return {
        "/f/1": ("Patient", 3, Reply(200, ndjson("Patient", 3))),
        "/f/2": ("Observation", 5, Reply(200, ndjson("Observation", 5))),
    }


def run(stub, folder, clock, said=None, **settings):
    source = SourceSettings(base_url=stub.url, **settings)
    return fetch(
        source, folder, say=(said if said is not None else []).append, patience=clock.patience(attempts=5)
    )


def ids(folder):
    return [
        json.loads(x)["id"] for file in open_export(folder) for b in read_blocks(file) for x in b.lines if x
    ]


def test_an_export_is_asked_for_polled_fetched_checked_and_freed(stub, tmp_path, clock):
    polls = [
        Reply(202, b"", {"X-Progress": "10 %", "Retry-After": "7"}),
        Reply(202, b"", {"X-Progress": "90 %"}),
    ]
    offer(stub, two_files(), polls=polls)
    said = []
    fetched = run(
        stub,
        tmp_path / "e",
        clock,
        said,
        types=("Patient", "Observation"),
        since="2024-01-01T00:00:00Z",
        type_filters=("Observation?category=laboratory",),
    )
    assert fetched.lines == {"Observation": 5, "Patient": 3}
    assert fetched.transaction_time == TIME
    assert (fetched.notes, fetched.problems) == ((), {})
    [kick] = stub.asked("/$export")
    assert kick.query == {
        "_type": ["Patient,Observation"],
        "_since": ["2024-01-01T00:00:00Z"],
        "_typeFilter": ["Observation?category=laboratory"],
    }
    assert kick.headers["prefer"] == "respond-async"
    assert kick.headers["accept"] == "application/fhir+json"
    assert clock.waits[0] == 7
    assert any("90 %" in text for text in said)
    assert sorted(ids(tmp_path / "e")) == ["O0", "O1", "O2", "O3", "O4", "P0", "P1", "P2"]
    assert sorted(p.name for p in (tmp_path / "e").iterdir()) == [
        "Observation.000.ndjson",
        "Patient.000.ndjson",
        "manifest.json",
    ]
    assert stub.log[-1].method == "DELETE"
    assert last_transaction_time(tmp_path / "e") == TIME
    manifest = json.loads((tmp_path / "e" / "manifest.json").read_text())
    assert next((f["file"], f["lines"], f["bytes"]) for f in manifest["output"]) == (
        "Patient.000.ndjson",
        3,
        len(ndjson("Patient", 3)),
    )
    with pytest.raises(GemelError, match="not empty"):
        run(stub, tmp_path / "e", clock)


@pytest.mark.parametrize(("level", "path"), [("Patient", "/Patient/$export"), ("Group", "/Group/g1/$export")])
def test_the_levels_of_an_export_have_their_addresses(level, path, stub, tmp_path, clock):
    offer(stub, two_files())
    stub.routes["GET", path] = stub.routes.pop(("GET", "/$export"))
    run(stub, tmp_path / "e", clock, level=level, group="g1" if level == "Group" else None)
    assert len(stub.asked(path)) == 1


def test_busy_and_failing_answers_are_waited_out_within_bounds(stub, tmp_path, clock):
    files = two_files()
    offer(
        stub,
        files,
        polls=[Reply(429, b"", {"Retry-After": "11"}), Reply(503), Reply(502), Reply(500), Reply(202)],
    )
    date = email.utils.formatdate(clock.at + 11 + 1 + 2 + 4 + 1 + 100 + 3, usegmt=True)
    stub.routes["GET", "/$export"] = [
        Reply(503, b"", {"Retry-After": "99999"}),
        Reply(429, b"", {"Retry-After": "soon"}),
        stub.routes["GET", "/$export"],
    ]
    stub.routes["GET", "/f/1"] = [Reply(503, b"", {"Retry-After": date}), Reply(504), files["/f/1"][2]]
    assert run(stub, tmp_path / "e", clock).lines == {"Observation": 5, "Patient": 3}
    assert clock.waits[0] == 300
    assert clock.waits[2] == 11
    assert max(clock.waits) == 300
    stub.routes["GET", "/$export"] = Reply(
        503,
        json.dumps(
            {"resourceType": "OperationOutcome", "issue": [{"code": "transient", "diagnostics": "no room"}]}
        ).encode(),
    )
    with pytest.raises(GemelError, match="transient no room") as caught:
        run(stub, tmp_path / "f", clock)
    assert caught.value.code == "GEM223"


def test_an_export_that_is_never_ready_ends(stub, tmp_path, clock):
    offer(stub, two_files(), polls=[Reply(202)])
    stub.routes["GET", "/status"] = Reply(202, b"", {"Retry-After": "120"})
    with pytest.raises(GemelError, match="not ready") as caught:
        run(stub, tmp_path / "e", clock)
    assert caught.value.code == "GEM223"
    assert len(clock.waits) == 86_400 // 120


def test_a_server_that_refuses_the_export_says_why(stub, tmp_path, clock):
    outcome = {
        "resourceType": "OperationOutcome",
        "issue": [{"severity": "error", "code": "not-supported", "diagnostics": "no _typeFilter"}],
    }
    stub.routes["GET", "/$export"] = as_json(outcome, 400)
    with pytest.raises(GemelError, match="not-supported no _typeFilter") as caught:
        run(stub, tmp_path / "e", clock)
    assert caught.value.code == "GEM225"
    stub.routes["GET", "/$export"] = Reply(403)
    with pytest.raises(GemelError) as caught:
        run(stub, tmp_path / "e", clock)
    assert caught.value.code == "GEM224"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b'{"transactionTime": 7}',
        b'{"transactionTime":"x","output":[{"url":"u","type":"../../x"}]}',
        b"\xff",
    ],
)
def test_a_malformed_manifest_is_refused(body, stub, tmp_path, clock):
    offer(stub, two_files())
    stub.routes["GET", "/status"] = Reply(200, body)
    with pytest.raises(GemelError) as caught:
        run(stub, tmp_path / "e", clock)
    assert caught.value.code == "GEM225"
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == [UNFINISHED_NAME]


def ranged(content, *, breaks, etag='"v1"', offer_ranges=True):
    """A file whose connection breaks at the given lengths, that can be continued."""
    breaks = list(breaks)

    def reply(asked):
        stop = breaks.pop(0) if breaks else None
        headers = {"ETag": etag} | ({"Accept-Ranges": "bytes"} if offer_ranges else {})
        start = asked.headers.get("range")
        if start and offer_ranges and asked.headers.get("if-range") == etag:
            at = int(start.removeprefix("bytes=").removesuffix("-"))
            headers["Content-Range"] = f"bytes {at}-{len(content) - 1}/{len(content)}"
            return Reply(206, content[at:], headers, stop_after=stop)
        return Reply(200, content, headers, stop_after=stop)

    return reply


def test_a_broken_download_is_continued_where_the_server_can(stub, tmp_path, clock):
    content = ndjson("Patient", 40_000)
    offer(stub, {"/f/1": ("Patient", 40_000, ranged(content, breaks=[700_001, 300_000]))})
    run(stub, tmp_path / "e", clock)
    assert (tmp_path / "e" / "Patient.000.ndjson").read_bytes() == content
    ranges = [a.headers.get("range") for a in stub.asked("/f/1")]
    assert ranges[0] is None
    assert all(ranges[1:])
    assert len(ranges) == 3


def test_a_broken_download_begins_again_where_the_server_cannot_continue(stub, tmp_path, clock):
    content = ndjson("Patient", 1000)
    offer(stub, {"/f/1": ("Patient", 1000, ranged(content, breaks=[5000, 9000], offer_ranges=False))})
    run(stub, tmp_path / "e", clock)
    assert (tmp_path / "e" / "Patient.000.ndjson").read_bytes() == content
    assert [a.headers.get("range") for a in stub.asked("/f/1")] == [None] * 3


def test_a_file_that_changed_at_the_server_is_not_joined_to_the_old_part(stub, tmp_path, clock):
    old, new = ndjson("Patient", 500), ndjson("Person", 500)
    first, second = ranged(old, breaks=[6000]), ranged(new, breaks=[], etag='"v2"')
    offer(stub, {"/f/1": ("Patient", 500, [first, second])})
    run(stub, tmp_path / "e", clock)
    assert (tmp_path / "e" / "Patient.000.ndjson").read_bytes() == new


def test_a_gzipped_transfer_is_stored_plain(stub, tmp_path, clock):
    content = ndjson("Patient", 500)
    packed = Reply(
        200, gzip.compress(content), {"Content-Encoding": "gzip", "Accept-Ranges": "bytes", "ETag": '"z"'}
    )
    broken = Reply(200, packed.body, packed.headers, stop_after=len(packed.body) // 2)
    offer(stub, {"/f/1": ("Patient", 500, [broken, packed])})
    run(stub, tmp_path / "e", clock)
    assert (tmp_path / "e" / "Patient.000.ndjson").read_bytes() == content
    assert all("range" not in a.headers for a in stub.asked("/f/1"))


@pytest.mark.parametrize("kind", ["too few lines", "cut last line"])
def test_a_file_that_is_not_complete_is_fetched_again_and_then_refused(kind, stub, tmp_path, clock):
    content = ndjson("Patient", 10)
    short = content[: content.rindex(b"{")] if kind == "too few lines" else content[:-5]
    files = {
        "/f/1": ("Patient", 10 if kind == "too few lines" else None, [Reply(200, short), Reply(200, content)])
    }
    offer(stub, files)
    fetched = run(stub, tmp_path / "e", clock)
    assert fetched.lines == {"Patient": 10}
    assert len(fetched.notes) == (kind == "cut last line")
    offer(stub, {"/f/1": (*files["/f/1"][:2], Reply(200, short))})
    with pytest.raises(GemelError) as caught:
        run(stub, tmp_path / "f", clock)
    assert caught.value.code == "GEM226"
    with pytest.raises(GemelError, match="not fetched to its end"):
        open_export(tmp_path / "f")


@pytest.mark.heavy
def test_two_thousand_tiny_files_are_fetched_over_few_connections(stub, tmp_path, clock):
    files = {
        f"/f/{i}": (
            "Observation",
            1,
            Reply(200, json.dumps({"resourceType": "Observation", "id": str(i)}).encode()),
        )
        for i in range(2000)
    }
    offer(stub, files)
    assert run(stub, tmp_path / "e", clock).lines == {"Observation": 2000}
    assert len(open_export(tmp_path / "e")) == 2000
    assert sorted(ids(tmp_path / "e"), key=int) == [str(i) for i in range(2000)]


def test_deleted_and_error_files_are_kept_apart_and_reported(stub, tmp_path, clock):
    delete = {
        "resourceType": "Bundle",
        "type": "transaction",
        "entry": [{"request": {"method": "DELETE", "url": "Patient/gone"}}],
    }
    outcomes = [
        {
            "resourceType": "OperationOutcome",
            "issue": [{"severity": "error", "code": "exception", "diagnostics": "Mrs. Smith"}],
        }
    ] * 2
    errors = {"/e/1": Reply(200, "\n".join(map(json.dumps, outcomes)).encode())}
    offer(stub, two_files(), deleted={"/d/1": as_json(delete)}, error=errors)
    fetched = run(stub, tmp_path / "e", clock)
    assert deletions(tmp_path / "e") == {("Patient", "gone")}
    assert fetched.problems == {"error exception": 2}
    assert "Smith" not in repr(fetched)
    assert len(ids(tmp_path / "e")) == 8


def test_an_expired_export_is_started_anew_once_and_files_do_not_mix(stub, tmp_path, clock):
    files = two_files()
    offer(stub, files)
    stub.routes["GET", "/f/2"] = [Reply(404), files["/f/2"][2]]
    stub.routes["GET", "/f/1"] = [files["/f/1"][2], Reply(200, ndjson("Person", 3))]
    said = []
    run(stub, tmp_path / "e", clock, said)
    assert len(stub.asked("/$export")) == 2
    assert any("new one is started" in text for text in said)
    assert sorted(ids(tmp_path / "e"))[-3:] == ["P0", "P1", "P2"]
    assert b"Person" in (tmp_path / "e" / "Patient.000.ndjson").read_bytes()
    stub.routes["GET", "/f/2"] = Reply(410)
    with pytest.raises(GemelError) as caught:
        run(stub, tmp_path / "f", clock)
    assert caught.value.code == "GEM229"


def test_pages_of_a_manifest_are_all_read(stub, tmp_path, clock):
    files = two_files()
    manifest = offer(stub, files)
    more = manifest | {"output": manifest["output"][1:], "link": []}
    manifest |= {"output": manifest["output"][:1], "link": [{"relation": "next", "url": f"{stub.url}/page2"}]}
    stub.routes["GET", "/status"], stub.routes["GET", "/page2"] = as_json(manifest), as_json(more)
    assert run(stub, tmp_path / "e", clock).lines == {"Observation": 5, "Patient": 3}
    stub.routes["GET", "/page2"] = as_json(manifest)
    with pytest.raises(GemelError, match="no end"):
        run(stub, tmp_path / "f", clock)


class Killed(BaseException):
    """Like a SIGKILL: nothing may catch it."""


def test_a_killed_export_goes_on_where_it_was(stub, tmp_path, clock):
    files = two_files()
    offer(stub, files, polls=[Reply(202)])
    folder = tmp_path / "e"
    source = SourceSettings(base_url=stub.url)

    def killed(_):
        raise Killed

    with pytest.raises(Killed):
        fetch(source, folder, patience=Patience(sleep=killed))
    assert (folder / UNFINISHED_NAME).exists()
    with pytest.raises(GemelError, match="another export"):
        fetch(SourceSettings(base_url=stub.url, types=("Patient",)), folder, patience=clock.patience())
    stub.routes["GET", "/f/2"] = [Reply(503), files["/f/2"][2]]
    with pytest.raises(Killed):
        fetch(source, folder, patience=Patience(sleep=killed))
    assert (folder / "Patient.000.ndjson").exists()
    assert fetch(source, folder, patience=clock.patience()).lines == {"Observation": 5, "Patient": 3}
    assert len(stub.asked("/$export")) == len(stub.asked("/f/1")) == 1
    assert not (folder / UNFINISHED_NAME).exists()


# --- tokens -----------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def keys(tmp_path_factory):
    """A JWKS of two keys, and each public half by its kid."""
    from cryptography.hazmat.primitives.asymmetric import ec, rsa
    from jwt.algorithms import ECAlgorithm, RSAAlgorithm

    folder = tmp_path_factory.mktemp("keys")
    private = [
        rsa.generate_private_key(public_exponent=65537, key_size=2048),
        ec.generate_private_key(ec.SECP384R1()),
    ]
    kinds = [RSAAlgorithm, ECAlgorithm]
    jwks = [
        kind.to_jwk(key, as_dict=True) | {"kid": f"k{i}"}
        for i, (kind, key) in enumerate(zip(kinds, private, strict=True))
    ]
    (folder / "jwks.json").write_text(json.dumps({"keys": jwks}))
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
        PublicFormat,
    )

    for i, key in enumerate(private):
        (folder / f"k{i}.pem").write_bytes(
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        )
        (folder / f"k{i}.pub").write_bytes(
            key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        )
    return folder, {f"k{i}": key.public_key() for i, key in enumerate(private)}


class TokenServer:
    """Gives tokens for good assertions; each is good for so many requests."""

    def __init__(self, stub, public, clock, *, known=("k0", "k1"), uses=10**6, life=300):
        import jwt

        self.given, self.jtis, self.algorithms, self.scopes, self.uses = [], set(), [], [], uses
        left = {}
        stub.routes["GET", "/.well-known/smart-configuration"] = as_json(
            {"token_endpoint": f"{stub.url}/token"}
        )

        def token(asked):
            from urllib.parse import parse_qs

            form = {k: v[0] for k, v in parse_qs(asked.body.decode()).items()}
            head = jwt.get_unverified_header(form["client_assertion"])
            if head["kid"] not in known:
                return as_json({"error": "invalid_client"}, 401)
            # Our clock stands still in 2023; the library's does not.
            claims = jwt.decode(
                form["client_assertion"],
                public[head["kid"]],
                algorithms=["RS384", "ES384"],
                audience=f"{stub.url}/token",
                options={"verify_exp": False, "verify_iat": False},
            )
            assert claims["iss"] == claims["sub"] == "node-a"
            assert 0 < claims["exp"] - clock.now() <= 300
            assert claims["jti"] not in self.jtis
            assert form["client_assertion_type"] == "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
            self.jtis.add(claims["jti"])
            self.algorithms.append(head["alg"])
            self.scopes.append(form["scope"])
            self.given.append(f"secret-token-{len(self.given)}")
            left[f"Bearer {self.given[-1]}"] = [uses, clock.now() + life]
            return as_json({"access_token": self.given[-1], "token_type": "bearer", "expires_in": life})

        stub.routes["POST", "/token"] = token
        inner = stub.answer

        def answer(asked):
            if asked.path in ("/token", "/.well-known/smart-configuration"):
                return inner(asked)
            allowance = left.get(asked.headers.get("authorization", ""))
            if allowance is None or allowance[0] <= 0 or clock.now() > allowance[1]:
                stub.log.append(asked)
                return Reply(401)
            allowance[0] -= 1
            return inner(asked)

        stub.answer = answer


def test_a_token_is_earned_renewed_midway_and_never_written(stub, tmp_path, clock, keys, capsys):
    folder, public = keys
    tokens = TokenServer(stub, public, clock, uses=2)
    offer(stub, two_files(), polls=[Reply(202, b"", {"Retry-After": "280"})] * 3, needs_token=True)
    said = []
    fetched = run(stub, tmp_path / "e", clock, said, client_id="node-a", key_file=str(folder / "jwks.json"))
    assert fetched.lines == {"Observation": 5, "Patient": 3}
    assert len(tokens.given) >= 4
    assert set(tokens.algorithms) == {"RS384"}
    assert tokens.scopes[0] == "system/*.read"
    everything = b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
    everything += (repr(said) + "".join(capsys.readouterr())).encode()
    assert b"secret-token" not in everything
    assert b"eyJ" not in everything
    assert stat.S_IMODE((tmp_path / "e" / "Patient.000.ndjson").stat().st_mode) == 0o600


def test_the_next_key_is_tried_and_named_when_the_first_is_not_known(stub, tmp_path, clock, keys):
    folder, public = keys
    tokens = TokenServer(stub, public, clock, known=("k1",), uses=3)
    offer(stub, two_files(), needs_token=True)
    said = []
    run(stub, tmp_path / "e", clock, said, client_id="node-a", key_file=str(folder / "jwks.json"))
    assert set(tokens.algorithms) == {"ES384"}
    assert [text for text in said if "k1" in text] == said[:1]
    TokenServer(stub, public, clock, known=())
    with pytest.raises(GemelError, match="invalid_client") as caught:
        run(stub, tmp_path / "f", clock, client_id="node-a", key_file=str(folder / "jwks.json"))
    assert caught.value.code == "GEM224"


@pytest.mark.parametrize(("name", "algorithm"), [("k0", "RS384"), ("k1", "ES384")])
def test_pem_keys_sign_and_others_are_refused(name, algorithm, keys, tmp_path):
    folder, _ = keys
    [key] = load_keys(folder / f"{name}.pem", key_id="mine")
    assert (key.algorithm, key.key_id) == (algorithm, "mine")
    assert "PrivateKey" not in repr(key)
    [first, second] = load_keys(folder / "jwks.json", key_id=name)
    assert (first.key_id, first.algorithm) == (name, algorithm)
    assert second.key_id != name
    jwks = json.loads((folder / "jwks.json").read_text())["keys"]
    public = [{k: v for k, v in key.items() if k not in ("d", "p", "q", "dp", "dq", "qi")} for key in jwks]
    bad = {
        "pub": (folder / f"{name}.pub").read_bytes(),
        "public": json.dumps({"keys": public}).encode(),
        "text": b"hello",
        "no json": b"{",
    }
    for content in bad.values():
        (tmp_path / "bad").write_bytes(content)
        with pytest.raises(GemelError) as caught:
            load_keys(tmp_path / "bad")
        assert caught.value.code == "GEM228"
    with pytest.raises(GemelError, match="no usable private key named k9"):
        load_keys(folder / "jwks.json", key_id="k9")


def test_a_curve_other_than_p384_is_refused(tmp_path):
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "k.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(GemelError) as caught:
        load_keys(tmp_path / "k.pem")
    assert caught.value.code == "GEM228"


@pytest.mark.parametrize(
    "where", ["status", "manifest file", "redirect of a file", "redirect of the kick-off"]
)
def test_no_token_goes_to_another_server(where, stub, tmp_path, clock, keys):
    folder, public = keys
    with serving() as foreign:
        foreign.routes["GET", "/f"] = Reply(200, ndjson("Patient", 3))
        TokenServer(stub, public, clock)
        manifest = offer(stub, two_files(), needs_token=True)
        if where == "status":
            stub.routes["GET", "/$export"] = Reply(202, b"", {"Content-Location": f"{foreign.url}/status"})
        elif where == "manifest file":
            manifest["output"][0]["url"] = f"{foreign.url}/f"
            stub.routes["GET", "/status"] = as_json(manifest)
        else:
            path = "/f/1" if where == "redirect of a file" else "/$export"
            stub.routes["GET", path] = Reply(302, b"", {"Location": f"{foreign.url}/f"})
        with pytest.raises(GemelError) as caught:
            run(stub, tmp_path / "e", clock, client_id="node-a", key_file=str(folder / "jwks.json"))
        assert caught.value.code == "GEM227"
        assert foreign.log == []
        # Files that need no token may lie elsewhere, and are fetched without one.
        manifest = offer(stub, {"/f/1": ("Patient", 3, Reply(307, b"", {"Location": f"{foreign.url}/f"}))})
        manifest["output"].append({"type": "Patient", "url": f"{foreign.url}/f?sig=1", "count": 3})
        stub.routes["GET", "/status"] = as_json(manifest)
        stub.routes["GET", "/f/1"] = Reply(307, b"", {"Location": f"{foreign.url}/f"})
        del stub.answer
        TokenServer(stub, public, clock)
        inner = stub.answer
        stub.answer = lambda asked: type(stub).answer(stub, asked) if asked.path == "/f/1" else inner(asked)
        run(stub, tmp_path / "g", clock, client_id="node-a", key_file=str(folder / "jwks.json"))
        assert len(foreign.log) == 2
        assert all("authorization" not in asked.headers for asked in foreign.log)
        assert "sig=1" not in (tmp_path / "g" / "manifest.json").read_text()


@pytest.mark.parametrize(
    "url",
    [
        "http://hospital.example/fhir",
        "ftp://localhost/x",
        "https://",
        "https://u:p@h.example/",
        "file:///etc/passwd",
        "http://127.0.0.1.example/",
        "http://[::1",
        "https://h:99999/",
    ],
)
def test_unsafe_addresses_are_refused(url):
    with pytest.raises(GemelError) as caught:
        check_address(url)
    assert caught.value.code == "GEM227"


def test_plain_http_is_for_this_machine_or_when_told():
    for url in ("http://127.0.0.1:8/x", "http://localhost/", "http://[::1]:9/", "https://h.example/fhir"):
        assert check_address(url) == url
    assert check_address("http://h.example/", allow_http=True)


def test_a_certificate_that_does_not_verify_is_refused_at_once(tmp_path, clock):
    import ssl
    import threading
    from http.server import BaseHTTPRequestHandler, HTTPServer

    certificate = _self_signed(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.handle_error = lambda *_: None
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        with pytest.raises(GemelError, match="CERTIFICATE_VERIFY_FAILED") as caught:
            fetch(
                SourceSettings(base_url=f"https://127.0.0.1:{server.server_address[1]}"),
                tmp_path / "e",
                patience=clock.patience(),
            )
        assert caught.value.code == "GEM223"
        assert clock.waits == []
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _self_signed(folder):
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(1).not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    path = folder / "c.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return path


def test_a_server_that_is_not_there_is_said_after_a_few_attempts(tmp_path, clock):
    with serving() as gone:
        url = gone.url
    with pytest.raises(GemelError) as caught:
        fetch(SourceSettings(base_url=url), tmp_path / "e", patience=clock.patience(attempts=3))
    assert caught.value.code == "GEM223"
    assert clock.waits == [1, 2, 4]


def test_a_full_disk_is_said(stub, tmp_path, clock, monkeypatch):
    offer(stub, two_files())
    real = os.fsync

    def full(descriptor):
        if "Observation" in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(GemelError, match="No space left") as caught:
        run(stub, tmp_path / "e", clock)
    assert caught.value.code == "GEM226"
    monkeypatch.setattr(os, "fsync", real)
    assert run(stub, tmp_path / "e", clock).lines == {"Observation": 5, "Patient": 3}


# --- search -----------------------------------------------------------------------------------------


def pages(stub, kind, sizes, *, last=None, **more):
    """Pages of a search, linked."""
    number = 0
    for page, size in enumerate(sizes):
        entries = [
            {"resource": {"resourceType": kind, "id": f"{kind[0]}{number + i}"}, "search": {"mode": "match"}}
            for i in range(size)
        ]
        number += size
        here = f"/{kind}" if page == 0 else f"/{kind}/page{page}"
        following = f"{stub.url}/{kind}/page{page + 1}" if page + 1 < len(sizes) else last
        links = [{"relation": "self", "url": here}] + (
            [{"relation": "next", "url": following}] if following else []
        )
        body = (
            {"resourceType": "Bundle", "type": "searchset", "link": links, "entry": entries}
            | ({"total": sum(sizes)} if page == 0 else {})
            | more
        )
        stub.routes["GET", here] = as_json(body, Date="Fri, 01 Mar 2024 10:00:00 GMT")


def test_searches_are_read_page_by_page_into_an_export(stub, tmp_path, clock):
    pages(stub, "Patient", [3, 3, 1])
    pages(stub, "Observation", [2])
    fetched = run(
        stub,
        tmp_path / "e",
        clock,
        way="search",
        searches=("Patient", "Observation?code=1-1&_include=x"),
        since="2024-01-01T00:00:00Z",
        page_size=3,
    )
    assert fetched.lines == {"Observation": 2, "Patient": 7}
    assert ids(tmp_path / "e") == ["O0", "O1", *[f"P{i}" for i in range(7)]]
    assert stub.asked("/Patient")[0].query == {"_count": ["3"], "_lastUpdated": ["ge2024-01-01T00:00:00Z"]}
    assert stub.asked("/Observation")[0].query["code"] == ["1-1"]
    assert last_transaction_time(tmp_path / "e").endswith("Z")
    pages(stub, "Patient", [2], total=9)
    assert (
        "said 9 at first and gave 2"
        in run(stub, tmp_path / "f", clock, way="search", types=("Patient",)).notes[0]
    )


def test_a_search_that_leads_elsewhere_or_nowhere_is_refused(stub, tmp_path, clock):
    cases = {
        "elsewhere": (f"{stub.url.replace('127.0.0.1', 'localhost')}/x", "GEM227"),
        "circle": (f"{stub.url}/Patient/page1", "GEM225"),
        "no page": (f"{stub.url}/nowhere", "GEM225"),
    }
    for name, (last, code) in cases.items():
        pages(stub, "Patient", [1, 1], last=last)
        with pytest.raises(GemelError) as caught:
            run(stub, tmp_path / name, clock, way="search", types=("Patient",))
        assert caught.value.code == code, name
        with pytest.raises(GemelError):
            open_export(tmp_path / name)
    pages(stub, "Patient", [1, 1])
    assert run(stub, tmp_path / "circle", clock, way="search", types=("Patient",)).lines == {"Patient": 2}


def test_an_outcome_among_the_matches_stops_the_search(stub, tmp_path, clock):
    outcome = {
        "resource": {"resourceType": "OperationOutcome", "issue": [{"severity": "error", "code": "invalid"}]},
        "search": {"mode": "outcome"},
    }
    pages(stub, "Patient", [1], entry=[outcome])
    with pytest.raises(GemelError, match="invalid"):
        run(stub, tmp_path / "e", clock, way="search", types=("Patient",))


# --- settings ---------------------------------------------------------------------------------------


def test_settings_come_from_toml_with_files_beside_it(tmp_path):
    (tmp_path / "s.toml").write_text(
        'base_url = "https://h.example/fhir"\nclient_id = "a"\nkey_file = "k.pem"\ntypes = ["Patient"]\n'
    )
    source = load_source(tmp_path / "s.toml")
    assert source.key_file == str(tmp_path / "k.pem")
    assert source.types == ("Patient",)
    wrong = [
        "x = 1",
        'base_url = "u"\nways = "bulk"',
        'base_url = "u"\nclient_id = "a"',
        'base_url = "u"\nlevel = "Group"',
        'base_url = "u"\ntypes = ["../x"]',
        'base_url = "u"\nsince = "yesterday"',
        'base_url = "u"\nway = "ftp"',
        "=",
        'base_url = "u"\nsearches = ["$export"]',
        'base_url = "u"\nlevel = "Group"\ngroup = "../x"',
    ]
    for text in wrong:
        (tmp_path / "s.toml").write_text(text)
        with pytest.raises(GemelError) as caught:
            load_source(tmp_path / "s.toml")
        assert caught.value.code == "GEM228", text
